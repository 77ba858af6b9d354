"""The pages in Debian's chromium, of a real `bursar up --http`: what only a browser can tell.

Run     make browser (not part of `make test`: chromium and its driver are 500 MB). All of it shares a cluster
        with jobs that run, wait, failed and have hostile texts. `BURSAR_SHOTS=DIR` keeps pictures.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urldefrag, urljoin

import pytest
from axe_playwright_python.sync_playwright import Axe
from cluster import Cluster, until
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

CHROMIUM = "/usr/bin/chromium"
HOSTILE = "<script>alert(1)</script>\u202etxt"
BUDGET = """kind: Budget
name: month
spec: {scope: {project: nlp}, limit: 500 USD, period: month, thresholds: [{at: 50%, do: [notify]}]}
"""
SERVICE = """name: chat
type: service
project: nlp
run: python3 -m http.server $BURSAR_PORT
resources: {cpus: 1, memory: 256MB}
"""
PAGES = (
    "/", "/jobs", "/jobs?state=all", "/jobs/1", "/jobs/2", "/jobs/3", "/jobs/3/log", "/jobs/2/cancel",
    "/queue", "/submit", "/nodes", "/nodes/local-1", "/nodes/local-1/drain", "/budgets",
    "/budgets/month", "/budgets/month/edit",
    "/cost", "/cost?by=user&compare=previous", "/waste", "/statements/this-month", "/experiments/e1",
    "/models/m", "/jobs/1/profile", "/jobs/1/profile?attempt=1", "/services",
    "/services/chat", "/admin/enrol", "/sessions", "/admin", "/admin?show=doctor",
    "/budgets?show=forecast", "/nodes?days=7", "/cost?by=job", "/policies/apply",
    "/policies/Budget/month/edit",
    "/events", "/policies", "/policies/Budget/month", "/prices?provider=none",
)  # fmt: skip
SCRIPT_CSS_BYTES_MAX = 60_000
NODES_MAX = 2_500


class Site:
    """The cluster, and a browser's cookies of whoever is logged in."""

    def __init__(self, cluster: Cluster, base: str) -> None:
        self.cluster = cluster
        self.base = base
        self.state: Any = None

    def link(self) -> str:
        return str(json.loads(self.cluster.run("web", "url", "-o", "json").stdout)["url"])

    def job(self, reference: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.cluster.run("show", reference, "-o", "json").stdout)
        return found


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        at = f"127.0.0.1:{free.getsockname()[1]}"
    cluster = Cluster(2, "--simulate-gpus", "H100:2", "--http", at)
    try:
        cluster.up()
        (cluster.work / "b.yaml").write_text(BUDGET)
        cluster.run("policy", "apply", "b.yaml")
        of = ("--project", "nlp", "--experiment", "e1", "--model", "m")
        cluster.run("run", *of, "--gpus", "1", "--name", "runs", "--", "sleep", "600")
        cluster.run("run", *of, "--gpus", "16", "--name", "waits", "--", "true")
        said = f"echo '{HOSTILE}'; printf '\\033[31mred\\033[0m\\n'; exit 3"
        hostile = ("--experiment", "done", "--name", "fails", "--comment", HOSTILE)
        cluster.run("run", "--wait", *hostile, "--", "sh", "-c", said, code=1)
        (cluster.work / "s.yaml").write_text(SERVICE)
        cluster.run("submit", "s.yaml")
        until(lambda: json.loads(cluster.run("show", "1", "-o", "json").stdout)["state"] == "RUNNING", "runs")
        yield Site(cluster, f"http://{at}")
    finally:
        assert not cluster.remove()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert Path(CHROMIUM).exists(), "chromium is needed: sudo apt-get install --yes chromium"
    with sync_playwright() as driver:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        made = driver.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        yield made
        made.close()


Open = Callable[..., Page]


@pytest.fixture
def open_page(site: Site, browser: Browser) -> Iterator[Open]:
    """A page of somebody who is logged in. What its console says, content policy included, fails the test."""
    contexts: list[BrowserContext] = []
    said: list[str] = []

    def make(**options: Any) -> Page:
        if site.state is None:
            context = browser.new_context()
            page = context.new_page()
            page.goto(site.link())
            page.get_by_role("button", name="Go on").click()
            site.state = context.storage_state()
            context.close()
        context = browser.new_context(storage_state=site.state, base_url=site.base, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda told: said.append(f"{told.type}: {told.text}"))
        page.on("pageerror", lambda problem: said.append(str(problem)))
        return page

    yield make
    for context in contexts:
        context.close()
    assert said == []


def findings(page: Page) -> list[str]:
    """What axe-core finds; it is run beside the page, whose content policy would refuse it."""
    session = page.context.new_cdp_session(page)
    session.send("Runtime.evaluate", {"expression": Axe().axe_script})
    told = "one => one.id + ' ' + one.nodes[0].html"
    asked = f"axe.run().then(found => JSON.stringify(found.violations.map({told})))"
    answer = session.send("Runtime.evaluate", {"expression": asked, "awaitPromise": True})
    session.detach()
    found: list[str] = json.loads(answer["result"]["value"])
    return found


@pytest.mark.parametrize(
    ("scheme", "width"), [("light", 1100), ("dark", 1100), ("light", 320)], ids=["light", "dark", "narrow"]
)
def test_every_page_is_whole_accessible_and_within_the_content_policy(
    open_page: Open, scheme: Any, width: int
) -> None:
    page = open_page(color_scheme=scheme, viewport={"width": width, "height": 800})
    shots = os.environ.get("BURSAR_SHOTS", "")
    for number, path in enumerate(PAGES):
        answer = page.goto(path)
        assert answer is not None
        assert answer.status == 200, (path, page.content())
        assert findings(page) == [], path
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        assert page.locator("*").count() <= NODES_MAX, path
        assert page.locator("h1").count() == 1, path
        if shots:
            name = re.sub(r"\W+", "-", path).strip("-") or "now"
            page.screenshot(path=f"{shots}/{number:02}-{name}-{scheme}-{width}.png", full_page=True)


def test_by_keyboard_alone_a_job_is_found_and_cancelled_and_focus_is_always_seen(
    site: Site, open_page: Open
) -> None:
    site.cluster.run("run", "--gpus", "16", "--name", "by-keyboard", "--", "true")
    page = open_page()
    page.goto("/jobs?state=pending")
    assert _tab_to(page, "To the content")
    _tab_to(page, "by-keyboard")
    page.keyboard.press("Enter")
    page.wait_for_url("**/jobs/job_*")
    assert "ExceedsNodeCapacity" in page.inner_text("main")
    _tab_to(page, "Cancel")
    page.keyboard.press("Enter")
    page.wait_for_url("**/cancel")
    assert "Cost so far" in page.inner_text("main")
    _tab_to(page, "Cancel")
    page.keyboard.press("Enter")
    page.wait_for_url("**/jobs/job_*")
    assert page.locator("h1 .state").inner_text() == "CANCELLED"


def _tab_to(page: Page, text: str) -> bool:
    """Press Tab until the element with this text has the focus; each that has it on the way shows that."""
    for _ in range(80):
        page.keyboard.press("Tab")
        told = page.evaluate(
            "() => { const e = document.activeElement, s = getComputedStyle(e);"
            " return [e.tagName, e.innerText || e.value || '', s.outlineStyle, parseFloat(s.outlineWidth)] }"
        )
        assert told[0] != "BODY", f"the focus is nowhere on the way to {text}"
        assert told[2] != "none", told
        assert told[3] >= 1, told
        if told[1].strip() == text:
            return True
    raise AssertionError(f"{text} is not reached by keyboard")


def test_without_scripts_pages_read_filters_filter_and_forms_do(site: Site, open_page: Open) -> None:
    page = open_page(java_script_enabled=False)
    page.goto("/jobs")
    page.get_by_label("Name", exact=True).fill("waits")
    page.get_by_role("button", name="Filter").click()
    assert "name=waits" in page.url
    assert page.locator("tbody tr").count() == 1
    page.goto("/submit")
    text = "name: from-page\nproject: nlp\nresources: {gpus: 16}\nrun: |\n  echo '</textarea>'\n"
    page.get_by_label("A job file").fill(text)
    page.get_by_label("Work directory").fill("/tmp")
    page.get_by_role("button", name="Plan", exact=True).click()
    assert "Submit from-page?" in page.inner_text("h1")
    page.get_by_role("button", name="Submit", exact=True).click()
    assert "from-page" in page.inner_text("h1")
    assert site.job("from-page")["project"] == "nlp"


def test_a_change_is_seen_without_asking_and_nothing_moves_once_told_to_stand_still(
    site: Site, open_page: Open
) -> None:
    page = open_page()
    page.clock.install()
    page.goto("/jobs?name=live-one&state=all")
    assert "live-one" not in page.inner_text("main")
    site.cluster.run("run", "--gpus", "16", "--name", "live-one", "--", "true")
    page.clock.run_for(10_500)
    page.get_by_role("link", name="live-one").wait_for()
    page.get_by_role("link", name="stand still").click()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.clock.run_for(60_000)
    assert asked == []


def test_a_change_is_told_long_before_ten_seconds_are_over(site: Site, open_page: Open) -> None:
    page = open_page()
    page.clock.install()
    with page.expect_response("**/live"):
        page.goto("/jobs?name=live-two&state=all")
    site.cluster.run("run", "--gpus", "16", "--name", "live-two", "--", "true")
    link, passed_ms = page.get_by_role("link", name="live-two"), 0

    def seen() -> bool:
        nonlocal passed_ms
        passed_ms += 310
        page.clock.run_for(310)
        return bool(link.count())

    until(seen, "the job is seen", every_s=0.3)
    assert passed_ms < 9_000, "the page asked by itself"


def test_hostile_texts_and_logs_are_text(open_page: Open) -> None:
    page = open_page()
    page.on("dialog", lambda dialog: pytest.fail(f"a script of a name ran: {dialog.message}"))
    for path in ("/", "/jobs?state=all", "/jobs/3", "/jobs/3/log", "/events"):
        page.goto(path)
        assert page.locator("main script").count() == 0
        text = page.inner_text("main")
        assert "\u202e" not in text
        assert "\x1b" not in text
    page.goto("/jobs/3/log")
    assert "<script>alert(1)</script>" in page.inner_text("pre")


def test_a_browser_has_nothing_that_is_good_elsewhere(site: Site, open_page: Open) -> None:
    page = open_page()
    page.goto("/jobs")
    assert page.evaluate("document.cookie") == ""
    assert page.evaluate("localStorage.length + sessionStorage.length") == 0
    [cookie] = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Lax")
    secret = (site.cluster.state / "web/metrics-token").read_text().strip()
    log = (site.cluster.state / "logs/web.log").read_text()
    assert cookie["value"] not in page.content() + log
    assert secret not in page.content() + log


def test_figures_of_pages_are_those_of_the_command(site: Site, open_page: Open) -> None:
    page = open_page()
    for by in ("project", "user,experiment", "job", "attempt,node", "day", "price"):
        told = page.request.get(f"/cost.json?by={by}&experiment=done&period=this-month").json()
        words = ("--by", by, "--experiment", "done", "--period", "this-month")
        assert told == json.loads(site.cluster.run("cost", *words, "-o", "json").stdout), by
        assert told["total"]["cost"]["amount"] > "0.000000000", by


class Links(HTMLParser):
    """Where a page leads, and ids that two of its elements have."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        self.ids += [told["id"] or ""] if "id" in told else []
        if tag == "a" and told.get("href"):
            self.found.add(str(told["href"]))


def test_no_link_leads_nowhere(site: Site, open_page: Open) -> None:
    page = open_page()
    seen: set[str] = set()
    waiting = [f"{site.base}{path}" for path in PAGES]
    while waiting and len(seen) < 150:
        address = waiting.pop(0)
        if address in seen or not address.startswith(site.base):
            continue
        seen.add(address)
        answer = page.request.get(address)
        assert answer.status == 200, address
        if "text/html" in answer.headers["content-type"]:
            links = Links(answer.text())
            assert len(set(links.ids)) == len(links.ids), address
            waiting += [urldefrag(urljoin(address, link)).url for link in sorted(links.found)]
    assert len(seen) > 60


def test_scripts_and_styles_are_small_and_come_once(open_page: Open) -> None:
    page = open_page()
    got: list[tuple[str, int]] = []

    def count(answer: Any) -> None:
        with contextlib.suppress(Exception):
            if "/static/" in answer.url and not answer.from_service_worker:
                got.append((answer.url, int(answer.headers.get("content-length", 0))))

    page.on("response", count)
    page.goto("/cost")
    assert 0 < sum(size for _, size in got) <= SCRIPT_CSS_BYTES_MAX
    assert len(got) <= 5
    assert all(size for _, size in got)
