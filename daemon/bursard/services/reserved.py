"""Reservations as a caller may see them: others learn when which nodes are reserved, not for whom or why.

Why     a reservation closes nodes to everybody, so everybody is told of it; the projects and users that it
        names, and its reason, may be of a project that one may not see.
"""

from __future__ import annotations

import re
from typing import Final

from msgspec.structs import replace

from bursar_policies.specs import ReservationSpec
from bursard.access.authorize import Action, allowed
from bursard.access.identity import Identity
from bursard.scheduler.window_reasons import FOR_OTHERS
from bursard.state import State

_RESERVED: Final = re.compile(rf"reserved by (\S+) {FOR_OTHERS}")


def public(spec: ReservationSpec, seen_by: Identity) -> ReservationSpec:
    """Without the projects that `seen_by` may not see, users other than itself, and a reason that may name
    them. It is whole for a role over the site, for maintenance, and for who may see all of its projects.
    """
    if spec.maintenance or allowed(seen_by, Action.SEE_JOBS):
        return spec
    projects = tuple(one for one in spec.projects if allowed(seen_by, Action.SEE_JOBS, one))
    if projects and projects == spec.projects:
        return spec
    return replace(
        spec,
        projects=projects,
        users=tuple(one for one in spec.users if one == seen_by.name),
        where=(),
        reason="",
    )


def named(text: str, state: State, seen_by: Identity) -> str:
    """Words of the scheduler about reserved nodes, which name nobody, with whom they are for where `seen_by`
    may see that.
    """

    def whose(found: re.Match[str]) -> str:
        spec = state.reservations.specs.get(found[1])
        shown = public(spec, seen_by) if spec is not None else None
        if shown is None or shown.maintenance:
            return found[0]
        return f"reserved by {found[1]} for {shown.whose}" + ("" if shown == spec else " and others")

    return _RESERVED.sub(whose, text)
