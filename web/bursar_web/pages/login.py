"""Logging in, with a token, by the site's identity provider or once by the link that stands in the terminal;
and out.
"""

from __future__ import annotations

import contextlib
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from bursar.client.aio import AsyncWireClient
from bursar.clock import SECOND_US, Clock
from bursar.codec import view
from bursar.errors import BursarError, InvalidRequest, ServerUnavailable
from bursar_web.asking import session_of
from bursar_web.provider import AWAY_US, WORD_CHARS_MAX, Given, Provider
from bursar_web.sessions import LIFE_US, Links, Session, Sessions
from bursar_web.show import page

COOKIE = "bursar-session"
STATE_COOKIE = "bursar-login"
DONE: Final = "/login/done"
EARLY_US: Final = 60 * SECOND_US
"""A token that ends sooner is had again first."""
TOKEN_CHARS_MAX = 4_096


class Login:
    """What logs in. `server`: whose pages these are; None: found as the command line finds it."""

    def __init__(
        self,
        server: str | None,
        sessions: Sessions,
        links: Links,
        secure: bool,
        clock: Clock,
        provider: Provider | None = None,
    ) -> None:
        self._server = server
        self._clock = clock
        self._provider = provider
        self._sessions = sessions
        self._links = links
        self._secure = secure
        self.cookie = f"__Host-{COOKIE}" if secure else COOKIE
        self._state_cookie = f"__Host-{STATE_COOKIE}" if secure else STATE_COOKIE

    async def form(self, request: Request) -> Response:
        """GET `/login`. It changes nothing: whoever looks at a link before it is used uses nothing up."""
        link, leave = request.query_params.get("link", ""), ""
        if self._provider is not None and request.query_params.get("left"):
            with contextlib.suppress(BursarError):
                leave = await self._provider.leave(self._here(request, "/login"))
        target = _own(request.query_params.get("next", "/"))
        return self._page(request, "", target, link=link, leave=leave)

    async def submit(self, request: Request) -> Response:
        """POST `/login`."""
        form: dict[str, str] = request.scope["form"]
        token, link = form.get("token", "").strip()[:TOKEN_CHARS_MAX], form.get("link", "")
        if not token and not self._links.take(link):
            said = "that link was used, is too old or another server's; `bursar web url` makes a new one"
            return self._again(request, said if link else "paste a token")
        return await self._open(request, token, _own(form.get("next", "/")))

    async def provider(self, request: Request) -> Response:
        """GET `/login/provider`: to the login page of the site's identity provider."""
        if self._provider is None:
            raise HTTPException(404)
        try:
            state, address = await self._provider.send_away(
                _own(request.query_params.get("next", "/")), self._here(request, DONE)
            )
        except BursarError as problem:
            return self._page(request, str(problem), "/", status=503)
        answer = RedirectResponse(address, 303)
        self._put(answer, self._state_cookie, state, AWAY_US)
        return answer

    async def done(self, request: Request) -> Response:
        """GET `/login/done`: from there, with the code of a login, or with why there is none."""
        if self._provider is None:
            raise HTTPException(404)
        query = request.query_params
        state, own_state = query.get("state", ""), request.cookies.get(self._state_cookie, "")
        if query.get("error"):
            try:  # words of an answer that was asked for: anybody can make a link with others
                self._provider.take(state, own_state)
            except InvalidRequest as problem:
                return self._page(request, str(problem), "/", status=401)
            said = query.get("error_description") or query["error"]
            return self._page(request, f"the provider says: {said[:WORD_CHARS_MAX]}", "/", status=401)
        try:
            given, target = await self._provider.come_back(
                state,
                own_state,
                query.get("code", ""),
                query.get("iss", ""),
            )
        except ServerUnavailable as problem:
            return self._page(request, str(problem), "/", status=503)
        except BursarError as problem:
            return self._page(request, str(problem), "/", status=401)
        return await self._open(request, given.token, _own(target), given)

    async def renew(self, session: Session) -> None:
        """A new token for a session whose own is about to end. Raises `Unauthenticated`: it cannot be had."""
        if self._provider is None or not session.ends_at or not session.refresh:
            return
        async with session.renewing:
            if self._clock.boot_us() < session.ends_at - EARLY_US:
                return
            given = await self._provider.again(session.refresh)
            session.client.use_token(given.token)
            session.refresh, session.ends_at = given.refresh, self._clock.boot_us() + given.life_us

    async def _open(self, request: Request, token: str, target: str, given: Given | None = None) -> Response:
        """Log in whoever the daemon says that this token is."""
        client = AsyncWireClient(self._server, token or None)
        try:
            who = view.server(await client.server())
            cookie, session = await self._sessions.open(client, who["user"], who["role"])
        except ServerUnavailable:
            await client.close()
            raise
        except BursarError as problem:
            await client.close()
            return self._page(request, str(problem), target, status=401)
        if given is not None:
            session.refresh, session.ends_at = given.refresh, self._clock.boot_us() + given.life_us
        answer = RedirectResponse(target, 303)
        self._put(answer, self.cookie, cookie, LIFE_US)
        return answer

    def _put(self, answer: Response, name: str, value: str, life_us: int) -> None:
        answer.set_cookie(
            name,
            value,
            max_age=life_us // SECOND_US,
            path="/",
            secure=self._secure,
            httponly=True,
            samesite="lax",
        )

    def _here(self, request: Request, path: str) -> str:
        """An address of this server, as the browser calls it; other names than ours never come so far."""
        return f"{'https' if self._secure else 'http'}://{request.headers['host']}{path}"

    async def out(self, request: Request) -> Response:
        """POST `/logout`."""
        await self._sessions.close(session_of(request))
        answer = RedirectResponse("/login?left=1" if self._provider is not None else "/login", 303)
        answer.delete_cookie(self.cookie, path="/", secure=self._secure, httponly=True, samesite="lax")
        return answer

    def _again(self, request: Request, problem: str) -> Response:
        target = _own(request.scope["form"].get("next", "/"))
        return self._page(request, problem, target, status=401)

    def _page(
        self,
        request: Request,
        problem: str,
        target: str,
        *,
        status: int = 200,
        link: str = "",
        leave: str = "",
    ) -> Response:
        name = self._provider.name if self._provider is not None else ""
        return page(
            request,
            "login.html",
            status=status,
            link=link,
            problem=problem,
            next=target,
            provider=name,
            leave=leave,
        )

    def ended(self, request: Request, problem: str) -> Response:
        """The page of who was logged in until now."""
        return self._page(request, problem, "/", status=401)


def _own(target: str) -> str:
    """Where to go on: a path of this server, whatever the address says."""
    plain = (
        target.startswith("/") and not target.startswith("//") and "\\" not in target and target.isprintable()
    )
    return target if plain else "/"
