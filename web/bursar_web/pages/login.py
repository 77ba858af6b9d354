"""Logging in, with a token or once by the link that stands in the terminal, and out."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from bursar.client.aio import AsyncWireClient
from bursar.codec import view
from bursar.errors import BursarError, ServerUnavailable
from bursar_web.asking import session_of
from bursar_web.sessions import LIFE_US, Links, Sessions
from bursar_web.show import page

COOKIE = "bursar-session"
TOKEN_CHARS_MAX = 4_096


class Login:
    """What logs in. `server`: whose pages these are; None: found as the command line finds it."""

    def __init__(self, server: str | None, sessions: Sessions, links: Links, secure: bool) -> None:
        self._server = server
        self._sessions = sessions
        self._links = links
        self._secure = secure
        self.cookie = f"__Host-{COOKIE}" if secure else COOKIE

    async def form(self, request: Request) -> Response:
        """GET `/login`. It changes nothing: whoever looks at a link before it is used uses nothing up."""
        link = request.query_params.get("link", "")
        return page(
            request, "login.html", link=link, problem="", next=_own(request.query_params.get("next", "/"))
        )

    async def submit(self, request: Request) -> Response:
        """POST `/login`."""
        form: dict[str, str] = request.scope["form"]
        token, link = form.get("token", "").strip()[:TOKEN_CHARS_MAX], form.get("link", "")
        if not token and not self._links.take(link):
            said = "that link was used, is too old or another server's; `bursar web url` makes a new one"
            return self._again(request, said if link else "paste a token")
        client = AsyncWireClient(self._server, token or None)
        try:
            who = view.server(await client.server())
            cookie, _ = await self._sessions.open(client, who["user"], who["role"])
        except ServerUnavailable:
            await client.close()
            raise
        except BursarError as problem:
            await client.close()
            return self._again(request, str(problem))
        answer = RedirectResponse(_own(form.get("next", "/")), 303)
        answer.set_cookie(
            self.cookie,
            cookie,
            max_age=LIFE_US // 1_000_000,
            path="/",
            secure=self._secure,
            httponly=True,
            samesite="lax",
        )
        return answer

    async def out(self, request: Request) -> Response:
        """POST `/logout`."""
        await self._sessions.close(session_of(request))
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(self.cookie, path="/", secure=self._secure, httponly=True, samesite="lax")
        return answer

    def _again(self, request: Request, problem: str) -> Response:
        target = _own(request.scope["form"].get("next", "/"))
        return page(request, "login.html", status=401, link="", problem=problem, next=target)


def _own(target: str) -> str:
    """Where to go on: a path of this server, whatever the address says."""
    plain = (
        target.startswith("/") and not target.startswith("//") and "\\" not in target and target.isprintable()
    )
    return target if plain else "/"
