"""How grants and secrets change the state."""

from __future__ import annotations

from bursard.events import RoleGranted, RoleRevoked, SecretRemoved, SecretSet
from bursard.state.rights import Grant, Role, SealedSecret
from bursard.state.tables import Applied, Tables


def granted(state: Tables, event: RoleGranted, at: int, applied: Applied) -> None:
    """The user holds one role more."""
    state.grants.put(event.user, Grant(Role(event.role), event.project))


def revoked(state: Tables, event: RoleRevoked, at: int, applied: Applied) -> None:
    """And one less."""
    state.grants.remove(event.user, Grant(Role(event.role), event.project))


def secret_set(state: Tables, event: SecretSet, at: int, applied: Applied) -> None:
    """The newest value is the only one."""
    key = (event.project, event.name)
    state.secrets[key] = SealedSecret(event.project, event.name, event.sealed, at)


def secret_removed(state: Tables, event: SecretRemoved, at: int, applied: Applied) -> None:
    """Forgotten by the state; the sealed text stays in the log."""
    state.secrets.pop((event.project, event.name), None)
