"""Proof of identity: the kernel's word on the unix socket, a token's hash everywhere else.

Owns    short tokens for local callers (SO_PEERCRED on `auth.sock`), configured user tokens, node tokens.
Why     gRPC over a unix socket does not say who called, so a side socket asks the kernel and hands out a
        token that lives five minutes. Secrets are kept as SHA-256 (they have full entropy), compared in
        constant time, and never logged.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
import pwd
import secrets
import socket
import struct
from pathlib import Path

import msgspec

from bursar.clock import Clock
from bursar.errors import Unauthenticated
from bursard.services.identity import Identity, Role
from bursard.state import State

LOCAL_TTL_S = 300
"""A local token's life; clients fetch a new one before it ends."""
_TOKENS_MAX = 100_000


class UserToken(msgspec.Struct, frozen=True):
    """A configured token: `[[token]]` of the tokens file."""

    user: str
    role: Role
    sha256: str


class Authority:
    """Turns a bearer token into an identity."""

    def __init__(
        self, state: State, clock: Clock, *, local_role: Role | None, users: tuple[UserToken, ...] = ()
    ) -> None:
        self._state = state
        self._clock = clock
        self._local_role = local_role
        self._users = users
        self._local: dict[str, tuple[Identity, int]] = {}

    def issue_local(self, uid: int) -> str:
        """A short token for a local user. Raises `Unauthenticated` when local users are not admitted."""
        if uid in (0, os.getuid()):
            role = Role.ADMIN
        elif self._local_role is not None:
            role = self._local_role
        else:
            raise Unauthenticated("local users other than the owner are not admitted here")
        token = secrets.token_urlsafe(24)
        if len(self._local) >= _TOKENS_MAX:
            self._drop_expired()
        expires = self._clock.boot_us() + LOCAL_TTL_S * 1_000_000
        self._local[token] = (Identity(_user_name(uid), role, local=True), expires)
        return token

    def _drop_expired(self) -> None:
        now = self._clock.boot_us()
        self._local = {token: kept for token, kept in self._local.items() if kept[1] > now}

    def identify(self, authorization: str) -> Identity:
        """Who a call's `authorization` metadata proves. Raises `Unauthenticated`."""
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthenticated("this call carries no token; use the bursar client, or set BURSAR_TOKEN")
        local = self._local.get(token)
        if local is not None:
            if local[1] > self._clock.boot_us():
                return local[0]
            del self._local[token]
            raise Unauthenticated("the token has expired; fetch a new one")
        digest = hashlib.sha256(token.encode()).hexdigest()
        for user in self._users:
            if hmac.compare_digest(user.sha256, digest):
                return Identity(user.user, user.role)
        node = self._state.node_tokens.get(digest)
        if node is not None and (node.instance or node.expires_at > self._clock.now()):
            return Identity(node.name, Role.AGENT, token_sha256=digest)
        raise Unauthenticated("the token is not known here, or has expired")


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid-{uid}"


def load_users(path: Path) -> tuple[UserToken, ...]:
    """Read a tokens file: TOML with `[[token]] user = …, role = …, sha256 = …`."""
    data = msgspec.toml.decode(path.read_bytes(), type=dict[str, tuple[UserToken, ...]])
    return data.get("token", ())


async def serve_peers(authority: Authority, path: str) -> asyncio.Server:
    """Listen on `auth.sock`: every connection gets one JSON line with a token, and is closed."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            peer: socket.socket = writer.get_extra_info("socket")
            raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            uid = struct.unpack("3i", raw)[1]
            try:
                line = {"token": authority.issue_local(uid), "expires_s": LOCAL_TTL_S}
            except Unauthenticated as error:
                line = {"error": error.message}
            writer.write(json.dumps(line).encode() + b"\n")
            async with asyncio.timeout(5):
                await writer.drain()
        except (OSError, TimeoutError):
            pass
        finally:
            writer.close()

    return await asyncio.start_unix_server(answer, path=path, backlog=256)
