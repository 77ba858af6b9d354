"""The one door of every call: identity first, then room, then the handler, then errors as statuses.

Owns    the way in and out of every method. gRPC gives and takes bytes here; what they mean is decided after
        the caller is known: a stranger's bytes are never looked at, bytes that mean nothing have an answer.
Why     handlers raise `bursar.errors`; this is the only mapper, so every status carries `ErrorInfo` and a
        defect of ours never shows its inside: it is logged under an id, and the caller gets the id.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError, Message
from grpc import aio

from bursar.clock import Clock
from bursar.codec.bounds import check_counts, check_numbers, check_texts
from bursar.errors import AnswerTooLarge, BursarError, Forbidden, InvalidRequest, StoreUnavailable
from bursar.ids import Ids
from bursard.access.admission import Admission, Kind, Ticket, kind_of
from bursard.access.allowances import Allowances
from bursard.access.authorize import allowed, refusal, somewhere
from bursard.access.crowd import Proven
from bursard.access.identity import Identity, set_caller
from bursard.access.refusals import Refusals
from bursard.access.rules import METHODS, Rule, Writes
from bursard.access.sessions import Session, Sessions, enter_session
from bursard.access.tokens import Authority
from bursard.events import Event, RoleRevoked
from bursard.services.firstword import FirstWords
from bursard.services.lastword import last_word
from bursard.services.unseen import told
from bursard.services.wirefault import unreadable
from bursard.store import CommitUnknown
from bursard.turns import STAFF, USER, Turns

REQUEST_S: Final = 10.0
"""How long a call that carries one request may keep it back."""
ABORT_S: Final = 5.0
"""How long the last word of a stream may wait for a reader that stopped."""
REFUSED_S: Final = 0.25
"""How long a caller who is refused may take to send its request."""
ANSWER_BYTES_MAX: Final = 16 << 20
"""Of one message out; every client takes as much."""
_EOF: Final = aio.EOF  # type: ignore[attr-defined]  # missing in the stubs
_OPEN: Final = frozenset({"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"})
"""All that answers without an identity."""

_KINDS: Final = {Kind.STAFF: STAFF, Kind.USER: USER}
"""Whose calls take turns."""

Context = aio.ServicerContext[Any, Any]
Call = Callable[[AsyncIterator[bytes], Context], Awaitable[None]]


class _Asked:
    """A call that is being let in: whose it is, its place, and its stream."""

    __slots__ = ("identity", "session", "ticket")

    def __init__(self) -> None:
        self.identity: Identity | None = None
        self.session: Session | None = None
        self.ticket: Ticket | None = None


class Door(aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Identity, room and error mapping around every handler; wrappers are made once per method."""

    def __init__(
        self,
        authority: Authority,
        ids: Ids,
        clock: Clock,
        allowances: Allowances,
        admission: Admission | None = None,
        turns: Turns | None = None,
    ) -> None:
        self._authority = authority
        self._ids = ids
        self._clock = clock
        self._allowances = allowances
        self._admission = admission or Admission()
        self.turns = turns or Turns()
        self._wrapped: dict[str, Any] = {}
        self._first_words = FirstWords()
        self.sessions = Sessions(authority, clock)
        self.refusals = Refusals(clock)
        self.proven = Proven()

    def on_event(self, seq: int, event: Event, at: int, actor: str) -> None:
        """Rights have changed: streams that rest on them end now, not at the next sweep."""
        if isinstance(event, RoleRevoked):
            self.sessions.recheck()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: Any,
    ) -> Any:
        """Find the wrapped handler of a call."""
        method = handler_call_details.method
        if method in self._wrapped:
            return self._wrapped[method]
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        # A stream of bytes each way, whatever the method is: only so is the caller known, and a call counted,
        # before its request has come.
        wrapped = grpc.stream_stream_rpc_method_handler(self._wrap(method, handler), None, None)
        self._wrapped[method] = wrapped
        return wrapped

    def _wrap(self, method: str, handler: Any) -> Call:
        behaviour = (
            handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        )
        is_stream = handler.response_streaming
        kind: type[Message] = handler.request_deserializer.__self__

        async def serve(asked: _Asked, raw: AsyncIterator[bytes], context: Context) -> None:
            session = asked.session
            try:
                many = handler.request_streaming
                request = _messages(kind, raw) if many else await self._only(kind, context)
                if is_stream:
                    async with contextlib.aclosing(behaviour(request, context)) as responses:
                        async for response in responses:
                            await self._send(
                                context, _bounded(handler.response_serializer(response)), session
                            )
                else:
                    answer = await behaviour(request, context)
                    await context.write(_bounded(handler.response_serializer(answer)))
            except asyncio.CancelledError:
                if session is None or session.error is None or session.task is None:
                    raise
                session.task.uncancel()
                self._forget(asked)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(ABORT_S):
                        if session.opening is not None:
                            await session.opening
                        await self._abort(method, asked.identity, context, session.error)
            except Exception as error:
                await self._abort(method, asked.identity, context, error)

        async def call(raw: AsyncIterator[bytes], context: Context) -> None:
            self.turns.arrived()
            asked = _Asked()
            try:
                try:
                    await self._admit(method, is_stream, asked, context)
                except Exception as error:
                    # It keeps no place, so it does not wait for its turn; it is charged for it.
                    refusing = self._refuse(method, handler.request_streaming, asked, context, error)
                    await self._in_turn(asked, refusing, waits=False)
                await self._in_turn(asked, serve(asked, raw, context))
            finally:
                self._forget(asked)

        return call

    async def _in_turn(self, asked: _Asked, work: Coroutine[Any, Any, None], *, waits: bool = True) -> None:
        """Serve a call. Agents take no turns, having bounds of their own; nor does a health check, which is
        next to nothing.
        """
        identity, ticket = asked.identity, asked.ticket
        kind = _KINDS.get(ticket.kind if ticket is not None else kind_of(identity, None))
        if identity is None or kind is None:
            await work
        else:
            await self.turns.drive(self.turns.call_of(kind, identity.name), work, waits=waits)

    async def _refuse(
        self, method: str, is_stream: bool, asked: _Asked, context: Context, error: Exception
    ) -> None:
        await _heard(context, is_stream)
        await self._abort(method, asked.identity, context, error)

    async def _admit(self, method: str, is_stream: bool, asked: _Asked, context: Context) -> None:
        """Let a call in: who it is, what it may, and its room. Raises where one of them is wanting."""
        identity, authorization = await self._who(method, context)
        asked.identity = identity
        rule = self._enter(method, identity)
        asked.ticket = self._admission.enter(identity, rule.action if rule else None, is_stream=is_stream)
        if identity is not None and rule is not None and is_stream:
            asked.session = Session(identity, authorization, rule)
            self.sessions.open.add(asked.session)
        enter_session(asked.session)

    async def _only(self, kind: type[Message], context: Context) -> Any:
        """The one request of a call, its numbers numbers and its texts lines. Raises `InvalidRequest`, also
        when none comes.
        """
        try:
            # No iterator here: one that is left after its first word is ended by a task of its own.
            data = await self._first_words.hear(context.read, REQUEST_S)
        except TimeoutError:
            raise InvalidRequest(f"no request came within {REQUEST_S:g} s of the call") from None
        if data is _EOF:
            raise InvalidRequest("the call carries no request")
        request = _decoded(kind, data)
        check_counts(request)
        check_numbers(request)
        check_texts(request)
        return request

    async def _send(self, context: Context, data: bytes, session: Session | None) -> None:
        """One message of a stream, with the time since which it waits for its reader."""
        if session is None:
            await context.write(data)
            return
        session.sending_since = self._clock.boot_us()
        if session.opening is None:
            # By itself: a first message that nobody takes would hold the head of the answer with it, and
            # gRPC says no last word to a call whose head is still being sent.
            session.opening = asyncio.ensure_future(context.send_initial_metadata(()))
            session.opening.add_done_callback(_heed)
            await asyncio.shield(session.opening)
        await context.write(data)
        session.sending_since = 0

    def _forget(self, asked: _Asked) -> None:
        if asked.session is not None:
            self.sessions.open.discard(asked.session)
        if asked.ticket is not None:
            self._admission.leave(asked.ticket)
            asked.ticket = None

    async def _who(self, method: str, context: Context) -> tuple[Identity | None, str]:
        """Who calls, and on which proof. Nobody is who calls an open method."""
        if method in _OPEN:
            return None, ""
        metadata = context.invocation_metadata() or ()
        given = str(next((value for key, value in metadata if key == "authorization"), ""))
        identity = await self._authority.admit(given)
        self.proven.note(context.peer(), identity.name)
        return identity, given

    def _enter(self, method: str, identity: Identity | None) -> Rule | None:
        """May they call this at all? What a request is about is for its handler to check."""
        if identity is None:
            return None
        rule = METHODS.get(method)
        if rule is None:
            raise Forbidden(f"{method} is not served to anybody: it has no rule of access")
        if not (allowed(identity, rule.action) if rule.site else somewhere(identity, rule.action)):
            raise refusal(identity, rule.action)
        if rule.writes is Writes.CHANGES:
            self._allowances.check(identity.name, rule.writes)
        set_caller(identity)
        return rule

    async def _abort(
        self, method: str, identity: Identity | None, context: Context, error: Exception
    ) -> None:
        if isinstance(error, aio.AbortError | aio.BaseError):
            raise error
        if isinstance(error, CommitUnknown):
            error = StoreUnavailable(
                "the daemon could not write its log and is restarting; whether this call took effect is"
                " unknown: ask again with the same idempotency key"
            )
        if not isinstance(error, BursarError):
            fault = self._ids.new("fault")
            self.refusals.fault(fault, method, error)
            error = BursarError(f"an internal error happened; the log has it as {fault}", {"fault": fault})
        else:
            if identity is not None:
                error = told(error, self._authority.state, identity)
            self.refusals.note(method, identity.name if identity is not None else "", error)
        code = grpc.StatusCode[error.status]
        message, details = last_word(code, error)
        await context.abort(code, message, trailing_metadata=(details,))


def _heed(opening: asyncio.Future[None]) -> None:
    """A caller who has left has no use for the head of an answer: that it did not leave is no fault."""
    if not opening.cancelled():
        opening.exception()


async def _messages(kind: type[Message], raw: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    """Messages of a caller that is known by now. Raises `InvalidRequest` for bytes that are none."""
    async for data in raw:
        yield _decoded(kind, data)


def _decoded(kind: type[Message], data: bytes) -> Message:
    try:
        return kind.FromString(data)
    except DecodeError:
        raise unreadable(kind.DESCRIPTOR, data) from None


def _bounded(data: bytes) -> bytes:
    """One message out. Raises `AnswerTooLarge` here, where it is an answer: below it is a fault of gRPC's."""
    if len(data) > ANSWER_BYTES_MAX:
        raise AnswerTooLarge(
            f"the answer has {len(data)} bytes, more than the {ANSWER_BYTES_MAX} of one message; ask for"
            " less: narrow it with a filter, a smaller page, or one name at a time. If the call changes"
            " something, that has been done",
            {"bytes": str(len(data)), "bytes_max": str(ANSWER_BYTES_MAX)},
        )
    return data


async def _heard(context: Context, is_stream: bool) -> None:
    """Take in, unread, what a caller who is refused is about to send: a client whose own words cannot leave
    any more may report that instead of the refusal. Who keeps them back is not waited for.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(REFUSED_S):
            while await context.read() is not _EOF and not is_stream:
                pass
