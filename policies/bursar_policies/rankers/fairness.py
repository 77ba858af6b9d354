"""Fair share: how far each project is below its share of the money that was spent.

Why     dollars count what CPUs, GPUs and memory are worth in one number, so one project's H100 hours can be
        held against another's CPU hours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bursar.projects import is_within
from bursar.resources import MILLI
from bursar_policies.rankers.api import ONE


def standings(
    projects: Sequence[str], spent: Mapping[str, int], shares: Sequence[tuple[str, int]]
) -> list[int]:
    """Of each project: share / (share + spent), both as parts of all shares and of all that was spent.

    Shares are held by *tenants*: the projects that `shares` names, with what is below them, and every
    top-level project besides. Only tenants that wait or have spent have a share.

    Args:
        spent: nanos by project. shares: thousandths by project; one whole share for others.

    Returns:
        One for each of `projects`, 0 to `ONE`: half of it at its share, all of it when nothing was spent.
    """
    named = sorted(shares, key=lambda share: -len(share[0]))
    known = dict(shares)
    tenant_of: dict[str, str] = {}
    for project in {*projects, *spent}:
        inside = (name for name, _ in named if is_within(project, name))
        tenant_of[project] = next(inside, project.lower().partition("/")[0])
    used = dict.fromkeys(tenant_of.values(), 0)
    for project, nanos in spent.items():
        used[tenant_of[project]] += max(nanos, 0)
    all_shares = sum(known.get(tenant, MILLI) for tenant in used)
    all_used = max(sum(used.values()), 1)
    found = {}
    for tenant, nanos in used.items():
        # Both as parts of the product of both wholes, so that nothing is rounded before the end.
        share, part = known.get(tenant, MILLI) * all_used, nanos * all_shares
        found[tenant] = ONE * share // (share + part)
    return [found[tenant_of[project]] for project in projects]
