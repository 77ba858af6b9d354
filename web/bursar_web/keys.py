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

SORTED: Final = (
    "/nodes",
    "/budgets",
    "/cost",
    "/experiments/{experiment:path}",
    "/models/{model:path}",
    "/services",
    "/policies",
    "/prices",
)
"""Pages whose rows are sorted by a head of their table. As CSV those of every page are."""
LIVE: Final = ("/", "/jobs", "/nodes")
"""Pages that come anew by themselves."""
VALUES: Final = {"live": ("0",), "idle": ("0", "1")}
"""Of keys that are switches, what they may be."""
SHOWN: Final = {"/budgets": ("forecast",), "/queue": ("scheduler",)}
"""By page, what `show` may be where its page does not say."""
REPEATED: Final = ("label",)
"""All of several must hold."""
_OF_COST: Final = (
    "by",
    "period",
    "since",
    "until",
    "timezone",
    "job",
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
    "/queue": ("show",),
    "/nodes": ("pool", "days"),
    "/nodes/{node}": (),
    "/budgets": ("show",),
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
    "/sessions": (),
    "/policies": ("kind",),
    "/policies/{kind}/{name}": (),
    "/prices": PRICE_FILTERS,
}
"""By the address of the page."""


def of_page(path: str, file: str = "") -> tuple[str, ...]:
    """All keys of the page at this address: what it shows, and how. file: what it is asked for as."""
    sort_by = (SORT_BY,) if path in SORTED or file == "csv" else ()
    return (*KEYS[path], *sort_by, *(("live",) if path in LIVE else ()))


def _words(path: str, name: str) -> tuple[str, ...]:
    """What a switch of this page may be; empty: it is none."""
    return SHOWN.get(path, ()) if name == "show" else VALUES.get(name, ())


def check(path: str, query: QueryParams, file: str = "") -> None:
    """Raises `InvalidRequest` for a key that the page at this address does not have, or has twice, and for a
    switch that stands at what is none of its words.
    """
    known = of_page(path, file)
    for name in query:
        if name not in known:
            there = nearest(name, list(known)) if known else "it has none: take what is behind the `?` away"
            raise InvalidRequest(f"this page has no {name[:40]!r}; {there}")
        if name not in REPEATED and len(query.getlist(name)) > 1:
            raise InvalidRequest(f"{name}: stands twice in the address; once, please")
        words = _words(path, name)
        if query[name] and words and query[name] not in words:
            told = " or ".join(words)
            raise InvalidRequest(f"{name}: {query[name][:40]!r} is not {told}; leave it out, or write that")
