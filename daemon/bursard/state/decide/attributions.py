"""Whether a table of teams and cost centres may be applied.

Why     two tables would say different things of one project, and one that reaches back without a word of why
        would change what people were told.
"""

from __future__ import annotations

from collections.abc import Sequence

from bursar.clock import HOUR_US, Instant, format_instant
from bursar.errors import InvalidRequest
from bursar_policies.specs import AttributionSpec, Document
from bursard.state.core import State

KIND = "Attribution"


def check_one_table(state: State, documents: Sequence[Document]) -> None:
    """Raise `InvalidRequest` where two would be in force."""
    known = [name for kind, name in state.policies if kind == KIND]
    for one in documents:
        if isinstance(one.spec, AttributionSpec):
            if others := [name for name in known if name != one.name]:
                raise InvalidRequest(
                    f"{one.source}:{one.line}: Attribution {one.name}: a site has one table of teams and cost"
                    f" centres, and {others[0]} is in force; change that one, or remove it first"
                    f" (`bursar policy rm {KIND}/{others[0]}`)"
                )
            known.append(one.name)


def check_since(document: Document, spec: AttributionSpec, where: str, now: int) -> None:
    """A table may hold from an hour on that has passed, with a reason. Raises `InvalidRequest`."""
    at = document.effective_at
    if at is None:
        return
    if at % HOUR_US:
        full = format_instant(Instant(at - at % HOUR_US))
        raise InvalidRequest(
            f"{where}: effective_at {format_instant(at)} is within an hour, and hours are what is charged;"
            f" did you mean {full}?"
        )
    if at < now - now % HOUR_US and not spec.reason:
        raise InvalidRequest(
            f"{where}: effective_at {format_instant(at)} has passed, so it tells what was used since then"
            " anew; say why: `reason` of its spec"
        )
