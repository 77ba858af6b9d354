"""Proof of identity: the kernel's word on the unix socket, a token's hash everywhere else.

Owns    short tokens for local callers (SO_PEERCRED on `auth.sock`), configured user tokens, node tokens, and
        who brings a token of the site's identity provider (`access/oidc`).
Why     gRPC over a unix socket does not say who called, so a side socket asks the kernel and hands out a
        token that lives five minutes. Secrets are kept as SHA-256 (they have full entropy), looked up by
        that hash, and never logged. Rights are looked up at each call, so a grant holds from the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import pwd
import re
import secrets
import socket
import struct
from pathlib import Path

import msgspec

from bursar import users
from bursar.aside import read_own
from bursar.clock import Clock
from bursar.errors import InvalidRequest, Unauthenticated
from bursar.model.check import quote
from bursar.projects import problem_of
from bursard.access.identity import Grant, Identity, Role
from bursard.access.keyset import KeyUnknown
from bursard.access.oidc import Verifier
from bursard.state import State

log = logging.getLogger(__name__)

LOCAL_TTL_S = 300
"""A local token's life; clients fetch a new one before it ends."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
FILE_BYTES_MAX = 4 << 20
"""The largest tokens file that is read."""
_TABLE = re.compile(rb"^[ \t]*(\[\[)[ \t]*token[ \t]*\]\]", re.MULTILINE)


NO_ROLE = "none"
"""In a tokens file and as `local_role`: nothing but what `bursar grant` gives."""


class UserToken(msgspec.Struct, frozen=True):
    """A configured token: `[[token]]` of the tokens file. `project`: its role is held over that alone."""

    user: str
    role: Role | None
    sha256: str
    project: str = ""

    @property
    def base(self) -> tuple[Role | None, tuple[Grant, ...]]:
        """What it holds by itself: a role over the site, or a grant of one project."""
        if self.role is not None and self.project:
            return None, (Grant(self.role, self.project),)
        return self.role, ()


class _Local(msgspec.Struct, frozen=True):
    uid: int
    name: str
    expires_us: int


class Authority:
    """Turns a bearer token into an identity."""

    def __init__(
        self,
        state: State,
        clock: Clock,
        *,
        local_role: Role | None,
        users: tuple[UserToken, ...] = (),
        provider: Verifier | None = None,
    ) -> None:
        self.state = state
        self._clock = clock
        self._local_role = local_role
        self._provider = provider
        self._users: dict[str, UserToken] = {}
        self.replace(users)
        self._local: dict[str, _Local] = {}
        self._newest: dict[int, str] = {}

    def replace(self, users: tuple[UserToken, ...]) -> None:
        """From now on these configured tokens are good, and no others."""
        self._users = {user.sha256: user for user in users}

    def issue_local(self, uid: int) -> tuple[str, int]:
        """A short token for a local user, and the seconds it lives.

        One user has at most two that live, however often it asks. Raises `Unauthenticated` for a user
        who is not admitted.
        """
        name = _user_name(uid)
        self._local_identity(uid, name)
        now = self._clock.boot_us()
        newest = self._newest.get(uid, "")
        if newest and (left_us := self._local[newest].expires_us - now) > LOCAL_TTL_S * 500_000:
            return newest, left_us // 1_000_000
        self._drop_expired(now)
        token = secrets.token_urlsafe(24)
        self._local[token] = _Local(uid, name, now + LOCAL_TTL_S * 1_000_000)
        self._newest[uid] = token
        return token, LOCAL_TTL_S

    def _drop_expired(self, now: int) -> None:
        self._local = {token: kept for token, kept in self._local.items() if kept.expires_us > now}
        self._newest = {uid: token for uid, token in self._newest.items() if token in self._local}

    def _local_identity(self, uid: int, name: str) -> Identity:
        role = Role.ADMIN if uid in (0, os.getuid()) else self._local_role
        identity = Identity(name, role, local=True, grants=self.state.grants.of(name), uid=uid)
        if not identity.held:
            raise Unauthenticated(f"{name} has no role here; ask an administrator for `bursar grant`")
        return identity

    def renew(self, identity: Identity, authorization: str) -> Identity:
        """Who that caller is by now. A short local token need not live on: the account does.

        Raises `Unauthenticated` for an account that has no role any more, and for a token that has ended.
        """
        if identity.local:
            return self._local_identity(identity.uid, _user_name(identity.uid))
        return self.identify(authorization)

    async def admit(self, authorization: str) -> Identity:
        """As `identify`, after a look at the provider's keys for a token with one that is not known yet."""
        try:
            return self.identify(authorization)
        except KeyUnknown:
            assert self._provider is not None
            await self._provider.keys.learn()
        return self.identify(authorization)

    def identify(self, authorization: str) -> Identity:
        """Who the `authorization` metadata proves, with its rights as of now.

        Raises `Unauthenticated`; its facts say where a token could be had (`issuer`, `client_id`).
        """
        try:
            return self._identify(authorization)
        except Unauthenticated as error:
            error.facts |= self._provider.facts if self._provider is not None else {}
            raise

    def _identify(self, authorization: str) -> Identity:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthenticated("this call carries no token; use the bursar client, or set BURSAR_TOKEN")
        local = self._local.get(token)
        if local is not None:
            if local.expires_us > self._clock.boot_us():
                return self._local_identity(local.uid, local.name)
            raise Unauthenticated("the token has expired; fetch a new one")
        # Looked up by the hash of what was sent: how long it takes tells nothing about a secret.
        digest = hashlib.sha256(token.encode()).hexdigest()
        user = self._users.get(digest)
        if user is not None:
            role, own = user.base
            return Identity(user.user, role, grants=(*own, *self.state.grants.of(user.user)))
        node = self.state.node_tokens.get(digest)
        if node is not None and node.good(self._clock.now()):
            return Identity(node.name, Role.AGENT, token_sha256=digest)
        if self._provider is not None and token.count(".") == 2:
            return self._of_provider(self._provider, token)
        raise Unauthenticated("the token is not known here, or has expired")

    def _of_provider(self, provider: Verifier, token: str) -> Identity:
        claimed = provider.check(token)
        grants = (*claimed.grants, *self.state.grants.of(claimed.user))
        if not grants:
            raise Unauthenticated(
                f"{claimed.user} has no role here; ask an administrator for `bursar grant`, or for a group"
                " that [oidc] roles of bursard.toml names"
            )
        return Identity(claimed.user, None, grants=grants)


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid-{uid}"


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    user: str
    role: str
    sha256: str
    project: str = ""


def load_users(path: Path) -> tuple[UserToken, ...]:
    """Read a tokens file: TOML with `[[token]] user = …, role = …, sha256 = …`, and perhaps `project = …`.

    Raises `InvalidRequest` naming the token, what is wrong with it and what would be right.
    """
    try:
        data = read_own(path, FILE_BYTES_MAX)
        lines = msgspec.toml.decode(data, type=dict[str, tuple[_Line, ...]]).get("token", ())
    except OSError as error:
        raise InvalidRequest(f"tokens_file: {path} cannot be read: {error.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidRequest(
            f"tokens_file: {path} cannot be read: {error}; `bursar config new-token` prints right lines"
        ) from None
    begins = [data.count(b"\n", 0, found.start(1)) + 1 for found in _TABLE.finditer(data)]
    places = (
        [f"{path}:{begin}" for begin in begins] if len(begins) == len(lines) else [str(path)] * len(lines)
    )
    tokens: dict[str, UserToken] = {}
    for place, line in zip(places, lines, strict=True):
        token = _token(place, line)
        if (other := tokens.get(token.sha256)) is not None:
            raise InvalidRequest(
                f"tokens_file: {place}: {token.user} has the sha256 of {other.user} above: a secret is one"
                " user's, once; make another with `bursar config new-token`, or take one of the two out"
            )
        tokens[token.sha256] = token
    return tuple(tokens.values())


def _token(place: str, line: _Line) -> UserToken:
    if wrong := users.problem_of(line.user):
        raise InvalidRequest(f"tokens_file: {place}: user {quote(line.user)} {wrong}")
    roles = [role.value for role in Role if role is not Role.AGENT]
    if line.role not in (*roles, NO_ROLE):
        raise InvalidRequest(
            f"tokens_file: {place}: {line.role!r} of {line.user} is no role of a user;"
            f" there are {', '.join(roles)}, {NO_ROLE}"
        )
    if not _SHA256.fullmatch(line.sha256):
        raise InvalidRequest(f"tokens_file: {place}: sha256 of {line.user} is not 64 hexadecimal digits")
    if line.project and (problem := problem_of(line.project)):
        raise InvalidRequest(
            f"tokens_file: {place}: project {quote(line.project)} of {line.user} is not a project path:"
            f" {problem}; write nlp/finetune"
        )
    role = None if line.role == NO_ROLE else Role(line.role)
    return UserToken(line.user, role, line.sha256, line.project.lower())


PEERS_BACKLOG = 256
ACCEPT_AGAIN_S = 0.2
"""A socket that cannot be accepted, for want of descriptors say, is tried again after so long."""


class Peers:
    """Listens on `auth.sock`: every connection gets one JSON line with a token, and is closed at once.

    A line always fits into the buffer of a new connection, so nobody is waited for and none stays open.
    """

    def __init__(self, authority: Authority, path: str) -> None:
        self._authority = authority
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.bind(path)
            self._socket.listen(PEERS_BACKLOG)
        except OSError:
            self._socket.close()
            raise
        self._task = asyncio.create_task(self._serve(), name="auth")

    def close(self) -> None:
        """Listen no more."""
        self._task.cancel()
        self._socket.close()

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                peer, _ = await loop.sock_accept(self._socket)
            except OSError as error:
                # One that gave up is no trouble; all others are, and asking at once would ask for ever.
                if not isinstance(error, ConnectionError):
                    log.warning("a caller could not be let in", exc_info=error)
                    await asyncio.sleep(ACCEPT_AGAIN_S)
                continue
            with peer, contextlib.suppress(OSError):
                self._answer(peer)
            await asyncio.sleep(0)  # one caller a turn: whoever calls without end has no more than that

    def _answer(self, peer: socket.socket) -> None:
        raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        uid = struct.unpack("3i", raw)[1]
        try:
            token, left_s = self._authority.issue_local(uid)
            line: dict[str, object] = {"token": token, "expires_s": left_s}
        except Unauthenticated as error:
            line = {"error": error.message}
        peer.setblocking(False)
        peer.send(json.dumps(line).encode() + b"\n")
