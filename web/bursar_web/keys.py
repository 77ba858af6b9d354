"""What may stand in the query of each page, and the refusal of anything else.

Why     a filter that is misspelt would be passed over in silence, and the page show the money of everybody.
"""

from __future__ import annotations

from typing import Final

from starlette.datastructures import QueryParams

from bursar.cli.groups import nearest
from bursar.errors import InvalidRequest
from bursar_web.pages.jobs import FILTERS
from bursar_web.pages.policies import PRICE_FILTERS
from bursar_web.tables import SORT_BY

COMMON: Final = (SORT_BY, "live")
"""How a page is shown, not what."""
REPEATED: Final = ("label",)
"""All of several must hold."""
_OF_COST: Final = (
    "by",
    "period",
    "since",
    "until",
    "timezone",
    "project",
    "user",
    "experiment",
    "model",
    "compare",
    "idle",
    "depth",
    "top",
)
KEYS: Final[dict[str, tuple[str, ...]]] = {
    "/": (),
    "/jobs": ("state", *FILTERS, "label", "since", "tasks", "page"),
    "/jobs/{job}": (),
    "/jobs/{job}/profile": ("attempt",),
    "/jobs/{job}/log": ("rank",),
    "/queue": (),
    "/nodes": ("pool",),
    "/nodes/{node}": (),
    "/budgets": (),
    "/budgets/{budget}": (),
    "/cost": _OF_COST,
    "/events": ("job", "node", "kind"),
    "/waste": ("period", "project", "timezone"),
    "/statements/{period}": ("project", "by"),
    "/experiments/{experiment:path}": ("period",),
    "/models/{model:path}": ("period",),
    "/services": ("project",),
    "/services/{service}": (),
    "/admin": ("show",),
    "/policies": ("kind",),
    "/policies/{kind}/{name}": (),
    "/prices": PRICE_FILTERS,
}
"""By the address of the page."""


def check(path: str, query: QueryParams) -> None:
    """Raises `InvalidRequest` for a key that the page at this address does not have, or has twice."""
    known = [*KEYS[path], *COMMON]
    for name in query:
        if name not in known:
            raise InvalidRequest(f"this page has no {name[:40]!r}; {nearest(name, known)}")
        if name not in REPEATED and len(query.getlist(name)) > 1:
            raise InvalidRequest(f"{name}: stands twice in the address; once, please")
