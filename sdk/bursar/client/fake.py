"""A server that says what it is told to: for tests of the CLI and of programs that use `Client`.

Owns    a unix socket with every service of `bursar.v1`, and `auth.sock` beside it.
Why     what a client does with an answer, a refusal or a lost server is tested without a daemon.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any, Final

import grpc
from google.protobuf import message_factory
from google.rpc import code_pb2, error_details_pb2, status_pb2

from bursar.errors import BursarError, Unauthenticated
from bursar.v1 import access_pb2, events_pb2, jobs_pb2, money_pb2, nodes_pb2

_FILES: Final = (access_pb2, jobs_pb2, nodes_pb2, money_pb2, events_pb2)


class FakeServer(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """A server in this process.

    Attributes:
        answers: by `Jobs/Get`: a message, a list of messages for a stream, an error to refuse with,
            or a function of the request that gives one of these. No entry: an empty answer. Jobs of a batch
            are answered, and noted, one by one as `Jobs/SubmitMany`.
        requests: (`Jobs/Get`, request) of every call, in order.
        tokens_given: how many tokens `auth.sock` handed out; a call must carry the newest one.
        expires_s: life of a token, as told to clients.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.socket = folder / "bursar.sock"
        self.url = f"unix://{self.socket}"
        self.answers: dict[str, Any] = {}
        self.requests: list[tuple[str, Any]] = []
        self.tokens_given = 0
        self.expires_s = 300.0
        self._server: grpc.Server | None = None
        self._auth: socket.socket | None = None

    def __enter__(self) -> FakeServer:
        self._server = grpc.server(futures.ThreadPoolExecutor(4), handlers=[self])
        self._server.add_insecure_port(f"unix:{self.socket}")
        self._server.start()
        path = self.socket.with_name("auth.sock")
        self._auth = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._auth.bind(str(path))
        self._auth.listen()
        threading.Thread(target=self._identify, args=(self._auth,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.stop(0).wait()
        if self._auth is not None:
            self._auth.shutdown(socket.SHUT_RDWR)
            self._auth.close()
        for name in ("bursar.sock", "auth.sock"):
            self.socket.with_name(name).unlink(missing_ok=True)

    def forget_tokens(self) -> None:
        """As after a restart of the daemon: no token given so far is good any more."""
        self.tokens_given += 1

    def calls(self, method: str) -> list[Any]:
        """The requests of one method."""
        return [request for name, request in self.requests if name == method]

    def service(self, handler_call_details: Any) -> Any:
        """Give gRPC the handler of a method: always one that looks into `answers`."""
        service, _, name = handler_call_details.method.removeprefix("/bursar.v1.").partition("/")
        method = _method(service, name)
        if method is None:
            return None
        request_type = message_factory.GetMessageClass(method.input_type)
        answer_type = message_factory.GetMessageClass(method.output_type)
        key = f"{service}/{name}"

        def one(request: Any, context: Any) -> Any:
            found = self._answer(key, request, context)
            return answer_type() if found is None else found

        def many(request: Any, context: Any) -> Iterator[Any]:
            try:
                yield from self._answer(key, request, context) or ()
            except BursarError as error:
                _refuse(context, error)

        def each(requests: Iterator[Any], context: Any) -> Iterator[Any]:
            for request in requests:
                yield batch(request, context) if name == "SubmitBatches" else one(request, context)

        def batch(request: Any, context: Any) -> Any:
            found = (self._answer("Jobs/SubmitMany", job, context) for job in request.jobs)
            return jobs_pb2.SubmitAnswers(answers=[each or jobs_pb2.SubmitResponse() for each in found])

        make: Any = grpc.unary_unary_rpc_method_handler
        behaviour: Callable[..., Any] = one
        if method.client_streaming:
            make, behaviour = grpc.stream_stream_rpc_method_handler, each
        elif method.server_streaming:
            make, behaviour = grpc.unary_stream_rpc_method_handler, many
        return make(behaviour, request_type.FromString, answer_type.SerializeToString)

    def _answer(self, key: str, request: Any, context: Any) -> Any:
        metadata = dict(context.invocation_metadata())
        if metadata.get("authorization") != f"Bearer token-{self.tokens_given}":
            _refuse(context, Unauthenticated("no identity on the call"))
        self.requests.append((key, request))
        found = self.answers.get(key)
        if callable(found):
            found = found(request)
        if isinstance(found, BursarError):
            _refuse(context, found)
        return found

    def _identify(self, listener: socket.socket) -> None:
        while True:
            try:
                caller, _ = listener.accept()
            except OSError:
                return
            with caller:
                self.tokens_given += 1
                answer = {"token": f"token-{self.tokens_given}", "expires_s": self.expires_s}
                caller.sendall(json.dumps(answer).encode() + b"\n")


def _method(service: str, name: str) -> Any:
    for file in _FILES:
        found = file.DESCRIPTOR.services_by_name.get(service)
        if found is not None:
            return found.methods_by_name.get(name)
    return None


def _refuse(context: Any, error: BursarError) -> None:
    """Abort with the status and the `google.rpc.ErrorInfo` of an error, as the daemon does."""
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain="bursar", metadata=error.facts)
    status = status_pb2.Status(code=code_pb2.Code.Value(error.status), message=error.message)
    status.details.add().Pack(info)
    metadata = (("grpc-status-details-bin", status.SerializeToString()),)
    context.set_trailing_metadata(metadata)
    context.abort(getattr(grpc.StatusCode, error.status), error.message)
