"""The application: which page answers where, and what stands before all of them.

Owns    sessions, forms and faults on their way to a page. Pages themselves ask and show, and know of none.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, quote

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from bursar import errors
from bursar.clock import Clock, SystemClock
from bursar_web import keys
from bursar_web.guard import Guard
from bursar_web.listening import STREAM
from bursar_web.live import Pulse
from bursar_web.pages import (
    admin,
    admitting,
    applying,
    curves,
    funding,
    happenings,
    jobs,
    login,
    metrics,
    money,
    nodes,
    now,
    policies,
    reports,
    runs,
    services,
    submit,
)
from bursar_web.printing import Printer
from bursar_web.provider import Client, Provider
from bursar_web.sessions import FolderLinks, LoginLink, Session, Sessions, same
from bursar_web.show import HERE, page
from bursar_web.tables import FILES

Page = Callable[[Request], Awaitable[Response]]

STATUS: dict[type[errors.BursarError], int] = {
    errors.NotFound: 404,
    errors.Forbidden: 403,
    errors.RateLimited: 429,
    errors.ServerUnavailable: 503,
    errors.WrongState: 409,
    errors.NotBuilt: 501,
}
"""What a refusal of the daemon is in HTTP; of any other class 400."""
FIELDS_MAX = 40
WITH_FILES: tuple[tuple[str, Page], ...] = (
    ("/jobs", jobs.jobs),
    ("/jobs/{job}", jobs.job),
    ("/jobs/{job}/profile", curves.curves),
    ("/queue", jobs.queue),
    ("/nodes", nodes.nodes),
    ("/nodes/{node}", nodes.node),
    ("/budgets", money.budgets),
    ("/budgets/{budget}", money.budget),
    ("/cost", money.cost),
    ("/events", happenings.events),
    ("/waste", reports.waste),
    ("/statements/{period}", reports.statement),
    ("/experiments/{experiment:path}", runs.experiment),
    ("/models/{model:path}", runs.model),
    ("/services", services.services),
    ("/services/{service}", services.service),
    ("/admin", admin.admin),
    ("/sessions", admitting.sessions),
    ("/policies", policies.policies),
    ("/policies/{kind}/{name}", policies.policy),
    ("/prices", policies.prices),
)
"""Pages whose rows are files too, `.csv` and `.json` of the same query."""
PRINTED: tuple[tuple[str, Page], ...] = (("/statements/{period}", reports.statement),)
"""Pages that are files that print too, `.html` and `.pdf`."""
FORMS: tuple[tuple[str, str, Page], ...] = (
    ("GET", "/submit", submit.form),
    ("POST", "/submit", submit.plan),
    ("POST", "/submit/send", submit.send),
    ("GET", "/budgets/{budget}/edit", funding.edit),
    ("POST", "/budgets/{budget}/edit", funding.check),
    ("POST", "/budgets/{budget}/apply", funding.apply),
    ("GET", "/admin/enrol", admitting.enrol),
    ("POST", "/admin/enrol", admitting.enrolled),
    ("GET", "/admin/secrets/{node}/revoke", admitting.ask_revoke),
    ("POST", "/admin/secrets/{node}/revoke", admitting.revoke),
    ("POST", "/sessions/{session}/end", admitting.end),
    ("GET", "/policies/apply", applying.form),
    ("POST", "/policies/apply", applying.check),
    ("POST", "/policies/apply/send", applying.send),
    ("GET", "/policies/{kind}/{name}/edit", applying.edit),
    ("GET", "/budgets/{budget}/approve", funding.ask_approval),
    ("POST", "/budgets/{budget}/approve", funding.approve),
)
"""Forms that show what they would do before they do it."""


class Options(NamedTuple):
    """How the pages are served.

    Attributes:
        server: as `bursar --server`; None: found as the command line finds it.
        hosts: what browsers may call this server, `name` or `name:port`.
        secure: browsers reach it by https, so cookies go no other way.
        link: the word that logs whoever runs this process in, once; "" where nobody may.
        folder: where `bursar web url` leaves the links that do; None: nowhere.
        home: what the form of a submit offers as work directory.
        provider: the site's identity provider, by which people log in too; None: there is none.
        scrape: the secret with which `/metrics` is read as whoever runs this process; "" for none.
    """

    server: str | None
    hosts: tuple[str, ...]
    secure: bool = False
    link: str = ""
    folder: Path | None = None
    home: str = ""
    scrape: str = ""
    provider: Client | None = None


class Files(StaticFiles):
    """Our own files, whose names change with what is in them."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """As a browser may keep it."""
        answer = await super().get_response(path, scope)
        answer.headers["Cache-Control"] = "max-age=3600"
        return answer


def make_app(
    options: Options,
    clock: Clock | None = None,
    secret: Callable[[], str] = lambda: secrets.token_urlsafe(32),
) -> Starlette:
    """The whole application, which holds no connection before somebody logs in."""
    clock = clock or SystemClock()
    sessions = Sessions(clock, secret)
    links = LoginLink(options.link) if options.folder is None else FolderLinks(options.folder, clock)
    provider = Provider(options.provider, clock, secret) if options.provider is not None else None
    door = login.Login(options.server, sessions, links, options.secure, clock, provider)
    entry = _Entry(sessions, door)
    pulse = Pulse()
    figures = metrics.Metrics(options.server, clock, options.scrape)
    verbs = ((jobs, "/jobs/{job}", jobs.VERBS), (nodes, "/nodes/{node}", nodes.VERBS))

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await pulse.close()
        await sessions.close_all()
        await figures.close()

    app = Starlette(
        routes=[
            Route("/healthz", _health, methods=["GET"]),
            Route("/metrics", entry.anybody(figures.answer), methods=["GET"]),
            Route(STREAM, entry.known(pulse.answer), methods=["GET"]),
            Mount("/static", Files(directory=HERE / "static")),
            Route("/login", door.form, methods=["GET"]),
            Route("/login/provider", door.provider, methods=["GET"]),
            Route(login.DONE, door.done, methods=["GET"]),
            Route("/login", entry.stranger(door.submit), methods=["POST"]),
            Route("/logout", entry.known(door.out), methods=["POST"]),
            *(
                Route(f"{path}.{file}", entry.as_file(asked(path, shown), file), methods=["GET"])
                for path, shown in WITH_FILES
                for file in FILES
            ),
            *(
                Route(f"{path}.{file}", entry.as_file(asked(path, shown), file), methods=["GET"])
                for path, shown in PRINTED
                for file in ("html", "pdf")
            ),
            *(
                Route(path, entry.known(asked(path, shown)), methods=["GET"])
                for path, shown in (("/", now.now), ("/jobs/{job}/log", jobs.log), *WITH_FILES)
            ),
            *(Route(path, entry.known(shown), methods=[method]) for method, path, shown in FORMS),
            *(
                Route(f"{path}/{verb}", entry.of_verb(answer, verb), methods=[method])
                for room, path, known in verbs
                for verb in known
                for method, answer in (("GET", room.ask), ("POST", room.act))
            ),
        ],
        middleware=[
            Middleware(Guard, hosts=options.hosts, secure=options.secure),
            Middleware(GZipMiddleware, minimum_size=1_000, compresslevel=6),
        ],
        exception_handlers={404: entry.missing, errors.BursarError: _refused},
        lifespan=lifespan,
    )
    app.state.clock, app.state.secret = clock, secret
    app.state.home = options.home
    app.state.printer, app.state.pulse, app.state.sessions = Printer(), pulse, sessions
    return app


def asked(path: str, shown: Page) -> Page:
    """The page at this address, of nothing but what it can be asked."""

    async def enter(request: Request) -> Response:
        keys.check(path, request.query_params, request.scope.get("file", ""))
        return await shown(request)

    return enter


class _Entry:
    """What lets a request in: its session, and of a form its fields and the word that only our pages have."""

    def __init__(self, sessions: Sessions, door: login.Login) -> None:
        self._sessions = sessions
        self._door = door
        self._cookie = door.cookie

    def known(self, shown: Page) -> Page:
        """For whoever is logged in; others are sent to the login, and come back."""

        async def enter(request: Request) -> Response:
            session = self._sessions.of(request.cookies.get(self._cookie, ""))
            if session is None:
                return _to_login(request)
            request.scope["session"] = session
            if request.method == "POST":
                form = request.scope["form"] = await _form(request)
                if not same(form.get("form_token", ""), session.form_token):
                    return PlainTextResponse("this form is too old; open its page again\n", 403)
            try:
                await self._door.renew(session)
                return await shown(request)
            except errors.Unauthenticated as problem:
                await self._sessions.close(session)
                del request.scope["session"]
                return self._door.ended(request, str(problem))

        return enter

    def of_verb(self, shown: Page, verb: str) -> Page:
        """The same, of one of the verbs of a thing."""

        async def enter(request: Request) -> Response:
            request.path_params["verb"] = verb
            return await shown(request)

        return self.known(enter)

    def as_file(self, shown: Page, file: str) -> Page:
        """The same, of the rows of a page as a file."""

        async def enter(request: Request) -> Response:
            request.scope["file"] = file
            return await shown(request)

        return self.known(enter)

    def anybody(self, shown: Callable[[Request, Session | None], Awaitable[Response]]) -> Page:
        """For programs, which bring a token of their own, and for whoever is logged in."""

        async def enter(request: Request) -> Response:
            return await shown(request, self._sessions.of(request.cookies.get(self._cookie, "")))

        return enter

    async def missing(self, request: Request, _: Exception) -> Response:
        """Of an address that no page has: for whoever is logged in with the way to those that there are."""
        if (session := self._sessions.of(request.cookies.get(self._cookie, ""))) is not None:
            request.scope["session"] = session
        return _fault(request, 404, "there is no such page")

    def stranger(self, shown: Page) -> Page:
        """For whoever is not logged in yet."""

        async def enter(request: Request) -> Response:
            request.scope["form"] = await _form(request)
            return await shown(request)

        return enter


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form. Raises `InvalidRequest`."""
    try:
        text = (await request.body()).decode()
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=FIELDS_MAX))
    except ValueError:
        raise errors.InvalidRequest(f"a form has at most {FIELDS_MAX} fields of UTF-8 text") from None


def _to_login(request: Request) -> Response:
    if request.method != "GET":
        return PlainTextResponse("you are logged out; log in again\n", 401)
    wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return RedirectResponse(f"/login?next={quote(wanted, safe='')}", 303)


async def _health(_: Request) -> Response:
    return PlainTextResponse("ok\n")


async def _refused(request: Request, problem: Exception) -> Response:
    status = next((STATUS[kind] for kind in type(problem).__mro__ if kind in STATUS), 400)
    return _fault(request, status, str(problem))


def _fault(request: Request, status: int, message: str) -> Response:
    session: Session | None = request.scope.get("session")
    if session is None:
        return PlainTextResponse(f"{message}\n", status)
    return page(request, "fault.html", status=status, code=status, message=message)


def hosts_of(listen: str, named: Iterable[str]) -> tuple[str, ...]:
    """What a server that listens there is called: its address, localhost on loopback, and what is named."""
    own = [listen] + ([listen.replace("127.0.0.1", "localhost")] if listen.startswith("127.0.0.1:") else [])
    return tuple(dict.fromkeys((*own, *named)))
