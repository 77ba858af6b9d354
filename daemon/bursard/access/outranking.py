"""How high a priority a caller may ask for, in a project.

Owns    the bound by role, and the refusal with its remedy.
Why     priority goes before everybody else's jobs, and may have them stopped: whoever could ask for 100 would
        take from others for free. So it is given, by roles and by a PriorityPolicy, and not taken.
"""

from __future__ import annotations

from bursar.errors import Forbidden
from bursar.projects import is_within
from bursar_policies.specs import PriorityPolicySpec
from bursard.access.authorize import Action, allowed
from bursard.access.identity import Identity, caller

_NO_RULES = PriorityPolicySpec()
_ANY = 100


def refuse_outranking(rules: PriorityPolicySpec | None, project: str, asked: int, had: int = -1) -> None:
    """Whoever calls may ask for that priority in that project, or keeps what a job of it has.

    Args:
        rules: in force.
        had: what the job has there already; -1: it is new there.

    Raises:
        Forbidden: with the highest that the caller may ask for, and who may more.
    """
    if asked <= had:
        return
    identity, rules = caller(), rules or _NO_RULES
    most = _most(identity, rules, project)
    if asked <= most:
        return
    helper = "an operator" if most >= rules.admin_asked_max else "a project-admin or an operator"
    raise Forbidden(
        f"priority: {asked} is more than the {most} that {identity.name} ({identity.describe()}) may ask for"
        f" in project {project}; ask for {most} or less (--priority, or `priority` in the file), or have"
        f" {helper} set it (`bursar update JOB --priority N`); `max_priority` of a PriorityPolicy says what"
        " submitters may ask for",
        {"field": "priority", "asked": str(asked), "most": str(most), "user": identity.name},
    )


def _most(identity: Identity, rules: PriorityPolicySpec, project: str) -> int:
    if allowed(identity, Action.OUTRANK_SITE, project):
        return _ANY
    within = [(len(root), most) for root, most in rules.asked_in if is_within(project, root)]
    found = max(within)[1] if within else rules.asked_max
    if allowed(identity, Action.OUTRANK_PROJECT, project):
        return max(found, rules.admin_asked_max)
    return found
