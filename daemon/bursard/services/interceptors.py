"""The one door of every call: identity first, then the handler, then errors as statuses.

Why     handlers raise `bursar.errors`; this is the only mapper, so every status carries `ErrorInfo` and a
        defect of ours never shows its inside: it is logged under an id, and the caller gets the id.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc import aio

from bursar.codec.bounds import check_numbers
from bursar.errors import BursarError, Forbidden, StoreUnavailable
from bursar.ids import Ids
from bursard.access.authorize import allowed, refusal, somewhere
from bursard.access.identity import set_caller
from bursard.access.rules import METHODS
from bursard.access.tokens import Authority
from bursard.store import CommitUnknown

log = logging.getLogger(__name__)

DOMAIN = "bursar"
_OPEN = frozenset({"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"})
"""All that answers without an identity."""

Handler = Any


class Door(aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Identity and error mapping around every handler; wrappers are made once per method."""

    def __init__(self, authority: Authority, ids: Ids) -> None:
        self._authority = authority
        self._ids = ids
        self._wrapped: dict[str, Any] = {}

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
        if handler is None or method in _OPEN:
            return handler
        self._wrapped[method] = wrapped = self._wrap(method, handler)
        return wrapped

    def _wrap(self, method: str, handler: Any) -> Any:
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(
                self._unary(method, handler.unary_unary),
                handler.request_deserializer,
                handler.response_serializer,
            )
        if handler.stream_unary:
            return grpc.stream_unary_rpc_method_handler(
                self._unary(method, handler.stream_unary),
                handler.request_deserializer,
                handler.response_serializer,
            )
        if handler.unary_stream:
            return grpc.unary_stream_rpc_method_handler(
                self._stream(method, handler.unary_stream),
                handler.request_deserializer,
                handler.response_serializer,
            )
        return grpc.stream_stream_rpc_method_handler(
            self._stream(method, handler.stream_stream),
            handler.request_deserializer,
            handler.response_serializer,
        )

    def _enter(self, method: str, request: Any, context: aio.ServicerContext[Any, Any]) -> None:
        """Who calls, may they call this at all, and are its numbers numbers? What a request is about is for
        its handler to check, as are the messages of a stream.
        """
        metadata = context.invocation_metadata() or ()
        given = next((value for key, value in metadata if key == "authorization"), "")
        identity = self._authority.identify(str(given))
        rule = METHODS.get(method)
        if rule is None:
            raise Forbidden(f"{method} is not served to anybody: it has no rule of access")
        if not (allowed(identity, rule.action) if rule.site else somewhere(identity, rule.action)):
            raise refusal(identity, rule.action)
        set_caller(identity)
        if isinstance(request, Message):
            check_numbers(request)

    def _unary(self, method: str, behaviour: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(request: Any, context: aio.ServicerContext[Any, Any]) -> Any:
            try:
                self._enter(method, request, context)
                return await behaviour(request, context)
            except asyncio.CancelledError:
                raise
            except Exception as error:
                await self._abort(context, error)

        return call

    def _stream(
        self, method: str, behaviour: Callable[..., AsyncIterator[Any]]
    ) -> Callable[..., AsyncIterator[Any]]:
        async def call(request: Any, context: aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            try:
                self._enter(method, request, context)
                async for response in behaviour(request, context):
                    yield response
            except (asyncio.CancelledError, GeneratorExit):
                raise
            except Exception as error:
                await self._abort(context, error)

        return call

    async def _abort(self, context: aio.ServicerContext[Any, Any], error: Exception) -> None:
        if isinstance(error, aio.AbortError | aio.BaseError):
            raise error
        if isinstance(error, CommitUnknown):
            error = StoreUnavailable(
                "the daemon could not write its log and is restarting; whether this call took effect is"
                " unknown: ask again with the same idempotency key"
            )
        if not isinstance(error, BursarError):
            fault = self._ids.new("fault")
            log.error("a call failed", extra={"fault": fault}, exc_info=error)
            error = BursarError(f"an internal error happened; the log has it as {fault}", {"fault": fault})
        code = grpc.StatusCode[error.status]
        await context.abort(code, error.message, trailing_metadata=(_details(code, error),))


def _details(code: grpc.StatusCode, error: BursarError) -> tuple[str, bytes]:
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    for key, value in list(error.facts.items())[:32]:
        info.metadata[key] = value[:512]
    packed = any_pb2.Any()
    packed.Pack(info)
    status = status_pb2.Status(code=code.value[0], message=error.message[:4000], details=[packed])
    return "grpc-status-details-bin", status.SerializeToString()
