"""Who was granted which role, and which secrets there are: what `bursar grant` and `bursar secret` keep."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

import msgspec

from bursar.projects import is_within


class Role(StrEnum):
    """A bundle of rights, held over the whole site or one project subtree (`access.authorize.RIGHTS`)."""

    VIEWER = "viewer"
    FINANCE = "finance"
    SUBMITTER = "submitter"
    PROJECT_ADMIN = "project-admin"
    OPERATOR = "operator"
    ADMIN = "admin"
    AUDITOR = "auditor"
    AGENT = "agent"


class Grant(msgspec.Struct, frozen=True, order=True):
    """A role over a project (lower case) and all below it; an empty project is the whole site."""

    role: Role
    project: str = ""

    def covers(self, project: str) -> bool:
        """Is `project` inside? The site itself (empty) is inside the site alone."""
        # A budget counts a project in any case, so a right must cover it in any case.
        return is_within(project, self.project)


class SealedSecret(msgspec.Struct, frozen=True):
    """One secret. `sealed`: base64 of what only the daemon's key opens."""

    project: str
    name: str
    sealed: str
    set_at: int


class GrantTable:
    """Grants by user."""

    def __init__(self) -> None:
        self._of: dict[str, tuple[Grant, ...]] = {}
        self.version = 0
        """Counts every change, so that who keeps an answer knows when to ask again."""

    def of(self, user: str) -> tuple[Grant, ...]:
        """What a user was granted, in order."""
        return self._of.get(user, ())

    def put(self, user: str, grant: Grant) -> None:
        """Add a grant."""
        self._of[user] = tuple(sorted({*self.of(user), grant}))
        self.version += 1

    def remove(self, user: str, grant: Grant) -> None:
        """Take a grant away."""
        left = tuple(one for one in self.of(user) if one != grant)
        if left:
            self._of[user] = left
        else:
            self._of.pop(user, None)
        self.version += 1

    def __len__(self) -> int:
        return sum(len(grants) for grants in self._of.values())

    def __iter__(self) -> Iterator[tuple[str, Grant]]:
        """(user, grant), by user."""
        return ((user, grant) for user in sorted(self._of) for grant in self._of[user])
