"""What both clients know about a connection: channel options, identity, and what a failure means.

Owns    the way from a gRPC status back to `bursar.errors`, and the life of a token.
Why     nobody above this file parses text or sees `grpc.RpcError`.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import grpc
from google.rpc import error_details_pb2, status_pb2

from bursar import errors
from bursar.client.address import Address, absence, denied, group_of, probe, reachable, read_token
from bursar.model import JobState

KEEPALIVE_MS: Final = 10_000
KEEPALIVE_TIMEOUT_MS: Final = 5_000
SEND_BYTES_MAX: Final = 1 << 20
RECEIVE_BYTES_MAX: Final = 16 << 20
"""As much as a server sends in one message."""
AUTH_TIMEOUT_S: Final = 5.0
RENEW_SHARE: Final = 0.8
"""Share of a token's life after which a fresh one is fetched."""

NAMED_MAX: Final = 5
"""Jobs that one message names."""

OPTIONS: Final = (
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_send_message_length", SEND_BYTES_MAX),
    ("grpc.max_receive_message_length", RECEIVE_BYTES_MAX),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
)
UNIX_OPTIONS: Final = (*OPTIONS, ("grpc.default_authority", "localhost"))

_BY_STATUS: Final[dict[grpc.StatusCode, type[errors.BursarError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequest,
    grpc.StatusCode.ALREADY_EXISTS: errors.KeyConflict,
    grpc.StatusCode.NOT_FOUND: errors.NotFound,
    grpc.StatusCode.FAILED_PRECONDITION: errors.WrongState,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.RateLimited,
    grpc.StatusCode.ABORTED: errors.StaleVersion,
    grpc.StatusCode.UNAUTHENTICATED: errors.Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: errors.Forbidden,
    grpc.StatusCode.UNIMPLEMENTED: errors.NotBuilt,
}


def not_ended(jobs: Iterable[Any]) -> TimeoutError:
    """What `wait` raises: which of them, messages of `bursar.v1`, have not ended, the first few by number."""
    jobs = list(jobs)
    left = [job for job in jobs if not JobState(job.state).terminal]
    if len(jobs) == 1:
        return TimeoutError(f"job {_called(jobs[0])} has not ended in the time given: it is {jobs[0].state}")
    named = ", ".join(f"{_called(job)} {job.state}" for job in left[:NAMED_MAX])
    more = ", ..." if len(left) > NAMED_MAX else ""
    return TimeoutError(f"{len(left)} of {len(jobs)} jobs have not ended in the time given: {named}{more}")


def _called(job: Any) -> str:
    return f"{job.number}[{job.array_index}]" if job.parent_id else str(job.number)


def error_from(error: Any, address: Address) -> errors.BursarError:
    """The Bursar error behind a `grpc.RpcError`, with its reason, message and facts."""
    code = status_of(error)
    text = str(error.details() or "")
    info = _error_info(error.trailing_metadata())
    if info is not None:
        kind = errors.by_reason(info.reason)
        if kind is errors.BursarError:  # a reason newer than this client: the status still tells
            kind = _BY_STATUS.get(code, errors.BursarError)
        return kind(text, dict(info.metadata))
    if code is grpc.StatusCode.UNAVAILABLE:
        return unavailable(address, text)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return errors.ServerUnavailable(
            f"the server at {address.url} did not answer in time; is it overloaded or suspended? "
            "`bursar status` and its log tell more"
        )
    if code is grpc.StatusCode.CANCELLED:
        return errors.ServerUnavailable(f"the server at {address.url} closed the call: {text}")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return errors.NotBuilt(f"the server at {address.url} is older and cannot do this: {text}")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in text:
        return errors.InvalidRequest(f"one message is too large; send less at a time ({text})")
    return _BY_STATUS.get(code, errors.BursarError)(text or f"the server failed ({code.name})")


def status_of(error: Any) -> grpc.StatusCode:
    """The status of a `grpc.RpcError`, which the stubs of gRPC leave out."""
    code: grpc.StatusCode = error.code()
    return code


def timed_out(error: Any, passed_s: float, timeout_s: float) -> bool:
    """Did a stream end since its time was over? Of a request that it was about to send just then, gRPC's
    asynchronous side says INTERNAL.
    """
    status = status_of(error)
    late = status is grpc.StatusCode.INTERNAL and passed_s >= timeout_s
    return late or status is grpc.StatusCode.DEADLINE_EXCEEDED


def _error_info(metadata: Any) -> error_details_pb2.ErrorInfo | None:
    """The `google.rpc.ErrorInfo` in the trailing metadata, if a whole one is there."""
    for key, value in metadata or ():
        if key != "grpc-status-details-bin":
            continue
        try:
            for detail in status_pb2.Status.FromString(value).details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info) and info.domain == "bursar":
                    return info
        except ValueError:  # DecodeError: not ours to read
            return None
    return None


def restarted(address: Address) -> errors.ServerUnavailable:
    """The daemon was started again between the caller's token and the call, which it therefore refused."""
    return errors.ServerUnavailable(
        f"the server at {address.url} was started again as this call began and took nothing of it; call again"
    )


def unavailable(address: Address, text: str = "") -> errors.BursarError:
    """Nobody answers at `address`: what was tried, and what to do."""
    if address.socket is None:
        return errors.ServerUnavailable(
            f"no server answers at {address.url} (from {address.origin}): {text}; check the address, "
            "the network, and BURSAR_CA_FILE when the certificate is your own"
        )
    at = f"{address.url} (from {address.origin})"
    if denied(address.socket):
        group = group_of(address.socket)
        return errors.Forbidden(
            f"this user may not open the socket of {at}: join group {group}"
            f" (`sudo usermod -aG {group} $USER`, then log in again)"
        )
    if probe(address.socket):
        return errors.ServerUnavailable(
            f"the server at {at} broke the connection ({text or 'no word why'}); call again"
        )
    return errors.ServerUnavailable(f"no server at {at}: {absence(address)}")


SocketMark = tuple[int, int] | None


class Identity:
    """Who the caller is: the metadata that goes with every call. Safe to share between threads.

    On a unix socket the daemon learns the uid from the kernel (SO_PEERCRED) at `auth.sock`, beside
    its own socket, and answers with a short token, renewed here before it runs out and when the socket is
    another one, as after a restart of the daemon, which knows no token of before. Over TLS come the token of
    the environment, then the login for that server (`bursar login`), which is refreshed before it ends, then
    the token file; on a unix socket only an explicit one does.
    """

    def __init__(self, address: Address, token: str | None) -> None:
        self._auth: Path | None = None
        self._login = ""
        self._lock = threading.Lock()
        self._renew_at = float("inf")
        self._given_at: SocketMark = None
        self._token = _sendable(token or "", "the token")
        if self._token:
            return
        if address.socket is None:
            from bursar.client import logins  # of no use to whoever calls on this machine

            if not os.environ.get("BURSAR_TOKEN") and logins.known(address.target):
                self._login, self._renew_at = address.target, 0.0
                return
            of = "BURSAR_TOKEN" if os.environ.get("BURSAR_TOKEN") else "the token in its file"
            self._token = _sendable(read_token(), of)
            if not self._token:
                raise errors.Unauthenticated(
                    f"no token for {address.url}: `bursar login`, set BURSAR_TOKEN, or write the token to "
                    "~/.config/bursar/token with mode 0600"
                )
        else:
            self._auth = address.socket.with_name("auth.sock")
            self._renew_at = 0.0

    @property
    def fresh(self) -> bool:
        """Is what `metadata` answers at hand? Else it asks the daemon, and waits for it."""
        return (self._auth is None and not self._login) or time.monotonic() < self._renew_at

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What to send now, after fetching a token if the last one is about to run out."""
        with self._lock:
            if self._auth is not None and (
                time.monotonic() >= self._renew_at or _mark(self._auth) != self._given_at
            ):
                self._fetch(self._auth)
            if self._login and time.monotonic() >= self._renew_at:
                self._refresh(self._login)
            return (("authorization", f"Bearer {self._token}"),) if self._token else ()

    async def obtain(self) -> tuple[tuple[str, str], ...]:
        """`metadata`, without keeping an event loop waiting: the exchange runs beside it."""
        import asyncio  # programs that wait need none

        return self.metadata() if self.fresh else await asyncio.to_thread(self.metadata)

    def replace(self, token: str) -> None:
        """From the next call on, this token is sent."""
        with self._lock:
            self._token = token

    def renew(self) -> bool:
        """Forget the token: the daemon was started again meanwhile. False when it cannot be renewed."""
        with self._lock:
            self._renew_at = 0.0 if self._auth is not None else self._renew_at
            return self._auth is not None

    def _refresh(self, server: str) -> None:
        from bursar.client import logins

        self._token, left_s = logins.token(server)
        self._renew_at = time.monotonic() + max(left_s - logins.SOON_S, 1.0)

    def _fetch(self, path: Path) -> None:
        asked_at = time.monotonic()
        self._given_at = _mark(path)
        self._token, self._renew_at = "", 0.0
        answer = _exchange(path)
        if answer is None:  # the call itself then tells what is wrong
            return
        self._token, expires_s = answer
        self._renew_at = asked_at + RENEW_SHARE * expires_s


def _mark(path: Path) -> SocketMark:
    """Tells one socket of this name from the next; None: there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_ctime_ns


def _exchange(path: Path) -> tuple[str, float] | None:
    """Connect to `auth.sock` and read its one line, `{"token": …, "expires_s": …}`; None when there is none.

    Raises:
        Unauthenticated: the daemon gives this user no token, and says why (`{"error": …}`).
    """
    data = b""
    try:
        with reachable(path) as short, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
            s.settimeout(AUTH_TIMEOUT_S)
            s.connect(short)
            while b"\n" not in data and len(data) < 65536:
                part = s.recv(4096)
                if not part:
                    break
                data += part
        answer = json.loads(data)
        if "error" in answer:
            raise errors.Unauthenticated(str(answer["error"]))
        return str(answer["token"]), float(answer["expires_s"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def tls_credentials() -> grpc.ChannelCredentials:
    """Roots of the system, or of `BURSAR_CA_FILE`."""
    path = os.environ.get("BURSAR_CA_FILE")
    if not path:
        return grpc.ssl_channel_credentials()
    try:
        return grpc.ssl_channel_credentials(root_certificates=Path(path).read_bytes())
    except OSError as error:
        raise errors.InvalidRequest(f"BURSAR_CA_FILE: {path} cannot be read: {error}") from None


def _sendable(token: str, origin: str) -> str:
    """The token, if a header can carry it. Raises `Unauthenticated`, without showing it."""
    if not (token.isascii() and token.isprintable()):
        raise errors.Unauthenticated(
            f"{origin} has characters that no token has (only printable ASCII is sent); copy it again, as it"
            " was given"
        )
    return token
