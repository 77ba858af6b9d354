"""What happens to rights and secrets."""

from __future__ import annotations

import msgspec


class RoleGranted(msgspec.Struct, frozen=True, tag="role-granted"):
    """A user holds a role over a project and all below it; an empty project is the whole site."""

    user: str
    role: str
    project: str


class RoleRevoked(msgspec.Struct, frozen=True, tag="role-revoked"):
    """A grant ends."""

    user: str
    role: str
    project: str


class SecretSet(msgspec.Struct, frozen=True, tag="secret-set"):
    """A secret of a project has a new value. `sealed` is useless without the key, which is kept elsewhere."""

    project: str
    name: str
    sealed: str


class SecretRemoved(msgspec.Struct, frozen=True, tag="secret-removed"):
    """No job is given this secret any more."""

    project: str
    name: str
