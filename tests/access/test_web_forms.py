"""The forms of the web pages: each shows what it would do before it does it, and does it once."""

from __future__ import annotations

import asyncio
import html
import re
import tempfile
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from browser import Browser
from inhabited import add_node
from whole_site import Site

from bursar.errors import InvalidRequest
from bursar.money import parse_money
from bursar.smallfile import FILE_BYTES_MAX
from bursar.v1 import money_pb2
from bursar_policies.specs import BudgetSpec, Scope, Threshold
from bursar_web.pages.funding import _one_budget, effect

BUDGET = """\
kind: Budget
name: nlp
spec:
  scope: {project: nlp}
  limit: 900 USD
  thresholds: [{at: 50%, on: settled+held, do: [hold-queue]}]
"""
OWN = "kind: CostModel\nname: own\nspec: {pool: p, node_capex: 100003 USD, useful_life: 5y}\n"
JOB = (
    "name: pasted\nproject: nlp\ntime_limit: 10m\nresources: {cpus: 1}\nrun: |\n"
    "  echo '</textarea>'\n  \techo tab\n"
)
Story = Callable[[Site, Browser], Awaitable[None]]


def play(story: Story, role: str = "admin") -> None:
    async def main() -> None:
        with tempfile.TemporaryDirectory(prefix="b") as folder:
            async with Site(folder) as site:
                root = site.token("root", "admin")
                source = money_pb2.PolicySource(name="b", text=f"{BUDGET}---\n{OWN}")
                await site.ask("Policies.Apply", money_pb2.ApplyRequest(sources=[source]), token=root)
                add_node(site, "priced")
                browser = Browser(site)
                async with browser.app.router.lifespan_context(browser.app):
                    await browser.log_in(site.token("root", role))
                    await story(site, browser)

    asyncio.run(main())


def fields(text: str, action: str) -> dict[str, str]:
    """What the form of this address would send, as a browser sends it: lines end in two characters."""
    form = re.search(rf'<form method="post" action="{action}"[^>]*>(.*?)</form>', text, re.DOTALL)
    assert form is not None, text
    sent = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', form[1]))
    for name, value in re.findall(
        r'<textarea[^>]*name="([^"]+)"[^>]*>\n(.*?)</textarea>', form[1], re.DOTALL
    ):
        sent[name] = value.replace("\n", "\r\n")
    return {name: html.unescape(value) for name, value in sent.items()}


def names(site: Site) -> list[str]:
    return [job.spec.name for job in site.engine.state.jobs.values()]


def test_a_job_that_is_pasted_is_planned_first_and_submitted_once() -> None:
    async def story(site: Site, browser: Browser) -> None:
        word = await browser.form_token()
        asked = await browser.post(
            "/submit", text=JOB.replace("\n", "\r\n"), workdir="/data/x/..", form_token=word
        )
        assert asked.status == 200
        assert "Submit pasted?" in asked.text
        assert re.search(r"nlp: 899\.\d\d USD left of 900\.00 USD \(hard\)", asked.text)
        assert names(site) == []
        sent = fields(asked.text, "/submit/send")
        assert sent["text"] == JOB.replace("\n", "\r\n")
        done = [await browser.post("/submit/send", **sent) for _ in range(2)]
        assert [answer.status for answer in done] == [303, 303]
        assert done[0].headers["location"] == done[1].headers["location"]
        [job] = site.engine.state.jobs.values()
        assert (job.spec.name, job.spec.workdir, job.user) == ("pasted", "/data", "root")
        assert job.spec.script == "echo '</textarea>'\n\techo tab\n"

    play(story)


def test_a_script_gets_nothing_of_the_environment_of_the_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAGES_WORD", "s3cret")

    async def story(site: Site, browser: Browser) -> None:
        word = await browser.form_token()
        script = "#!/bin/sh\n#SBATCH --export=PAGES_WORD\n#SBATCH --account=nlp\ntrue\n"
        answer = await browser.post("/submit", text=script, workdir="/", form_token=word)
        assert "s3cret" not in answer.text
        assert names(site) == []

    play(story)


@pytest.mark.parametrize(
    ("text", "workdir", "said"),
    [
        (" \n", "/", "paste a job file"),
        ("run: true\nnam: x\n", "/", "pasted:2:1: nam: "),
        ("#!/bin/sh\n#SBATCH --nope=1\n", "/", "pasted:2:9: --nope"),
        ("x" * (FILE_BYTES_MAX + 1), "/", "pasted: more than 64 kB"),
        (JOB, "here", "work directory: write where it runs on the nodes"),
        (JOB, "/a\x00b", "work directory: write where it runs on the nodes"),
    ],
)
def test_what_cannot_be_a_job_is_said_with_its_place_and_kept(text: str, workdir: str, said: str) -> None:
    async def story(site: Site, browser: Browser) -> None:
        word = await browser.form_token()
        answer = await browser.post("/submit", text=text, workdir=workdir, form_token=word)
        assert answer.status == 400
        shown = html.unescape(answer.text)
        assert said in shown
        assert fields(answer.text, "/submit")["text"] == text.replace("\n", "\r\n")
        refused = await browser.post("/submit/send", text=text, workdir=workdir, key="k", form_token=word)
        assert refused.status == 400
        assert names(site) == []

    play(story)


def test_forms_need_the_word_of_their_page_a_key_and_the_right() -> None:
    async def story(site: Site, browser: Browser) -> None:
        for path in (
            "/submit",
            "/submit/send",
            "/budgets/nlp/edit",
            "/budgets/nlp/apply",
            "/budgets/nlp/approve",
        ):
            answer = await browser.post(path, text=JOB, workdir="/", key="k", reason="r")
            assert answer.status == 403, path
            assert "too old" in answer.text
            away = await browser.ask("POST", path, {"sec-fetch-site": "cross-site"}, b"")
            assert away.status == 403, path
        word = await browser.form_token()
        for key in ("", "k" * 101):
            answer = await browser.post("/submit/send", text=JOB, workdir="/", key=key, form_token=word)
            assert (answer.status, "lacks the key" in answer.text) == (400, True)
        assert names(site) == []
        await browser.log_in(site.token("vic", "viewer"))
        word = await browser.form_token()
        for path in ("/submit", "/submit/send", "/budgets/nlp/approve"):
            answer = await browser.post(path, text=JOB, workdir="/", key="k", reason="r", form_token=word)
            assert answer.status == 403, path
        changed = BUDGET.replace("900", "1")
        answer = await browser.post("/budgets/nlp/apply", text=changed, version="1", form_token=word)
        assert answer.status == 403
        assert names(site) == []
        assert site.engine.state.budgets.records["nlp"].spec.limit == parse_money("900 USD")

    play(story)


def test_a_budget_is_changed_after_what_it_would_do_was_shown() -> None:
    async def story(site: Site, browser: Browser) -> None:
        job = site.job("ann", "nlp")
        site.place(job)
        held = site.engine.state.ledger.held("nlp", site.engine.state.budgets.records["nlp"].period_start)
        assert held > 0
        sent = _edit_fields((await browser.get("/budgets/nlp/edit")).text)
        assert sent["text"] == BUDGET.replace("\n", "\r\n")
        low = await browser.post(
            "/budgets/nlp/edit", **{**sent, "text": BUDGET.replace("900 USD", "0.01 USD")}
        )
        assert (low.status, "or cancel jobs first" in low.text) == (400, True)
        assert "limit: 0.01 USD" in _edit_fields(low.text)["text"]
        small = BUDGET.replace("900 USD", "0.3 USD")
        asked = await browser.post("/budgets/nlp/edit", **{**sent, "text": small})
        shown = html.unescape(asked.text)
        assert "1 running under it." in shown
        assert "At once: 50 % (settled+held) is passed, and so: hold-queue." in shown
        assert "-  limit: 900 USD\n+  limit: 0.3 USD" in shown
        assert site.engine.state.budgets.records["nlp"].spec.limit == parse_money("900 USD")
        done = await browser.post("/budgets/nlp/apply", **fields(asked.text, "/budgets/nlp/apply"))
        assert (done.status, done.headers["location"]) == (303, "/budgets/nlp")
        assert site.engine.state.budgets.records["nlp"].spec.limit == parse_money("0.3 USD")
        late = await browser.post("/budgets/nlp/apply", **fields(asked.text, "/budgets/nlp/apply"))
        assert (late.status, "changed by somebody else" in late.text) == (409, True)
        again = await browser.post("/budgets/nlp/edit", **sent)
        assert "Somebody else has changed it meanwhile" in again.text
        assert "<button>Apply" not in again.text

    play(story)


def _edit_fields(text: str) -> dict[str, str]:
    """Of the form that is sent to its own address."""
    return fields(text.replace('method="post" class="stack wide"', 'method="post" action="own"'), "own")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BUDGET + "---\n" + BUDGET.replace("name: nlp", "name: other"), "this form changes one document"),
        (BUDGET.replace("name: nlp", "name: other"), "this form changes one document"),
        (
            "kind: SlurmNames\nname: nlp\nspec: {accounts: {a: {project: b}}}\n",
            "this form changes one document",
        ),
        (BUDGET.replace("limit", "limt"), "nlp:5:"),
        ("", "nlp:1:1: holds no document"),
    ],
)
def test_a_form_of_a_budget_changes_that_budget_and_nothing_else(text: str, said: str) -> None:
    async def story(site: Site, browser: Browser) -> None:
        before = dict(site.engine.state.policies)
        word = await browser.form_token()
        for path in ("/budgets/nlp/edit", "/budgets/nlp/apply"):
            answer = await browser.post(path, text=text, version="1", form_token=word)
            assert answer.status == 400, path
            assert said in html.unescape(answer.text)
        assert site.engine.state.policies == before

    play(story)


def test_an_approval_keeps_its_reason_and_its_bounds() -> None:
    async def story(site: Site, browser: Browser) -> None:
        asking = (
            BUDGET.replace("50%", "1%").replace("hold-queue", "approval").replace("settled+held", "settled")
        )
        word = await browser.form_token()
        assert (
            await browser.post("/budgets/nlp/apply", text=asking, version="1", form_token=word)
        ).status == 303
        assert "Nothing waits for an approval of it." in (await browser.get("/budgets/nlp/approve")).text
        empty = await browser.post("/budgets/nlp/approve", reason=" ", form_token=word)
        assert (empty.status, "say why" in empty.text) == (400, True)
        for wrong in ({"amount": "5 EUR"}, {"amount": "much"}, {"until": "soon"}):
            answer = await browser.post("/budgets/nlp/approve", reason="due", form_token=word, **wrong)
            assert answer.status == 400, wrong

    play(story)


def spec(limit: str, *thresholds: Threshold, enforcement: str = "hard") -> BudgetSpec:
    return BudgetSpec(Scope(), parse_money(limit), enforcement=enforcement, thresholds=thresholds)


def usd(amount: str) -> dict[str, str]:
    return {"amount": amount, "currency": "USD"}


ROW: dict[str, Any] = {
    "limit": usd("110.000000000"), "settled": usd("40.000000000"), "held": usd("20.000000001"),
    "currency": "USD", "live_jobs": ["a", "b"],
}  # fmt: skip
"""A budget of 100 USD to which 10 were granted."""


def test_the_effect_counts_what_was_given_and_what_is_held() -> None:
    warns, stops = Threshold(500_000), Threshold(500_000, "settled+held", ("hold-queue", "checkpoint-stop"))
    same = effect(ROW, spec("100 USD", warns), spec("100 USD", warns), None)
    assert (same.limit, same.left, same.jobs) == (usd("110.000000000"), usd("49.999999999"), 2)
    assert (same.passed, same.undone, same.full) == ((), (), False)
    lower = effect(ROW, spec("100 USD", warns), spec("70 USD", warns, stops), None)
    assert lower.limit == usd("80.000000000")
    assert lower.passed == (
        (50.0, "settled", "notify"),
        (50.0, "settled+held", "hold-queue, checkpoint-stop"),
    )
    higher = effect(ROW, spec("70 USD", warns), spec("170 USD", warns), None)
    assert higher.undone == ()
    assert effect(
        ROW | {"limit": usd("80.000000000")}, spec("70 USD", warns), spec("71 USD", warns), None
    ).undone == ((50.0, "settled", "notify"),)
    assert effect(ROW, spec("100 USD"), spec("50 USD"), None).full
    assert not effect(ROW, spec("100 USD"), spec("50 USD", enforcement="soft"), None).full


def test_the_effect_of_another_scope_is_what_its_account_would_open_with() -> None:
    opening = {"settled": usd("99.000000000"), "held": usd("0.500000000"), "attempts": 7}
    found = effect(ROW, spec("100 USD"), spec("100 USD"), opening)
    assert (found.settled, found.held, found.left, found.jobs) == (
        usd("99.000000000"), usd("0.500000000"), usd("10.500000000"), 7,
    )  # fmt: skip


def test_one_budget_is_what_a_form_takes() -> None:
    assert _one_budget(BUDGET, "nlp").limit == parse_money("900 USD")
    with pytest.raises(InvalidRequest, match="`name: other`, and no other"):
        _one_budget(BUDGET, "other")
