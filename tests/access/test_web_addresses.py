"""Every key of every page with values that it cannot have: said in a sentence, and never passed over."""

from __future__ import annotations

import re

import pytest
from browser import Browser, Tags, play
from whole_site import Site

from bursar.cli.output import Column
from bursar.model import ReasonCode
from bursar_web import keys
from bursar_web.show import HERE
from bursar_web.tables import SORT_BY, table

PLACES = {
    "{job}": "1", "{node}": "n1", "{budget}": "none", "{period}": "this-month", "{experiment:path}": "e1",
    "{model:path}": "m", "{service}": "none", "{kind}": "Budget", "{name}": "none",
}  # fmt: skip
"""What stands in addresses of pages; of what is not there every answer is that it is not."""
WRONG = ("-1", "x", "%00", "1e9", "9" * 40, "2026-13-45", "<script>", "1,5", "a" * 3000, "%FF", "..%2Fx")
NAMES = frozenset({
    "project", "user", "experiment", "model", "name", "pool", "provider", "region", "instance_type", "job",
    "node", "tasks",
})  # fmt: skip
"""Keys whose values are names: of any but a control character one may be made one day."""
EMPTY = ("/budgets", "/policies", "/prices", "/services")
"""Pages without a row here: nothing is in any order."""
KINDS_OF_SITES = (("/policies", "kind"),)
"""A kind that this version does not know may be in force, too."""


def at(path: str) -> str:
    for name, value in PLACES.items():
        path = path.replace(name, value)
    return path


def said(text: str) -> str:
    found = re.search(r'class="problem"[^>]*>(.*?)</p>', text, re.DOTALL)
    return found[1] if found else ""


def may_be(path: str, key: str, wrong: str) -> bool:
    """A value that is none for other keys can be one of this."""
    if key == SORT_BY:
        return path in EMPTY
    return (key in NAMES or (path, key) in KINDS_OF_SITES) and wrong != "%00"


@pytest.mark.parametrize("path", sorted(keys.KEYS))
def test_every_wrong_value_of_every_key_is_refused_in_a_sentence(path: str) -> None:
    async def story(site: Site, browser: Browser) -> None:
        site.run(site.job("ann", "nlp", name="ran", experiment="e1", model="m"))
        await browser.log_in(site.token("root", "admin"))
        there = (await browser.get(at(path))).status
        for key in (*keys.of_page(path), "none-such"):
            for wrong in WRONG:
                answer = await browser.get(f"{at(path)}?{key}={wrong}")
                where = (path, key, wrong[:20], answer.text[-600:])
                assert Tags(answer.text).faults == [], where
                assert "Traceback" not in answer.text
                if key != "none-such" and may_be(path, key, wrong):
                    assert answer.status in (200, 400, 404), where
                    assert answer.status == 200 or len(said(answer.text)) > 20, where
                elif there == 200 or key == "none-such":
                    assert answer.status == 400, where
                    assert len(said(answer.text)) > 20, where
                    assert "page_token" not in answer.text

    play(story)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/jobs?page=-1", "'-1' is no place in the list; take `page` out of the address"),
        ("/jobs?live=1", "live: '1' is not 0; leave it out"),
        ("/cost?idle=yes", "idle: 'yes' is not 0 or 1"),
        ("/jobs/1/profile?attempt=0", "the first is 1, and without it the page is of the newest"),
        ("/jobs/1?sort-by=jobs", "this page has no 'sort-by'; it has none"),
        ("/jobs.json?sort-by=cost", "this page has no 'sort-by'"),
    ],
)
def test_what_to_do_is_said(path: str, words: str) -> None:
    async def story(site: Site, browser: Browser) -> None:
        site.job("ann", "nlp")
        await browser.log_in(site.token("root", "admin"))
        answer = await browser.get(path)
        assert (answer.status, words in answer.text.replace("&#39;", "'")) == (400, True), answer.text

    play(story)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/jobs?user=nobody", "no job matches; leave a filter out"),
        ("/jobs?page=0.-1", "no job comes after"),
        ("/nodes?pool=none", "no node is of pool none"),
        ("/policies?kind=none", "no document is of kind none"),
        ("/services?project=none", "no service is of project none"),
        ("/jobs.csv?sort-by=-number", "number"),
    ],
)
def test_a_page_without_rows_says_why(path: str, words: str) -> None:
    async def story(site: Site, browser: Browser) -> None:
        site.job("ann", "nlp")
        await browser.log_in(site.token("root", "admin"))
        answer = await browser.get(path)
        assert (answer.status, words in answer.text) == (200, True), answer.text

    play(story)


def test_times_and_reasons_are_read_whole_and_long_names_break() -> None:
    row = {"at": "2026-11-29 08:00:00Z", "name": "pretrain-of-a-language-model-17"}
    row |= {"reason": max((code.value for code in ReasonCode), key=len)}
    made = table("t", [row], [Column(name) for name in row])
    assert [cell.long for cell in made.rows[0]] == [False, True, False]
    styles = (HERE / "static" / "app.css").read_text()
    assert "td { white-space: nowrap; } td.long { white-space: normal; overflow-wrap: anywhere;" in styles
