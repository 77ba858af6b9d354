"""Templates, and the forms in which they show money, time and text.

Why     whatever comes from users is hostile: all of it is escaped as HTML, and its control and direction
        characters are shown as such. A name that is missing in a template is a fault, not an empty place.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import HTMLResponse

from bursar.cli.ends import LIVE
from bursar.cli.happenings import sentence
from bursar.cli.terminal import clean, money_text, rate_text, seconds_text, size_text, time_text
from bursar.clock import format_instant
from bursar.pictures import Picture, svg

HERE = Path(__file__).parent


def _final(value: Any) -> Any:
    """Every text on its way into a page."""
    return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def money(view: dict[str, str] | None) -> Markup | str:
    """An amount with all its digits for programs and for whoever points at it."""
    if view is None:
        return "unknown"
    text = money_text(view)
    return Markup('<data value="{0}" title="{0} {1}">{2}</data>').format(
        view["amount"], view["currency"], text
    )


def price_now(job: dict[str, Any]) -> str:
    """What a job costs per hour; `-` of one that does not run, which has no price yet or none any more."""
    price = job["rate_per_hour"]
    runs = job["state"] in LIVE or (job["array"] and any(map(job["array"]["counts"].get, LIVE)))
    return rate_text(price) if runs or price is not None else "-"


def lines(text: str) -> Markup:
    """Text of several lines, each of them made harmless."""
    return Markup("\n").join(clean(line) for line in text.replace("\r\n", "\n").split("\n"))


def raw(text: str) -> Markup:
    """Text that a form sends back as it is: made harmless for HTML, and otherwise untouched."""
    return escape(text)


def drawn(picture: Picture) -> Markup:
    """A picture as SVG; its texts are made harmless."""
    return Markup(svg(picture, clean))


def command_line(*words: str, **flags: object) -> str:
    """What prints the same in a terminal; its words are quoted, since people paste it and links make it."""
    parts = ["bursar", *words]
    for name, value in flags.items():
        if value:
            parts += [f"--{name.replace('_', '-')}", *(() if value is True else (str(value),))]
    return shlex.join(parts)


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_final,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "money": money,
        "rate": rate_text,
        "price_now": price_now,
        "time": time_text,
        "span": seconds_text,
        "size": size_text,
        "lines": lines,
        "raw": raw,
        "drawn": drawn,
        "sentence": sentence,
    }
    return made


ENVIRONMENT = _environment()


def page(
    request: Request, template: str, *, status: int = 200, command: str = "", **context: Any
) -> HTMLResponse:
    """A page. `command`: what prints the same in a terminal."""
    text = ENVIRONMENT.get_template(template).render(
        request=request,
        session=request.scope.get("session"),
        query=request.query_params,
        path=request.url.path,
        command=command,
        at=time_text(format_instant(request.app.state.clock.now())),
        **context,
    )
    return HTMLResponse(text, status)
