"""Who calls: the identity of the current call, set by the interceptor before any handler runs.

Why     identity is the cost key: there is no anonymous spend, so no handler runs without one.
"""

from __future__ import annotations

from contextvars import ContextVar
from enum import StrEnum

import msgspec

from bursar.errors import Forbidden, Unauthenticated


class Role(StrEnum):
    """What an identity may do; each role includes what the ones before it may.

    viewer reads; submitter also acts on jobs (its own); operator also on all jobs, nodes and policies;
    admin also issues tokens. `agent` is apart: it may only connect as its own node.
    """

    VIEWER = "viewer"
    SUBMITTER = "submitter"
    OPERATOR = "operator"
    ADMIN = "admin"
    AGENT = "agent"


_ORDER = (Role.VIEWER, Role.SUBMITTER, Role.OPERATOR, Role.ADMIN)


class Identity(msgspec.Struct, frozen=True):
    """A user or node, as the transport proved it.

    Attributes:
        name: user name, or node name of an agent. local: came through the unix socket.
        token_sha256: of a node's own secret.
    """

    name: str
    role: Role
    local: bool = False
    token_sha256: str = ""

    def may(self, needed: Role) -> bool:
        """Does this role include `needed`?"""
        if self.role is Role.AGENT or needed is Role.AGENT:
            return self.role is needed or (needed is Role.AGENT and self.role is Role.ADMIN and self.local)
        return _ORDER.index(self.role) >= _ORDER.index(needed)


_current: ContextVar[Identity | None] = ContextVar("identity", default=None)


def set_caller(identity: Identity) -> None:
    """Bind the identity to this call's context."""
    _current.set(identity)


def caller() -> Identity:
    """The identity of this call. Raises `Unauthenticated` when there is none."""
    identity = _current.get()
    if identity is None:
        raise Unauthenticated("this call carries no identity")
    return identity


def require(role: Role) -> Identity:
    """The caller, if its role is enough. Raises `Forbidden`."""
    identity = caller()
    if not identity.may(role):
        raise Forbidden(
            f"{identity.name} is {identity.role.value}, this needs {role.value}; ask an administrator",
            {"user": identity.name, "role": identity.role.value, "needed": role.value},
        )
    return identity
