"""The gateway's two ends of HTTP: requests come in, go on to a replica over the loopback, and back.

Owns    connections, time limits, and what of a request passes on.
Limits  nothing of a request or an answer is logged or kept. A replica's answer passes as it comes: nothing
        is held back but an event that we ourselves asked for, and the slowest client sets the pace.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from bursar.heads import Heads
from bursar.money import format_nanos
from bursar.pinned import Pair, context
from bursar_gateway import counting
from bursar_gateway.core import SECOND_US, Core, Door, Key, Refusal, Route, Waiter
from bursar_gateway.meters import Meter, Use

BODY_BYTES_MAX: Final = 32 << 20
BODIES_BYTES_MAX: Final = 1 << 30
"""Of all requests in hand."""
WHOLE_BYTES_MAX: Final = 4 << 20
"""An answer in JSON up to this is read whole, to be counted; a longer one passes uncounted."""
HEADERS_S: Final = 10.0
"""From the first byte of a request to the end of its head."""
BODY_S: Final = 30.0
READ_S: Final = 30.0
READ_BYTES_MIN: Final = 16 << 10
"""So much of what waits to be sent is read in that time, or nobody reads."""
HEADERS_MAX: Final = 100
LINE_BYTES_MAX: Final = 8_190
CONNECT_S: Final = 2.0
TRIES_MAX: Final = 3
CONNECTIONS_MAX: Final = 4_096
BACKLOG: Final = 64
"""So many are accepted in one turn of the loop before any of them is counted."""
SMALL_BYTES_MAX: Final = 64 << 10
"""Any other answer that says that it has no more is read whole too, so that its head can say what it cost."""
LATENCIES: Final = 512
ANSWERS_MAX: Final = 10_000
"""Replicas of which answers are counted while the daemon is away."""
HOP: Final = frozenset(
    ("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te",
     "trailer", "transfer-encoding", "upgrade", "expect", "host", "content-length")
)  # fmt: skip
OURS: Final = frozenset(("authorization", "x-api-key", "accept-encoding"))
OUR_ANSWERS: Final = frozenset(
    ("x-bursar-replica", "x-bursar-cost", "x-bursar-budget-left", "x-bursar-degraded")
)
"""What an answer says of these is ours."""
WHY_MAX: Final = 200
"""Characters of what is wrong with a malformed request."""
SAFE: Final = frozenset(("GET", "HEAD", "OPTIONS"))
AGAIN: Final = frozenset((502, 503, 504))
REFUSED: Final = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
"""The request did not get there."""


def passed_on(headers: Mapping[str, str], also: frozenset[str]) -> CIMultiDict[str]:
    """Headers without those of one connection alone, those that `Connection` names among them."""
    named = {name.strip().lower() for name in headers.get("Connection", "").split(",")}
    left_out = HOP | also | named
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in left_out)


class _Connection(web.RequestHandler):
    """A client that begins a request and does not go on with it is cut; so is one that does not read."""

    _slow: asyncio.TimerHandle | None = None
    _full: asyncio.TimerHandle | None = None
    _head_here = False
    heads: Heads[_Connection] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Of too many connections the one goes that has owed its request longest."""
        super().connection_made(transport)
        if self.heads is not None:
            self.heads.opened(self)
        # Who connects and says nothing holds one of so many connections.
        self._slow = asyncio.get_running_loop().call_later(HEADERS_S, self.force_close)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is no request, or an error of ours, is answered as every other refusal is."""
        super().handle_error(request, status, exc, message)
        if status < 500:
            why = (message or "").partition("\n")[0].rstrip(":")[:WHY_MAX] or "it cannot be read"
            refusal = Refusal(status, "invalid_request_error", "malformed", f"this is no HTTP request: {why}")
        else:
            refusal = Refusal(status, "api_error", "internal", "the gateway failed; its log says how")
        answer = _refusal(refusal)
        answer.force_close()
        return answer

    def connection_lost(self, exc: BaseException | None) -> None:
        """It is gone."""
        self._cancel()
        self._flows()
        if self.heads is not None:
            self.heads.gone(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """The first bytes of a request start the clock."""
        if not self._head_here and self._slow is None:
            self._slow = asyncio.get_running_loop().call_later(HEADERS_S, self.force_close)
        super().data_received(data)

    def pause_writing(self) -> None:
        """The buffer is full: what is written waits until the client has read."""
        super().pause_writing()
        self._look_after(self._unread())

    def resume_writing(self) -> None:
        """The client has read."""
        super().resume_writing()
        self._flows()

    def _unread(self) -> int:
        return self.transport.get_write_buffer_size() if self.transport is not None else 0

    def _look_after(self, unread: int) -> None:
        self._full = asyncio.get_running_loop().call_later(READ_S, self._look, unread)

    def _look(self, before: int) -> None:
        """Some of it was read, or it never will be. Nothing more is written while the buffer is full."""
        unread = self._unread()
        if before - unread >= READ_BYTES_MIN:
            self._look_after(unread)
        elif self.transport is not None:
            self.transport.abort()

    def _flows(self) -> None:
        if self._full is not None:
            self._full.cancel()
            self._full = None

    def heard(self) -> None:
        """The head of a request is here."""
        self._head_here = True
        self._cancel()
        if self.heads is not None:
            self.heads.here(self)

    def answered(self) -> None:
        """The next may begin."""
        self._head_here = False
        if self.heads is not None:
            self.heads.answered(self)

    def cut(self) -> None:
        """Close it at once."""
        if self.transport is not None:
            self.transport.abort()

    def _cancel(self) -> None:
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None


class _Server(web.Server):
    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._heads: Heads[_Connection] = Heads(connections_max(), _Connection.cut)

    def __call__(self) -> Any:
        made = _Connection(self, loop=self._loop, **self._kwargs)
        made.heads = self._heads
        return made


def connections_max() -> int:
    """How many connections there may be: each may take another one to a replica, and some files are ours."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return CONNECTIONS_MAX if soft < 0 else min(max(soft // 2 - 3 * BACKLOG, 16), CONNECTIONS_MAX)


class Gateway:
    """Serves what `core` routes. Belongs to the event loop.

    Args:
        now: microseconds of wall time, by which keys lapse and minutes are told.
        wake: somebody waits for a first replica: ask the daemon at once.
        pair: what agents of other machines are shown; None: no replica there is reached.
    """

    def __init__(
        self,
        core: Core,
        meter: Meter,
        now: Callable[[], int],
        wake: Callable[[], None],
        pair: Pair | None = None,
    ) -> None:
        self.core, self.meter = core, meter
        self._pair = pair
        self._contexts: dict[str, tuple[str, ssl.SSLContext]] = {}
        """By attempt, with the certificate that it is for: connections to one are none to another."""
        self._now, self._wake = now, wake
        self._session: aiohttp.ClientSession | None = None
        self.asked: dict[str, int] = {}
        """Requests that came since the daemon was told, by job."""
        self.latencies: dict[str, deque[int]] = {}
        self.answers: dict[str, tuple[int, int, int]] = {}
        """By attempt, since the daemon was told: answers, failed ones, how long all took to begin."""
        self._bodies = 0

    def server(self) -> web.Server:
        """What to listen with."""
        return _Server(
            self.handle, access_log=None, max_line_size=LINE_BYTES_MAX, max_field_size=LINE_BYTES_MAX,
            max_headers=HEADERS_MAX, keepalive_timeout=75, handler_cancellation=True, lingering_time=1,
            auto_decompress=False,  # it goes on as it came, with its `Content-Encoding`
        )  # fmt: skip

    async def open(self) -> None:
        """Get ready to ask replicas."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=4, ttl_dns_cache=None),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
            max_line_size=LINE_BYTES_MAX,
            max_field_size=LINE_BYTES_MAX,
        )

    async def close(self) -> None:
        """Let replicas go."""
        if self._session is not None:
            await self._session.close()

    # --- one request

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Every request there is."""
        connection: Any = request.protocol
        connection.heard()
        try:
            return await self._handle(request)
        finally:
            connection.answered()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.raw_path == "/-/healthz":
            return web.json_response({"ok": self.core.known}, status=200 if self.core.known else 503)
        now = self._now()
        if not self.core.known:
            text = "the gateway has not yet heard from its daemon"
            return _refusal(Refusal(503, "overloaded_error", "not_ready", text, 1))
        for twice in ("Authorization", "x-api-key"):
            if len(request.headers.getall(twice, ())) > 1:
                text = f"the request has more than one {twice} header; which of them is meant?"
                return _refusal(Refusal(400, "invalid_request_error", "malformed", text))
        key = self.core.key_of(request.headers, now)
        if isinstance(key, Refusal):
            return _refusal(key)
        name, _, rest = request.raw_path.removeprefix("/").partition("/")
        route = self.core.route_of(name.partition("?")[0], key)
        if isinstance(route, Refusal):
            return _refusal(route)
        if key.budget:
            self.meter.roll(now)
        refusal = self.core.admit(key, now)
        if refusal is not None:
            return _refusal(refusal)
        try:
            return await self._admitted(request, key, route, "/" + rest)
        finally:
            self.core.leave(key, max(self._now() - now, 0))

    async def _admitted(
        self, request: web.BaseRequest, key: Key, route: Route, path: str
    ) -> web.StreamResponse:
        more: dict[str, str] = {}
        if (other := self.core.serving(route)) is not route:
            route, more["x-bursar-degraded"] = other, other.name
        if key.budget and (left := self.core.purses.left(key.budget)) is not None:
            more["x-bursar-budget-left"] = f"{format_nanos(left)} {route.currency}"
        job_id, used, taken = route.job_id, Use(requests=1, failed=1), list[int]()
        self.asked[job_id] = self.asked.get(job_id, 0) + 1
        self.meter.begin(job_id, key.id, self._now())
        try:
            body = await _body(request, partial(self._room, taken))
            if isinstance(body, Refusal):
                return _refusal(body)
            async with asyncio.timeout(route.total_us / SECOND_US):
                return await self._forward(request, key, route, path, body, used, more)
        except TimeoutError:
            text = f"service {route.name} took longer than its `total`"
            return _refusal(Refusal(504, "api_error", "timeout", text))
        finally:
            self._bodies -= sum(taken)
            self.meter.end(job_id, key.id, used, self._now())

    def _room(self, taken: list[int], size: int) -> bool:
        """Is there room for more of a body? Then it is taken."""
        if self._bodies + size > BODIES_BYTES_MAX:
            return False
        self._bodies += size
        taken.append(size)
        return True

    async def _forward(
        self,
        request: web.BaseRequest,
        key: Key,
        route: Route,
        path: str,
        body: bytes,
        used: Use,
        more: Mapping[str, str],
    ) -> web.StreamResponse:
        """To a replica; to another where the first did not get it, or may be asked twice. `more`: headers of
        the answer.
        """
        body, hide = counting.asks_for_usage(route.api, path.partition("?")[0], body)
        again = request.method in SAFE or "Idempotency-Key" in request.headers
        like, tried = _like(request, route, body), list[str]()
        while True:
            attempt = await self._turn(route, key, len(body), tried, like)
            if isinstance(attempt, Refusal):
                return _refusal(attempt)
            tried.append(attempt)
            heard = False
            last, had_at = len(tried) == TRIES_MAX, time.monotonic_ns()
            try:
                answer = await self._ask(request, route, attempt, path, body)
                heard = True
                with _held(answer):
                    if answer.status in AGAIN and again and not last:
                        continue
                    back = passed_on(answer.headers, OUR_ANSWERS)
                    back.update(more)
                    return await self._answer(request, route, attempt, answer, back, body, hide, used, had_at)
            except REFUSED:
                self._answered(attempt, True)
                self.core.eject(attempt, self._now())
                if last:
                    return _refusal(_unreachable(route))
            except (aiohttp.ClientError, ConnectionError):
                self._answered(attempt, True, more=int(not heard))
                self.core.eject(attempt, self._now())
                if last or not again:
                    return _refusal(_unreachable(route))
            finally:
                self.core.give(route, attempt, self._now())

    async def _turn(
        self, route: Route, key: Key, size: int, tried: list[str], like: bytes = b""
    ) -> str | Refusal:
        """A replica, taken; waits for one where none is free."""
        route = self.core.routes.get(route.name, route)
        attempt = self.core.pick(route, self._now(), tried, like)
        if attempt and (tried or not self.core.line(route).many):
            self.core.take(attempt, route)
            return attempt
        turn: asyncio.Future[str | Refusal] = asyncio.get_running_loop().create_future()
        waiter = Waiter(key.id, size, turn.set_result, bool(tried), like)
        refusal = self.core.wait(route, waiter)
        if refusal is not None:
            return refusal
        cold = not route.replicas
        if cold:
            self._wake()
        had = False
        try:
            async with asyncio.timeout((route.cold_us if cold else route.queue_us) / SECOND_US):
                given = await asyncio.shield(turn)
            had = True
            return given
        except TimeoutError:
            return self.core.timed_out(self.core.routes.get(route.name, route))
        finally:
            # Whoever leaves in the moment of its turn gives back what it was given.
            if not had and not self.core.stop_waiting(route, waiter) and turn.done():
                given = turn.result()
                if isinstance(given, str):
                    self.core.give(route, given, self._now())

    async def _ask(
        self, request: web.BaseRequest, route: Route, attempt: str, path: str, body: bytes
    ) -> aiohttp.ClientResponse:
        assert self._session is not None
        if attempt not in route.replicas:
            route = self.core.routes[route.name]
        port, door = route.replicas.get(attempt, 0), route.doors.get(attempt)
        at, named = f"http://127.0.0.1:{port}", dict[str, Any]()
        headers = passed_on(request.headers, OURS)
        headers["Accept-Encoding"] = "identity"
        if door is not None:
            host = f"[{door.address}]" if ":" in door.address else door.address
            at, headers["Host"] = f"https://{host}:{door.port}", f"127.0.0.1:{port}"
            named = {"ssl": self._context(attempt, door), "server_hostname": attempt}
        began = time.monotonic_ns()
        try:
            async with asyncio.timeout(route.first_byte_us / SECOND_US):
                answer = await self._session.request(
                    request.method,
                    URL(f"{at}{path}", encoded=True),
                    headers=headers,
                    data=body or None,
                    allow_redirects=False,
                    **named,
                )
        except TimeoutError:
            self._answered(attempt, True, _since(began))
            raise
        seen, waited_us = self.latencies.setdefault(route.job_id, deque(maxlen=LATENCIES)), _since(began)
        seen.append(waited_us)
        self._answered(attempt, answer.status >= 500, waited_us)
        return answer

    def _answered(self, attempt: str, failed: bool, waited_us: int = 0, more: int = 1) -> None:
        """A replica answered, or will not. `more`: 0 of an answer that is counted and breaks off."""
        many, bad, waited = self.answers.get(attempt, (0, 0, 0))
        self.answers[attempt] = many + more, bad + failed, waited + waited_us
        if len(self.answers) > ANSWERS_MAX:
            del self.answers[next(iter(self.answers))]

    def _context(self, attempt: str, door: Door) -> ssl.SSLContext:
        """For a replica on another machine. Raises `aiohttp.ClientConnectionError` where none can be made."""
        known = self._contexts.get(attempt)
        if known is not None and known[0] == door.certificate:
            return known[1]
        try:
            if self._pair is None:
                raise OSError("this gateway shows no certificate")
            made = context(self._pair, (door.certificate,), server=False)
        except OSError as problem:
            raise aiohttp.ClientConnectionError(str(problem)) from None
        routed = {one for route in self.core.routes.values() for one in route.doors}
        self._contexts = {one: kept for one, kept in self._contexts.items() if one in routed}
        self._contexts[attempt] = door.certificate, made
        return made

    # --- and back

    async def _answer(
        self,
        request: web.BaseRequest,
        route: Route,
        attempt: str,
        answer: aiohttp.ClientResponse,
        headers: CIMultiDict[str],
        body: bytes,
        hide: bool,
        used: Use,
        had_at: int,
    ) -> web.StreamResponse:
        route = self.core.routes.get(route.name, route)
        headers["x-bursar-replica"] = attempt
        if route.budget_left is not None and "x-bursar-budget-left" not in headers:
            headers["x-bursar-budget-left"] = f"{format_nanos(route.budget_left)} {route.currency}"
        counted = (route.api != "http" or route.units != "") and answer.status < 400
        kind, size = answer.content_type, answer.content_length or -1
        read_whole = counted and kind == "application/json" and 0 <= size <= WHOLE_BYTES_MAX
        if read_whole or 0 <= size <= SMALL_BYTES_MAX:
            data = await answer.read()
            used.failed = int(answer.status >= 500)
            if counted:
                _count(used, _said(route, data) if read_whole else None, body, 0, route)
            cost = route.cost_nanos(attempt, (time.monotonic_ns() - had_at) // 1_000)
            if cost is not None:
                headers["x-bursar-cost"] = f"{format_nanos(cost)} {route.currency}"
            return web.Response(status=answer.status, headers=headers, body=data)
        is_stream = kind == "text/event-stream" and not route.units
        stream = counting.Stream(hide) if counted and is_stream else None
        made = web.StreamResponse(status=answer.status, headers=headers)
        if answer.content_length is not None and not (stream is not None and hide):
            made.content_length = answer.content_length
        try:
            await made.prepare(request)
            await self._pass(route, answer, made, stream)
            used.failed = int(answer.status >= 500)
        except (aiohttp.ClientError, ConnectionError, TimeoutError) as problem:
            if not isinstance(problem, aiohttp.ClientConnectionResetError):  # that is the client's own end
                self._answered(attempt, answer.status < 500, more=0)
            # It has begun: another answer would be read as more of this one. It ends here, and not well.
            _cut(request)
        except asyncio.CancelledError:
            _cut(request)
            raise
        finally:
            if stream is not None:
                _count(used, stream.usage, body, stream.pieces, route)
            elif counted:
                _count(used, None, body, 0, route)
        return made

    async def _pass(
        self,
        route: Route,
        answer: aiohttp.ClientResponse,
        made: web.StreamResponse,
        stream: counting.Stream | None,
    ) -> None:
        """Piece by piece: the next is read once the client has room for the last."""
        while True:
            async with asyncio.timeout(route.idle_us / SECOND_US):
                data = await answer.content.readany()
            if not data:
                break
            await made.write(stream.feed(data) if stream is not None else data)
        if stream is not None:
            await made.write(stream.end())
        await made.write_eof()


@contextlib.contextmanager
def _held(answer: aiohttp.ClientResponse) -> Iterator[None]:
    """Closes an answer that was not read to its end: the replica learns that nobody reads."""
    try:
        yield
    finally:
        if answer.content.at_eof():
            answer.release()
        else:
            answer.close()


def _cut(request: web.BaseRequest) -> None:
    if request.transport is not None:
        request.transport.abort()


async def _body(request: web.BaseRequest, room: Callable[[int], bool]) -> bytes | Refusal:
    length = request.content_length
    if length is not None and length > BODY_BYTES_MAX:
        return _too_large()
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_S):
            while part := await request.content.readany():
                size += len(part)
                if size > BODY_BYTES_MAX:
                    return _too_large()
                if not room(len(part)):
                    text = "the gateway holds as much of other requests as it may"
                    return Refusal(503, "overloaded_error", "bodies_full", text, 1)
                parts.append(part)
    except TimeoutError:
        text = f"the body did not come within {BODY_S:g} s"
        return Refusal(408, "invalid_request_error", "slow_body", text)
    return b"".join(parts)


def _too_large() -> Refusal:
    text = f"a body has at most {BODY_BYTES_MAX >> 20} MiB"
    return Refusal(413, "invalid_request_error", "body_too_large", text)


def _like(request: web.BaseRequest, route: Route, body: bytes) -> bytes:
    """By what the replica is found that had requests like this one before; empty: any will do."""
    if route.session_header:
        return request.headers.get(route.session_header, "").encode("utf-8", "surrogateescape")
    return counting.prefix_of(body) if route.by_prefix else b""


def _said(route: Route, data: bytes) -> counting.Usage | None:
    """What a whole answer says of what it took."""
    document = counting.parsed(data)
    return counting.units_of(document, route.units) if route.units else counting.usage_of(document)


def _count(used: Use, said: counting.Usage | None, body: bytes, pieces: int, route: Route) -> None:
    """What the answer says; else what it looks like, told as such. What units are nobody can guess."""
    guess = counting.Usage() if route.units else counting.estimated(body, pieces)
    found = said if said is not None else guess
    used.tokens_in, used.tokens_out, used.tokens_cached = found
    used.counted, used.estimated = int(said is not None), int(said is None)


def _since(began_ns: int) -> int:
    return (time.monotonic_ns() - began_ns) // 1_000


def _unreachable(route: Route) -> Refusal:
    text = f"a replica of service {route.name} ended or refused; ask again"
    return Refusal(502, "api_error", "replica_lost", text, 1)


def _refusal(refusal: Refusal) -> web.Response:
    headers = {
        "x-should-retry": "true" if refusal.retry_s and refusal.type != "insufficient_quota" else "false"
    }
    if refusal.retry_s:
        headers["Retry-After"] = str(refusal.retry_s)
    return web.json_response(refusal.body(), status=refusal.status, headers=headers)
