"""Logging in to the pages by the site's identity provider: there, back, for a while, and out."""

from __future__ import annotations

import asyncio
import base64
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from browser import Answer, Browser
from identity_provider import WEB, WEB_SECRET, Provider, provider
from whole_site import START, Site

from bursar.clock import SECOND_US, VirtualClock
from bursar.errors import InvalidRequest
from bursar_web import __main__ as command
from bursar_web.pages.login import EARLY_US
from bursar_web.provider import AWAY_MAX, AWAY_US, Client
from bursard.access.keyset import Keys, fetcher
from bursard.access.oidc import Rules, Verifier, read_grants

NOW_S = START // SECOND_US
Story = Callable[[Site, Browser, Provider], Awaitable[None]]


def play(story: Story, *, secure: bool = True, secret: str = WEB_SECRET) -> None:
    clock = VirtualClock(START)

    async def main(idp: Provider) -> None:
        with tempfile.TemporaryDirectory(prefix="b") as folder:
            async with Site(folder) as site:
                rules = Rules(idp.issuer, (WEB,), grants=read_grants(["nlp-team=submitter@nlp"]))
                keys = Keys(idp.issuer, fetcher(Path()), site.clock.boot_us)
                site.authority._provider = Verifier(rules, keys, clock.now)
                browser = Browser(site, secure=secure, provider=Client(idp.issuer, WEB, secret))
                browser.world = clock
                async with browser.app.router.lifespan_context(browser.app):
                    await story(site, browser, idp)

    with provider(lambda: clock.now() // SECOND_US) as idp:
        asyncio.run(main(idp))


async def go_there(browser: Browser, idp: Provider, path: str = "/login/provider?next=/jobs") -> str:
    """As a browser follows the link; where the provider sends it back to."""
    away = await browser.get(path)
    assert away.status == 303, away.text
    parts = urlsplit(away.headers["location"])
    asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
    assert (asked["code_challenge_method"], asked["response_type"]) == ("S256", "code")
    status, back = idp.answer(parts.path, asked, {})
    assert status == 302
    return str(back).partition("bursar.test:7480")[2]


async def log_in(browser: Browser, idp: Provider) -> Answer:
    return await browser.get(await go_there(browser, idp))


def test_a_login_goes_there_and_back_and_its_token_stays_here() -> None:
    async def story(site: Site, browser: Browser, idp: Provider) -> None:
        page = await browser.get("/login?next=/jobs")
        assert 'href="/login/provider?next=/jobs"' in page.text
        assert "Log in by 127.0.0.1" in page.text
        back = await go_there(browser, idp)
        assert browser.cookie.startswith("__Host-bursar-login=")
        answer = await browser.get(back)
        assert (answer.status, answer.headers["location"]) == (303, "/jobs")
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith("__Host-bursar-session=")
        assert all(word in cookie for word in ("Secure", "HttpOnly", "SameSite=lax", "Path=/"))
        shown = await browser.get("/jobs")
        assert "ann@example.org (submitter of nlp)" in shown.text
        form = idp.forms[-1]
        assert (form["client_secret"], form["redirect_uri"]) == (
            WEB_SECRET, "https://bursar.test:7480/login/done",
        )  # fmt: skip
        for text in (cookie, shown.text, answer.headers["location"], back):
            assert "eyJ" not in text

    play(story)


def test_an_answer_counts_in_the_browser_that_asked_once_and_for_ten_minutes() -> None:
    async def story(site: Site, browser: Browser, idp: Provider) -> None:
        back, own = await go_there(browser, idp), browser.cookie
        browser.cookie = "__Host-bursar-login=another"
        assert "not begun in this browser" in (await browser.get(back)).text
        browser.cookie = ""
        assert (await browser.get(back)).status == 401
        browser.cookie = own
        assert (await browser.get(back)).status == 303
        browser.cookie = own
        assert "not begun in this browser" in (await browser.get(back)).text
        late, own = await go_there(browser, idp), browser.cookie
        browser.clock.advance(AWAY_US)
        assert "too long ago" in (await browser.get(late)).text

    play(story)


def test_an_answer_is_refused_whose_token_answers_another_question() -> None:
    async def story(site: Site, browser: Browser, idp: Provider) -> None:
        idp.nonce = "another"
        assert "another login (nonce)" in (await log_in(browser, idp)).text
        idp.nonce = None
        back = await go_there(browser, idp)
        assert "another identity provider" in (await browser.get(f"{back}&iss=https://evil.example")).text
        back = await go_there(browser, idp)
        code = parse_qs(urlsplit(back).query)["code"][0]
        assert "invalid_grant" in (await browser.get(back.replace(code, "code-x"))).text
        idp.claims["aud"] = "another-program"
        assert "another program" in (await log_in(browser, idp)).text
        idp.claims |= {"aud": WEB, "iss": "https://evil.example"}
        assert "another iss" in (await log_in(browser, idp)).text
        assert (await browser.get("/jobs")).status == 303

    play(story)


def test_who_has_no_role_and_who_was_refused_there_are_told_so_as_text() -> None:
    async def story(site: Site, browser: Browser, idp: Provider) -> None:
        idp.claims["groups"] = []
        assert "has no role here" in (await log_in(browser, idp)).text
        state = parse_qs(urlsplit(await go_there(browser, idp)).query)["state"][0]
        refusal = "/login/done?error=access_denied&error_description=%3Cb%3Eno%3C/b%3E"
        assert (
            "the provider says: &lt;b&gt;no&lt;/b&gt;" in (await browser.get(f"{refusal}&state={state}")).text
        )
        for link in (refusal, f"{refusal}&state=x", f"{refusal}&state={state}"):
            said = await browser.get(link)
            assert (said.status, "not begun in this browser" in said.text) == (401, True)
            assert "&lt;b&gt;" not in said.text, "words that anybody can put into a link"

    play(story)


ODD: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a list": lambda _: [1],
    "a number": lambda _: 5,
    "nothing": lambda _: None,
    "no text": lambda _: b"\xff\xfe",
    "depth": lambda _: b"[" * 100_000,
    "a number for a token": lambda told: told | {"id_token": 5},
    "a token that is no ASCII": lambda told: told | {"id_token": told["id_token"] + "é"},
    "half a character": lambda told: (
        told | {"id_token": unsigned('{"exp":1,"aud":"bursar-web","nonce":"\\ud800"}')}
    ),
    "an end that is none": lambda told: (
        told | {"id_token": unsigned('{"exp":NaN,"iat":1,"aud":"bursar-web"}')}
    ),
    "an end beyond all": lambda told: (
        told | {"id_token": unsigned('{"exp":Infinity,"iat":1,"aud":"bursar-web"}')}
    ),
}


def unsigned(claims: str) -> str:
    return f"e30.{base64.urlsafe_b64encode(claims.encode()).decode().rstrip('=')}.AAAA"


def test_whatever_a_provider_gives_for_a_code_is_a_login_that_is_refused() -> None:
    async def story(site: Site, browser: Browser, idp: Provider) -> None:
        answer = idp.answer
        for case, change in ODD.items():
            back = await go_there(browser, idp)

            def odd(path: str, *rest: Any, change: Any = change) -> tuple[int, Any]:
                status, told = answer(path, *rest)
                return status, change(told) if path == "/token" else told

            idp.answer = odd  # type: ignore[method-assign]
            said = await browser.get(back)
            assert said.status in (401, 503), (case, said.status)
            idp.answer = answer  # type: ignore[method-assign]

    play(story)


@pytest.mark.parametrize("target", ["//evil.example", "https://evil.example", "/\\evil.example"])
def test_a_login_goes_on_to_pages_of_this_server_alone(target: str) -> None:
    async def story(site: Site, browser: Browser, idp: Provider) -> None:
        back = await go_there(browser, idp, f"/login/provider?next={target}")
        assert (await browser.get(back)).headers["location"] == "/"

    play(story)


def test_a_token_is_had_again_before_it_ends_and_when_it_cannot_be_the_login_ends() -> None:
    async def story(site: Site, browser: Browser, idp: Provider) -> None:
        await log_in(browser, idp)
        asked = idp.asked["/token"]
        assert (await browser.get("/jobs")).status == 200
        assert idp.asked["/token"] == asked
        browser.clock.advance(idp.life_s * SECOND_US - EARLY_US)
        browser.world.advance(idp.life_s * SECOND_US - EARLY_US)
        answers = await asyncio.gather(*(browser.get("/jobs") for _ in range(4)))
        assert {one.status for one in answers} == {200}
        assert idp.asked["/token"] == asked + 1
        idp.refreshes = False
        browser.clock.advance(idp.life_s * SECOND_US)
        browser.world.advance(2 * idp.life_s * SECOND_US)
        ended = await browser.get("/jobs")
        assert (ended.status, "invalid_grant" in ended.text, "Log in by" in ended.text) == (401, True, True)
        assert (await browser.get("/jobs")).status == 303

    play(story)


def test_logging_out_ends_it_here_and_offers_to_end_it_there() -> None:
    async def story(site: Site, browser: Browser, idp: Provider) -> None:
        await log_in(browser, idp)
        kept = browser.cookie
        out = await browser.post("/logout", form_token=await browser.form_token())
        assert (out.status, out.headers["location"]) == (303, "/login?left=1")
        browser.cookie = kept
        assert (await browser.get("/jobs")).status == 303
        page = (await browser.get("/login?left=1")).text
        assert f"{idp.issuer}/logout?client_id=bursar-web&amp;post_logout_redirect_uri=https" in page

    play(story)


def test_a_provider_that_is_away_is_said_to_be_and_tokens_still_log_in() -> None:
    async def story(site: Site, browser: Browser, idp: Provider) -> None:
        idp.document["issuer"] = "https://evil.example"
        answer = await browser.get("/login/provider")
        assert (answer.status, "calls itself" in answer.text) == (503, True)
        assert (await browser.log_in(site.token("ann", "viewer"))).status == 303
        assert "href" in (await browser.get("/login?left=1")).text

    play(story)


def test_logins_on_their_way_are_bounded() -> None:
    async def story(site: Site, browser: Browser, idp: Provider) -> None:
        for _ in range(AWAY_MAX):
            assert (await browser.get("/login/provider")).status == 303
        assert "on their way" in (await browser.get("/login/provider")).text
        browser.clock.advance(AWAY_US)
        assert (await browser.get("/login/provider")).status == 303

    play(story)


def test_a_public_client_sends_no_secret() -> None:
    async def story(site: Site, browser: Browser, idp: Provider) -> None:
        assert (await log_in(browser, idp)).status == 303
        assert "client_secret" not in idp.forms[-1]

    play(story, secret="")


def test_without_a_provider_there_is_no_such_page() -> None:
    async def main() -> None:
        with tempfile.TemporaryDirectory(prefix="b") as folder:
            async with Site(folder) as site:
                browser = Browser(site)
                for path in ("/login/provider", "/login/done?code=x&state=y"):
                    assert (await browser.get(path)).status == 404
                assert "Log in by" not in (await browser.get("/login")).text

    asyncio.run(main())


@pytest.mark.parametrize(("flags", "words"), [
    (["--oidc-issuer", "https://id.example.org"], "together alone"),
    (["--oidc-client-id", "web"], "together alone"),
    (["--oidc-issuer", "http://id.example.org", "--oidc-client-id", "web"], "is not https"),
    (["--oidc-issuer", "https://h", "--oidc-client-id", "web", "--oidc-client-secret-file", "/no"],
     "cannot be read"),
])  # fmt: skip
def test_flags_that_make_no_provider_are_refused(flags: list[str], words: str) -> None:
    given = command.parser().parse_args(["--site", "--host", "h", *flags])
    with pytest.raises(InvalidRequest, match=words):
        command.provider_of(given)


def test_a_secret_is_read_from_a_file_of_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("word\n")
    flags = ["--oidc-issuer", "https://id.example.org", "--oidc-client-id", "w", "--oidc-client-secret-file"]
    given = command.parser().parse_args(["--site", "--host", "h", *flags, str(path)])
    path.chmod(0o644)
    with pytest.raises(InvalidRequest, match="others"):
        command.provider_of(given)
    path.chmod(0o600)
    assert command.provider_of(given) == ("https://id.example.org", "w", "word")
    alone = command.parser().parse_args([*flags, str(path)])
    with pytest.raises(InvalidRequest, match="for --site"):
        command.provider_of(alone)
    assert command.provider_of(command.parser().parse_args([])) is None
