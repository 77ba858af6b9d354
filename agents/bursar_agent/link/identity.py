"""Who this agent is, told to the daemon at each connection.

Owns    the channel and its credentials. Input: server address, token file, certificate authority.
Why     there is no unauthenticated way in: on a unix socket the kernel vouches for our uid and the
        daemon gives a short token for it; over TCP it takes TLS and the node's own token.
"""

from __future__ import annotations

import asyncio
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path

import grpc

from bursar.errors import InvalidRequest, ServerUnavailable

AUTH_SOCKET = "auth.sock"
_AUTH_TIMEOUT_S = 5.0
_SOCKET_PATH_BYTES_MAX = 107
_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", 8 << 20),
    ("grpc.max_send_message_length", 8 << 20),
    ("grpc.enable_retries", 0),
    # Of its own: a dead connection must not be shared with the next attempt.
    ("grpc.use_local_subchannel_pool", 1),
)


@dataclass(frozen=True, slots=True)
class Door:
    """Where the daemon is, and what opens it. Empty paths: none."""

    server: str
    token_file: Path = Path()
    ca_file: Path = Path()

    def check(self) -> None:
        """Raise `InvalidRequest` for what can never work."""
        if self.server.startswith("unix://"):
            path = self.server.removeprefix("unix://")
            if len(os.fsencode(path)) > _SOCKET_PATH_BYTES_MAX:
                raise InvalidRequest(
                    f"socket path {path} is longer than the {_SOCKET_PATH_BYTES_MAX} bytes the "
                    "kernel allows; use a shorter state directory"
                )
            if self.token_file != Path():
                self._node_token()
            return
        self._node_token()
        if self.ca_file != Path() and not self.ca_file.is_file():
            raise InvalidRequest(f"certificate authority {self.ca_file} does not exist")

    def channel(self) -> grpc.aio.Channel:
        """A fresh channel."""
        if self.server.startswith("unix://"):
            return grpc.aio.insecure_channel(self.server, options=_OPTIONS)
        roots = None if self.ca_file == Path() else self.ca_file.read_bytes()
        credentials = grpc.ssl_channel_credentials(root_certificates=roots)
        target = self.server.removeprefix("grpcs://")
        return grpc.aio.secure_channel(target, credentials, options=_OPTIONS)

    async def metadata(self) -> tuple[tuple[str, str], ...]:
        """The `authorization` header. Raises `ServerUnavailable`; never says the token.

        On a unix socket too a token of its own goes before the kernel's word: it is for this node alone.
        """
        if self.server.startswith("unix://") and self.token_file == Path():
            socket = Path(self.server.removeprefix("unix://")).parent / AUTH_SOCKET
            token = await _token_from(socket)
        else:
            token = self._node_token()
        return (("authorization", f"Bearer {token}"),)

    def _node_token(self) -> str:
        try:
            mode = self.token_file.stat().st_mode
            token = self.token_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as problem:
            raise InvalidRequest(f"token file {self.token_file}: {problem}") from None
        if stat.S_IMODE(mode) & 0o077:
            raise InvalidRequest(
                f"token file {self.token_file} can be read by others; chmod 600 {self.token_file}"
            )
        if not token or not token.isascii() or not token.isprintable():
            raise InvalidRequest(f"token file {self.token_file} holds no token")
        return token


async def _token_from(socket: Path) -> str:
    """One JSON line from the daemon's `auth.sock`, which asked the kernel who we are."""
    # A connection whose making is cancelled would be closed by nobody: it is made, and closed then.
    opening = asyncio.create_task(asyncio.open_unix_connection(str(socket)))
    try:
        async with asyncio.timeout(_AUTH_TIMEOUT_S):
            reader, _ = await asyncio.shield(opening)
            answer = json.loads(await reader.readline())
        if "error" in answer:
            raise ServerUnavailable(f"{socket}: {answer['error']}")
        return str(answer["token"])
    except TimeoutError:
        raise ServerUnavailable(f"{socket} does not answer") from None
    except OSError as problem:
        reason = os.strerror(problem.errno) if problem.errno else str(problem)
        raise ServerUnavailable(f"{socket}: {reason}; is bursard running?") from None
    except (ValueError, KeyError, TypeError):
        raise ServerUnavailable(f"{socket} gave no token") from None
    finally:
        opening.add_done_callback(_close)


def _close(opening: asyncio.Task[tuple[asyncio.StreamReader, asyncio.StreamWriter]]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result()[1].close()
