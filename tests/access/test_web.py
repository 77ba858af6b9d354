"""The web pages: who gets in, what a page may say, and that it says what the command says."""

from __future__ import annotations

import asyncio
import hashlib
import html
import json
import re
import shlex
import socket
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlencode

import pytest
from browser import HOST, OWN, Browser, Tags, server_of
from whole_site import Site

from bursar.cli.jobs import JOB_COLUMNS
from bursar.cli.output import csv_text
from bursar.client.aio import AsyncWireClient
from bursar.clock import HOUR_US, SECOND_US, VirtualClock
from bursar.codec import view
from bursar.errors import BursarError, InvalidRequest, StoreUnavailable
from bursar.local import pages
from bursar.model import JobState
from bursar_web import __main__ as command
from bursar_web.app import FIELDS_MAX, Options, hosts_of, make_app
from bursar_web.guard import BODY_BYTES_MAX, SECURITY
from bursar_web.sessions import IDLE_US, LIFE_US, SESSIONS_MAX, FolderLinks, LoginLink, Sessions

HERE = Path(command.__file__).parent
Story = Callable[[Site, Browser], Awaitable[None]]


def play(story: Story, *, link: str = "", secure: bool = False) -> None:
    async def main() -> None:
        with tempfile.TemporaryDirectory(prefix="b") as folder:
            async with Site(folder) as site:
                browser = Browser(site, link=link, secure=secure)
                async with browser.app.router.lifespan_context(browser.app):
                    await story(site, browser)

    asyncio.run(main())


PAGES = (
    "/", "/jobs", "/jobs?state=all", "/nodes", "/nodes/n1", "/nodes/n1/drain", "/budgets", "/cost",
    "/cost?by=user,project&compare=previous&idle=1", "/events", "/events?kind=job-submitted",
    "/waste", "/waste?period=2026-11&project=nlp", "/statements/2026-11", "/experiments/e1", "/models/m/1",
    "/policies", "/prices", "/prices?provider=none", "/services", "/services?project=nlp", "/admin",
)  # fmt: skip


def test_every_page_answers_is_whole_and_carries_no_script_or_style_of_its_own() -> None:
    async def story(site: Site, browser: Browser) -> None:
        token = site.token("root", "admin")
        ran, waits = site.job("ann", "nlp", name="ran"), site.job("ann", "nlp", name="waits")
        site.run(ran)
        assert (await browser.log_in(token)).status == 303
        for path in (*PAGES, f"/jobs/{ran}", f"/jobs/{waits}", f"/jobs/{waits}/cancel", f"/jobs/{ran}/log"):
            answer = await browser.get(path)
            assert answer.status == (503 if path.endswith("/log") else 200), (path, answer.text)
            assert Tags(answer.text).faults == [], path
            assert token not in answer.text
            assert 'class="problem"' not in answer.text or path.endswith("/log"), answer.text

    play(story)


def test_who_is_not_logged_in_sees_nothing_and_comes_back_to_the_page() -> None:
    async def story(site: Site, browser: Browser) -> None:
        site.job("ann", "nlp", name="quiet")
        for path in PAGES:
            answer = await browser.get(path)
            assert (answer.status, answer.text) == (303, "")
            assert answer.headers["location"].startswith("/login?next=%2F")
        assert (await browser.post("/jobs/1/cancel")).status == 401
        assert (await browser.log_in("wrong")).status == 401
        lost = await browser.get("/nothing")
        assert (lost.status, lost.text) == (404, "there is no such page\n")
        assert (await browser.get("/")).status == 303
        login = await browser.get("/login?next=/jobs%3Fstate%3Dall")
        assert 'name="next" value="/jobs?state=all"' in login.text
        token = site.token("ann", "viewer")
        assert (await browser.post("/login", token=token, next="/jobs?state=all")).headers["location"] == (
            "/jobs?state=all"
        )

    play(story)


@pytest.mark.parametrize(
    "target", ["//evil.example", "https://evil.example", "/\\evil.example", "evil", "/a\nb"]
)
def test_a_login_goes_on_to_pages_of_this_server_alone(target: str) -> None:
    async def story(site: Site, browser: Browser) -> None:
        answer = await browser.post("/login", token=site.token("ann", "viewer"), next=target)
        assert (answer.status, answer.headers["location"]) == (303, "/")

    play(story)


def test_a_page_shows_what_the_callers_rights_show() -> None:
    async def story(site: Site, browser: Browser) -> None:
        mine = site.job("bob", "nlp", name="mine", command=("echo", "word-of-bob"))
        hers = site.job("ann", "vision", name="hers", command=("echo", "word-of-ann"))
        await browser.log_in(site.token("bob", "submitter", "nlp"))
        assert "word-of-bob" in (await browser.get(f"/jobs/{mine}")).text
        lost = await browser.get("/nothing")
        assert (lost.status, "there is no such page" in lost.text, 'href="/jobs"' in lost.text) == (
            404,
            True,
            True,
        )
        listed = await browser.get("/jobs")
        assert "mine" in listed.text
        assert "hers" not in listed.text
        away = await browser.get(f"/jobs/{hers}")
        assert away.status == 404
        assert "hers" not in away.text
        await browser.log_in(site.token("vic", "viewer", "vision"))
        seen = (await browser.get(f"/jobs/{hers}")).text
        assert "hers" in seen
        assert "word-of-ann" not in seen
        refused = await browser.post(f"/jobs/{hers}/cancel", form_token=await browser.form_token())
        assert refused.status == 403
        assert site.engine.state.jobs[hers].state is JobState.PENDING

    play(story)


def test_the_page_of_a_job_says_its_needs_and_its_deadline_as_show_does() -> None:
    async def story(site: Site, browser: Browser) -> None:
        made = site.job(
            "ann",
            "nlp",
            max_nodes=3,
            deadline_at=site.engine.now() + 9 * HOUR_US,
            deadline_policy="best-effort",
        )
        await browser.log_in(site.token("ann", "admin"))
        text = html.unescape((await browser.get(f"/jobs/{made}")).text)
        assert "<dt>Needs</dt><dd>1..3 nodes, each 1 cpu, 1" in text, re.findall("<dt>.*", text)
        assert re.search(r"<dt>Deadline</dt><dd>[^<]*Z, without a promise</dd>", text), text

    play(story)


def test_a_form_counts_only_from_a_page_of_ours_with_its_own_word() -> None:
    async def story(site: Site, browser: Browser) -> None:
        job = site.job("ann", "nlp")
        await browser.log_in(site.token("root", "admin"))
        word = await browser.form_token()
        path, body = f"/jobs/{job}/cancel", urlencode({"form_token": word}).encode()
        for headers, status in (
            ({}, 403),
            ({"sec-fetch-site": "cross-site"}, 403),
            ({"sec-fetch-site": "same-site"}, 403),
            ({"sec-fetch-site": "none"}, 403),
            ({"origin": "http://evil.example"}, 403),
            (OWN | {"host": "evil.example"}, 421),
            (OWN | {"content-length": str(BODY_BYTES_MAX + 1)}, 413),
            (OWN | {"content-length": "1" * 30}, 413),
            (OWN | {"content-length": ""}, 413),
        ):
            assert (await browser.ask("POST", path, headers, body)).status == status, headers
        assert (await browser.post(path)).status == 403
        assert (await browser.post(path, form_token="another")).status == 403
        assert (await browser.ask("GET", path)).status == 200
        assert site.engine.state.jobs[job].state is JobState.PENDING
        many = urlencode([("form_token", word), *(("x", "1"),) * FIELDS_MAX]).encode()
        assert (await browser.ask("POST", path, OWN, many)).status == 400
        assert (await browser.ask("POST", path, {"origin": f"http://{HOST}"}, body)).status == 303
        assert "CANCELLED" in (await browser.get(f"/jobs/{job}")).text

    play(story)


def test_verbs_of_nodes_ask_first_and_keep_the_reason() -> None:
    async def story(site: Site, browser: Browser) -> None:
        await browser.log_in(site.token("root", "admin"))
        asked = await browser.get("/nodes/n1/cordon")
        assert "Cordon node n1?" in asked.text
        word = await browser.form_token()
        done = await browser.post("/nodes/n1/cordon", form_token=word, reason="bad fan")
        assert (done.status, done.headers["location"]) == (303, "/nodes/n1")
        shown = (await browser.get("/nodes/n1")).text
        assert "bad fan" in shown
        assert "/nodes/n1/resume" in shown
        assert "/nodes/n1/drain" not in shown

    play(story)


def test_hostile_names_are_text() -> None:
    async def story(site: Site, browser: Browser) -> None:
        job = site.job("ann", "nlp", name="<script>alert(1)</script>\u202etxt", command=("a'\"><img src=x>",))
        await browser.log_in(site.token("root", "admin"))
        for path in ("/", "/jobs", f"/jobs/{job}", f"/jobs/{job}/cancel", "/events"):
            text = (await browser.get(path)).text
            assert "<script>alert" not in text
            assert "<img" not in text
            assert "\u202e" not in text
        assert "&lt;script&gt;alert(1)&lt;/script&gt;\\u202etxt" in (await browser.get(f"/jobs/{job}")).text

    play(story)


def test_a_command_that_is_shown_can_be_pasted_whatever_the_address_says() -> None:
    async def story(site: Site, browser: Browser) -> None:
        await browser.log_in(site.token("root", "admin"))
        answer = await browser.get("/jobs?" + urlencode({"project": "$(touch x); a b", "state": "pending"}))
        shown = re.search("<code>(.*)</code>", answer.text)
        assert shown is not None
        words = ["bursar", "ls", "--state", "pending", "--project", "$(touch x); a b"]
        assert shlex.split(html.unescape(shown[1])) == words

    play(story)


def test_a_list_is_what_the_command_lists_in_json_in_csv_and_on_pages() -> None:
    async def story(site: Site, browser: Browser) -> None:
        for number in range(52):
            site.job("ann", "nlp" if number % 2 else "vision", name=f"job-{number}")
        token = site.token("root", "admin")
        await browser.log_in(token)
        async with AsyncWireClient(server_of(site), token) as client:
            rows = [view.job(each) async for each in client.list(project="nlp")]
            cost = view.cost(await client.cost(by=["user"], period="this-month"), ["user"])
        assert json.loads((await browser.get("/jobs.json?project=nlp")).text) == rows
        assert (await browser.get("/jobs.csv?project=nlp")).text == csv_text(rows, JOB_COLUMNS)
        assert json.loads((await browser.get("/cost.json?by=user")).text) == cost
        assert (await browser.get("/jobs.xml")).status == 404
        first = (await browser.get("/jobs")).text
        assert first.count("<tr>") == 51
        following = re.search(r'href="(\?page=[^"]+)">next page', first)
        assert following is not None
        rest = (await browser.get("/jobs" + following[1].replace("&amp;", "&"))).text
        assert re.findall(r"job-\d+<", rest) == ["job-1<", "job-0<"]

    play(story)


def test_every_period_that_is_offered_is_one() -> None:
    async def story(site: Site, browser: Browser) -> None:
        await browser.log_in(site.token("root", "admin"))
        shown = (await browser.get("/cost")).text
        offered = re.findall('<option value="([^"]+)"', shown.partition('id="groups"')[0])
        assert len(offered) == 8
        for period in offered:
            assert (await browser.get(f"/cost?period={period}")).status == 200, period

    play(story)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/jobs?state=gone", "'gone' is no state; there are: all, pending"),
        ("/jobs?label=x", "--label"),
        ("/jobs?since=then", "--since"),
        ("/cost?until=then", "--until"),
        ("/jobs?page=%00", ""),
        ("/cost?by=colour", "there is no dimension 'colour'"),
        ("/cost?top=1e9", "top: '1e9' is no number from 1 to 5000"),
        ("/cost?depth=65", "depth: '65' is no number from 1 to 64"),
        ("/cost?period=never", "never"),
        ("/nodes?sort-by=colour", "there is no column 'colour'"),
        ("/jobs/1/log?rank=x", "rank: 'x' is not the number of a member; the first is 0"),
        ("/cost?projct=nlp", "this page has no 'projct'; did you mean 'project'?"),
        ("/cost.json?projct=nlp", "this page has no 'projct'"),
        ("/jobs?project=nlp&project=cv", "project: stands twice in the address"),
        ("/?x=1", "this page has no 'x'; there are: live"),
    ],
)
def test_wrong_words_in_an_address_are_said(path: str, said: str) -> None:
    async def story(site: Site, browser: Browser) -> None:
        site.job("ann", "nlp")
        await browser.log_in(site.token("root", "admin"))
        answer = await browser.get(path)
        assert answer.status == 400, answer.text
        assert said in answer.text.replace("&#39;", "'")
        assert Tags(answer.text).faults == []

    play(story)


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("period=2026-03", "in 2026-03, days of UTC"),
        ("since=2026-03-01", "from 2026-03-01 00:00:00Z to now, days of UTC"),
        ("until=2026-03-01", "from the first charge to 2026-03-01 00:00:00Z, days of UTC"),
        ("period=2026-03&compare=previous", "before (2026-02)."),
    ],
)
def test_the_head_of_the_costs_says_which_time_they_are_of(query: str, told: str) -> None:
    async def story(site: Site, browser: Browser) -> None:
        await browser.log_in(site.token("ann", "finance"))
        assert told in (await browser.get(f"/cost?{query}")).text

    play(story)


def test_a_part_without_an_answer_blanks_no_other_and_a_page_without_a_daemon_says_so() -> None:
    async def story(site: Site, browser: Browser) -> None:
        await browser.log_in(site.token("ann", "viewer"))
        await site.server.stop(0)
        now = await browser.get("/")
        assert now.status == 200
        assert now.text.count('class="problem"') >= 6
        assert (await browser.get("/jobs")).status == 503

    play(story)


def test_a_token_that_is_taken_away_ends_the_session() -> None:
    async def story(site: Site, browser: Browser) -> None:
        await browser.log_in(site.token("ann", "viewer"))
        site.authority.replace(())
        assert (await browser.get("/jobs")).status == 401
        assert (await browser.get("/jobs")).status == 303

    play(story)


def test_a_session_ends_with_logout_with_idleness_and_with_age() -> None:
    async def story(site: Site, browser: Browser) -> None:
        token = site.token("ann", "viewer")
        await browser.log_in(token)
        out = await browser.post("/logout", form_token=await browser.form_token())
        assert (out.status, out.headers["location"]) == (303, "/login")
        await browser.log_in(token)
        kept = browser.cookie
        browser.clock.advance(IDLE_US - 1)
        assert (await browser.get("/jobs")).status == 200
        browser.clock.advance(IDLE_US)
        assert (await browser.get("/jobs")).status == 303
        browser.cookie = ""
        await browser.log_in(token)
        assert browser.cookie != kept
        for _ in range(LIFE_US // (IDLE_US - 1)):
            browser.clock.advance(IDLE_US - 1)
            assert (await browser.get("/jobs")).status == 200
        browser.clock.advance(IDLE_US - 1)
        assert (await browser.get("/jobs")).status == 303

    play(story)


def test_a_cookie_of_a_site_goes_by_https_alone() -> None:
    async def story(site: Site, browser: Browser) -> None:
        answer = await browser.log_in(site.token("ann", "viewer"))
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith("__Host-bursar-session=secret-")
        assert {"HttpOnly", "Secure", "Path=/", "SameSite=lax"} <= set(cookie.split("; "))
        assert answer.headers["strict-transport-security"] == "max-age=31536000"

    play(story, secure=True)


def test_what_pages_look_like_by_is_served_as_it_lies_in_the_package() -> None:
    async def story(site: Site, browser: Browser) -> None:
        kept = HERE / "static"
        found = sorted(path for path in kept.rglob("*") if path.suffix in (".css", ".js"))
        assert len(found) > 1
        for path in found:
            answer = await browser.get(f"/static/{path.relative_to(kept)}")
            assert (answer.status, answer.text) == (200, path.read_text()), path

    play(story)


def test_every_answer_carries_the_policy_of_what_browsers_may_do() -> None:
    async def story(site: Site, browser: Browser) -> None:
        for path in ("/", "/login", "/nothing", "/healthz", "/static/app.css", "/static/nothing"):
            answer = await browser.get(path)
            assert {name: answer.headers.get(name.lower()) for name in SECURITY} == SECURITY, path
        assert "no-store" in (await browser.get("/login")).headers["cache-control"]
        assert (await browser.ask("GET", "/login", {"host": "rebound.example"})).status == 421

    play(story)


def test_the_link_of_the_terminal_is_good_once_and_looking_at_it_uses_nothing_up() -> None:
    async def story(site: Site, browser: Browser) -> None:
        for _ in range(2):
            assert 'value="w"' in (await browser.get("/login?link=w")).text
        for link in ("x", ""):
            assert (await browser.post("/login", link=link)).status == 401
        # The door of this site has no socket that tells who calls: the word is used up all the same.
        assert (await browser.post("/login", link="w")).status in (303, 401)
        assert "that link was used" in (await browser.post("/login", link="w")).text

    play(story, link="w")


def test_an_empty_link_logs_nobody_in() -> None:
    assert not LoginLink("").take("")
    assert not LoginLink("a").take("b")
    link = LoginLink("a")
    assert [link.take("a"), link.take("a")] == [True, False]


def test_sessions_have_a_bound_and_old_ones_make_room() -> None:
    async def main() -> None:
        clock, numbers = VirtualClock(0), iter(range(10_000))
        sessions = Sessions(clock, lambda: str(next(numbers)))
        for _ in range(SESSIONS_MAX):
            await sessions.open(AsyncWireClient("unix:///none", "t"), "ann", "viewer")
        with pytest.raises(BursarError, match=f"{SESSIONS_MAX} sessions are open"):
            await sessions.open(AsyncWireClient("unix:///none", "t"), "ann", "viewer")
        clock.advance(IDLE_US)
        cookie, session = await sessions.open(AsyncWireClient("unix:///none", "t"), "bob", "viewer")
        assert sessions.of(cookie) is session
        assert cookie not in repr(vars(sessions))
        await sessions.close_all()
        assert sessions.of(cookie) is None

    asyncio.run(main())


@pytest.mark.parametrize(
    ("listen", "found"),
    [
        ("127.0.0.1:7480", ("127.0.0.1", 7480)),
        ("[::1]:1", ("::1", 1)),
        ("0.0.0.0:7480", None),
        ("example.org:80", None),
        ("127.0.0.1", None),
        ("127.0.0.1:0", None),
        ("127.0.0.1:65536", None),
        ("127.0.0.1:7480000000000", None),
    ],
)
def test_pages_are_served_to_this_machine_alone(listen: str, found: tuple[str, int] | None) -> None:
    if found is None:
        with pytest.raises(InvalidRequest, match=r"^--listen: .* is not 127\.0\.0\.1:PORT"):
            command.socket_path(listen)
    else:
        assert pages.loopback(listen, "--listen") == found
        assert command.socket_path(listen) == ""
    assert command.socket_path("unix:run/w.sock") == "/run/w.sock"


def test_an_address_that_is_taken_is_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        at = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(StoreUnavailable, match=f"cannot listen at {at}: Address already in use; choose"):
            command.listening(at)
    with command.listening(at) as free:
        assert free.getsockname() == ("127.0.0.1", int(at.partition(":")[2]))


def test_links_are_good_once_for_ten_minutes_and_only_some_at_a_time(tmp_path: Path) -> None:
    words = iter(f"word-{number}" for number in range(500))

    def new(now_s: int) -> str:
        return pages.new_link(tmp_path, "127.0.0.1:1", now_s, lambda: next(words)).url

    assert new(1_000) == "http://127.0.0.1:1/login?link=word-0"
    assert "word-0" not in str(list((tmp_path / "links").iterdir()))
    assert (tmp_path / "links").stat().st_mode & 0o777 == 0o700
    links = FolderLinks(tmp_path, VirtualClock(1_599 * SECOND_US))
    for word in ("", "word", "*", "word-0" * 40, "../links/word-0"):
        assert not links.take(word)
    assert [links.take("word-0"), links.take("word-0")] == [True, False]
    new(1_000)
    assert not FolderLinks(tmp_path, VirtualClock(1_600 * SECOND_US)).take("word-1")
    for number in range(pages.LINKS_MAX + 1):
        new(2_000 + number)
    assert len(list((tmp_path / "links").iterdir())) == pages.LINKS_MAX
    assert not pages.take_link(tmp_path, "word-2", 2_000)
    assert pages.take_link(tmp_path, "word-3", 2_000)
    new(9_000)
    assert len(list((tmp_path / "links").iterdir())) == 1


def test_a_login_by_a_link_of_the_folder_uses_it_up(tmp_path: Path) -> None:
    async def story(site: Site, browser: Browser) -> None:
        made = pages.new_link(tmp_path, HOST, 0, lambda: "w")
        browser.app = make_app(Options(server_of(site), (HOST,), folder=tmp_path), browser.clock)
        assert 'value="w"' in (await browser.get("/login?link=w")).text
        # The door of this site has no socket that tells who calls: the word is used up all the same.
        assert (await browser.post("/login", link="w")).status in (303, 401)
        assert "`bursar web url` makes a new one" in (await browser.post("/login", link="w")).text
        assert made.ends_s == pages.LINK_LIFE_S

    play(story)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--site"], "--site: name with --host"),
        (["--listen", "unix:/x"], "a socket is for --site"),
        (["--listen", "0.0.0.0:1"], "is not 127.0.0.1:PORT"),
    ],
)
def test_wrong_words_of_the_command_are_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(words) == 2
    assert said in capsys.readouterr().err


def test_a_server_on_loopback_is_called_localhost_too() -> None:
    assert hosts_of("127.0.0.1:7480", ["a", "a"]) == ("127.0.0.1:7480", "localhost:7480", "a")
    assert hosts_of("unix:/x", ["bursar.example"]) == ("unix:/x", "bursar.example")


def test_what_others_wrote_is_kept_with_its_licence_as_it_was_published() -> None:
    lock = json.loads((HERE / "static/vendor/lock.json").read_text())
    kept = {path.name for path in (HERE / "static/vendor").iterdir()} - {"lock.json"}
    assert kept == {name for one in lock for name in (one["file"], one["licence_file"])}
    for one in lock:
        digest = hashlib.sha384((HERE / "static/vendor" / one["file"]).read_bytes()).hexdigest()
        assert digest == one["sha384"], one["file"]
