"""What the web pages show of a cluster with something of everything: each page, filter, verb and file.

Why     a page is a hundred small choices (a column, a link, a flag of the command it names) that tests do not
        name one by one. What people see stands in tests/golden/pages.txt; a change of it is one that a review
        sees. Written anew by `BURSAR_GOLDEN=write pytest -n0 tests/access/test_pages_as_they_are.py`.
"""

from __future__ import annotations

import asyncio
import hashlib
import html
import os
import re
import tempfile
from html.parser import HTMLParser
from pathlib import Path

from browser import Answer, Browser
from inhabited import POLICIES, inhabit
from whole_site import Site

from bursar.v1 import money_pb2
from bursar_web.printing import Printer

GOLDEN = Path(__file__).parents[1] / "golden/pages.txt"
ASKED = Path(__file__).parents[1] / "fixtures/pages.txt"
"""The address of a page on each line, in their order."""
UNTOLD = ("rel", "nonce", "content", "charset", "xmlns")
"""Attributes that no reader sees, follows or sends."""
WHOLE = ("/login?next=/jobs", "/jobs")
"""Those of which what all have in common is told as well."""
FILE_CHARS = 400
VARYING = re.compile(
    r"secret-\d+|(?<=expires=)[^;]*|\b\d+d(\d\dh)?\b|\d+(?= GB are free)"
    r'|commits? \|[^\n]*|commits?,[^\n]*|commits?",\s+"value": "[^"]*"'
)
"""Words of a session, this machine's disk and how fast it is, and ages, which count from its own now."""
LINK = re.compile(r' href="(/[^"#]+)')
HEADERS = ("location", "content-type", "content-disposition", "cache-control", "set-cookie")
VIEWER = (
    "/ /jobs /jobs/done /jobs/running/cancel /nodes/g1 /budgets /cost /events /waste /policies /prices /admin"
)
DONE = [
    ("/jobs/held/release", ""), ("/jobs/later/hold", ""), ("/jobs/running/requeue", ""),
    ("/jobs/half/cancel", ""),
    ("/jobs/done/cancel", ""), ("/nodes/g1/cordon", "fan"), ("/nodes/g1/resume", ""),
    ("/nodes/g2/drain", "disk"), ("/nodes/none/drain", ""),
]  # fmt: skip
"""Verbs that are sent, with a reason."""
AFTER = "/jobs/held /jobs/later /jobs/running /jobs/half /nodes /nodes/g1 /nodes/g2 /"


class Shown(HTMLParser):
    """What a page says between its head and its foot: a row on a line, with what its links and fields say."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._parts: list[str] = []
        self._rows = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._rows += tag == "tr"
        told = [f"{name}={value}" if value else name for name, value in attrs if name not in UNTOLD]
        if told and tag not in ("link", "meta", "script"):
            self._parts.append(f"<{' '.join((tag, *told))}>")

    def handle_endtag(self, tag: str) -> None:
        self._rows -= tag == "tr"
        if self._rows and tag in ("td", "th"):
            self._parts.append(" |")
        elif tag in ("tr", "h1", "h2", "p", "div", "li", "caption"):
            self._parts.append("\n")

    def handle_data(self, data: str) -> None:
        self._parts.append(data.replace("\n", " ") if self._rows else data)

    def lines(self) -> list[str]:
        rows = [" ".join(row.split()) for row in " ".join(self._parts).splitlines()]
        return [row for row in rows if row]


def told(path: str, answer: Answer) -> list[str]:
    """An answer as text; of a file its beginning."""
    headers = {name: answer.headers[name] for name in HEADERS if name in answer.headers}
    if headers.get("content-type") == "text/html; charset=utf-8":
        del headers["content-type"]
        lines = Shown(answer.text if path in WHOLE else answer.text.partition('tabindex="-1">')[2]).lines()
    else:
        lines = answer.text[:FILE_CHARS].splitlines()
    said = [f"{name}: {value}" for name, value in headers.items() if value != "no-store"]
    return [f"=== {path}", " ".join([str(answer.status), *said]), *lines]


async def everything(site: Site) -> list[str]:
    admin, found = Browser(site), list[str]()
    admin.app.state.printer = Printer(there=False)  # whatever is installed here
    found += told("/login?next=/jobs", await admin.get("/login?next=/jobs"))
    found += told("POST /login", await admin.log_in(site.token("root", "admin")))
    async with admin.app.router.lifespan_context(admin.app):
        asked, linked = ASKED.read_text().split(), dict[str, None]()
        for path in asked:
            answer = await admin.get(path)
            found += told(path, answer)
            linked |= dict.fromkeys(map(html.unescape, LINK.findall(answer.text)))
        for path in sorted(linked.keys() - set(asked)):
            lines = told(path, await admin.get(path))
            digest = hashlib.sha256(VARYING.sub("...", "\n".join(lines)).encode()).hexdigest()
            found += [f"=== linked: {path}", f"{len(lines)} lines {digest[:12]} {lines[1]}"]
        viewer = Browser(site)
        await viewer.log_in(site.token("vic", "viewer", "nlp/a"))
        async with viewer.app.router.lifespan_context(viewer.app):
            for path in VIEWER.split():
                found += told(f"viewer {path}", await viewer.get(path))
            refused = await viewer.post("/nodes/g1/drain", form_token=await viewer.form_token())
            found += told("viewer POST /nodes/g1/drain", refused)
        word = await admin.form_token()
        for path, reason in DONE:
            answer = await admin.post(path, form_token=word, reason=reason)
            found += told(f"POST {path}", answer)
        for path in AFTER.split():
            found += told(f"then {path}", await admin.get(path))
        found += told("POST /logout", await admin.post("/logout", form_token=word))
    return found


def test_pages_show_what_they_showed() -> None:
    async def main() -> list[str]:
        with tempfile.TemporaryDirectory(prefix="b") as folder:
            async with Site(folder) as site:
                request = money_pb2.ApplyRequest(
                    sources=[money_pb2.PolicySource(name="all.yaml", text=POLICIES)]
                )
                assert await site.call("Policies.Apply", request, token=site.token("ann", "admin")) == (
                    "OK",
                    "",
                )
                inhabit(site)
                return await everything(site)

    found = VARYING.sub("...", "\n".join(asyncio.run(main())) + "\n")
    if os.environ.get("BURSAR_GOLDEN") == "write":
        GOLDEN.write_text(found)
    assert found == GOLDEN.read_text(), "see the head of this file"
