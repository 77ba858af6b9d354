"""Who calls: the identity of the current call, set by the door before any handler runs.

Why     identity is the cost key: there is no anonymous spend, so no handler runs without one.
"""

from __future__ import annotations

from contextvars import ContextVar

import msgspec

from bursar.errors import Unauthenticated
from bursard.state.rights import Grant, Role

__all__ = ["Grant", "Identity", "Role", "caller", "set_caller"]


class Identity(msgspec.Struct, frozen=True):
    """A user or node, as the transport proved it.

    Attributes:
        name: user name, or node name of an agent. role: held over the whole site by the token or the local
            account; None when all rights come from grants.
        local: came through the unix socket; uid: as the kernel says, -1 otherwise.
        token_sha256: of a node's own secret.
        grants: beside the role: of the token's project and of `bursar grant`, as of this call.
    """

    name: str
    role: Role | None
    local: bool = False
    token_sha256: str = ""
    grants: tuple[Grant, ...] = ()
    uid: int = -1

    @property
    def held(self) -> tuple[Grant, ...]:
        """Every grant, the site-wide role first."""
        return self.grants if self.role is None else (Grant(self.role), *self.grants)

    def describe(self) -> str:
        """Its roles for people: `submitter, project-admin of nlp`."""
        texts = [f"{g.role.value} of {g.project}" if g.project else g.role.value for g in self.held]
        return ", ".join(dict.fromkeys(texts)) or "no role"


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
