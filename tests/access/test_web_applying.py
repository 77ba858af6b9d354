"""Documents pasted into a page: shown line by line and in money, applied once, and by nobody who may not."""

from __future__ import annotations

import asyncio
import html
import re
import sys
import tempfile
from collections.abc import Awaitable, Callable

import pytest
from browser import Browser, Tags
from inhabited import add_node
from whole_site import Site

from bursar.errors import NotBuilt, RateLimited, ServerUnavailable
from bursar.money import parse_money
from bursar.v1 import money_pb2
from bursar_web import printing
from bursar_web.printing import Printer

BUDGET = """kind: Budget
name: nlp
spec:
  scope: {project: nlp}
  limit: 900 USD
  period: month
  thresholds: [{at: 50%, on: settled+held, do: [hold-queue]}]
"""
NAMES = "kind: SlurmNames\nname: site\nspec: {accounts: {a: {project: nlp}}}\n"
OWN = "kind: CostModel\nname: own\nspec: {pool: p, node_capex: 100003 USD, useful_life: 5y}\n"
Story = Callable[[Site, Browser], Awaitable[None]]


def play(story: Story) -> None:
    async def main() -> None:
        with tempfile.TemporaryDirectory(prefix="b") as folder:
            async with Site(folder) as site:
                request = money_pb2.ApplyRequest(
                    sources=[money_pb2.PolicySource(name="b", text=f"{BUDGET}---\n{OWN}")]
                )
                assert (await site.call("Policies.Apply", request, token=site.token("root", "admin")))[
                    0
                ] == "OK"
                add_node(site, "priced")
                browser = Browser(site)
                async with browser.app.router.lifespan_context(browser.app):
                    await browser.log_in(site.token("root", "admin"))
                    await story(site, browser)

    asyncio.run(main())


def fields(text: str, action: str) -> dict[str, str]:
    """What the form that goes to this address would send."""
    [form] = re.findall(
        rf'<form method="post" action="{re.escape(action)}"[^>]*>(.*?)</form>', text, re.DOTALL
    )
    found = {name: html.unescape(value) for name, value in re.findall(r'name="(\w+)" value="([^"]*)"', form)}
    [area] = re.findall(r"<textarea[^>]*>\n(.*?)</textarea>", form, re.DOTALL)
    return {**found, "text": html.unescape(area)}


def test_documents_are_applied_after_their_lines_and_their_money_were_shown_and_once() -> None:
    async def story(site: Site, browser: Browser) -> None:
        site.place(site.job("ann", "nlp"))
        sent = fields((await browser.get("/policies/Budget/nlp/edit")).text, "/policies/apply")
        assert sent["text"] == BUDGET
        small = BUDGET.replace("900 USD", "0.3 USD") + "---\n" + NAMES
        shown = await browser.post("/policies/apply", **{**sent, "text": small})
        assert Tags(shown.text).faults == []
        told = html.unescape(shown.text)
        assert "<del>-  limit: 900 USD</del>\n<ins>+  limit: 0.3 USD</ins>" in told
        assert "At once: 50 % (settled+held) is passed, and so: hold-queue." in told
        assert "SlurmNames site: created" in told
        assert "<ins>+kind: SlurmNames</ins>" in told
        assert site.engine.state.budgets.records["nlp"].spec.limit == parse_money("900 USD")
        asked = fields(shown.text, "/policies/apply/send")
        assert asked["text"] == small
        done = await browser.post("/policies/apply/send", **asked)
        assert (done.status, done.headers["location"]) == (303, "/policies")
        assert site.engine.state.budgets.records["nlp"].spec.limit == parse_money("0.3 USD")
        again = await browser.post("/policies/apply/send", **asked)
        assert (again.status, "changed one of these documents meanwhile" in again.text) == (409, True)
        same = await browser.post("/policies/apply", **asked)
        assert "Nothing would change." in same.text
        assert 'action="/policies/apply/send"' in same.text
        assert "<button>Apply" not in same.text

    play(story)


def test_what_somebody_else_changed_meanwhile_is_not_overwritten() -> None:
    async def story(site: Site, browser: Browser) -> None:
        word = await browser.form_token()
        mine = await browser.post("/policies/apply", text=BUDGET.replace("900", "800"), form_token=word)
        theirs = BUDGET.replace("900", "700")
        request = money_pb2.ApplyRequest(sources=[money_pb2.PolicySource(name="b", text=theirs)])
        await site.call("Policies.Apply", request, token=site.token("root", "admin"))
        late = await browser.post("/policies/apply/send", **fields(mine.text, "/policies/apply/send"))
        assert late.status == 409
        assert site.engine.state.budgets.records["nlp"].spec.limit == parse_money("700 USD")

    play(story)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BUDGET.replace("limit", "limt"), "form:5:"),
        ("", "form:1:1: holds no document"),
        ("kind: Nonsense\nname: x\nspec: {}\n", "form:1:"),
        ("---\n".join(NAMES.replace("site", f"s{at}") for at in range(51)), "at most 50 documents at once"),
        ("<script>alert(1)</script>", "form:"),
    ],
)
def test_what_cannot_be_applied_is_said_with_its_place_and_the_text_is_kept(text: str, said: str) -> None:
    async def story(site: Site, browser: Browser) -> None:
        before = dict(site.engine.state.policies)
        word = await browser.form_token()
        answer = await browser.post("/policies/apply", text=text, form_token=word)
        assert answer.status == 400
        assert said in html.unescape(answer.text)
        assert fields(answer.text, "/policies/apply")["text"] == text
        assert "<script>alert" not in answer.text
        sent = await browser.post("/policies/apply/send", text=text, versions="", form_token=word)
        assert sent.status == 400
        assert site.engine.state.policies == before

    play(story)


def test_who_may_not_apply_is_refused_and_a_form_without_its_word_does_nothing() -> None:
    async def story(site: Site, browser: Browser) -> None:
        text = BUDGET.replace("900", "1")
        assert (await browser.post("/policies/apply/send", text=text, versions="")).status == 403
        await browser.log_in(site.token("vic", "viewer"))
        shown = await browser.post("/policies/apply", text=text, form_token=await browser.form_token())
        answer = await browser.post("/policies/apply/send", **fields(shown.text, "/policies/apply/send"))
        assert answer.status == 403
        assert site.engine.state.budgets.records["nlp"].spec.limit == parse_money("900 USD")

    play(story)


def child(program: str) -> Printer:
    return Printer((sys.executable, "-c", program), there=True)


def test_a_statement_is_printed_by_a_process_of_its_own() -> None:
    async def story(site: Site, browser: Browser) -> None:
        echo = "import sys; page = sys.stdin.buffer.read(); sys.stdout.buffer.write(b'%PDF ' + page[:15])"
        browser.app.state.printer = Printer(there=False)
        assert ".pdf" not in (await browser.get("/statements/2026-11")).text
        browser.app.state.printer = child(echo)
        assert 'href="/statements/2026-11.pdf"' in (await browser.get("/statements/2026-11")).text
        answer = await browser.get("/statements/2026-11.pdf?project=nlp")
        assert (answer.status, answer.text) == (200, "%PDF <!doctype html>")
        assert answer.headers["content-type"] == "application/pdf"
        assert 'filename="bursar-statement.pdf"' in answer.headers["content-disposition"]
        browser.app.state.printer = child("import sys; print('install it', file=sys.stderr); sys.exit(3)")
        refused = await browser.get("/statements/2026-11.pdf")
        assert (refused.status, "install it" in refused.text) == (501, True)

    play(story)


def test_a_child_that_fails_or_hangs_ends_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        for program in ("import os; os.abort()", "pass"):
            with pytest.raises(ServerUnavailable, match=r"take the page that prints \(.html\)"):
                await child(program).pdf(b"x")
        monkeypatch.setattr(printing, "PRINT_S", 0.2)
        with pytest.raises(ServerUnavailable, match="printing took more than"):
            await child("import time; time.sleep(600)").pdf(b"x")
        busy = child("pass")
        busy._waiting = printing.WAIT_MAX
        with pytest.raises(RateLimited):
            await busy.pdf(b"x")
        with pytest.raises(NotBuilt, match="no printer"):
            await child("import sys; print('no printer', file=sys.stderr); sys.exit(3)").pdf(b"x")

    asyncio.run(main())
