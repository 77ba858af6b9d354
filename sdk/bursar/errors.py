"""The error taxonomy. Exceptions are for the caller's fault or the world's; expected outcomes are values.

Each class carries the gRPC status it maps to and whether a retry could differ. The daemon's
interceptor is the only place that turns these into a status, the client the only one that turns
them back, so nobody parses text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, NamedTuple


class BursarError(Exception):
    """Base of every error a user can meet.

    Attributes:
        reason: stable token, the `google.rpc.ErrorInfo.reason` of the wire.
        status: gRPC status name.
        exit_code: of the CLI (contract section 2).
        transient: could the same call succeed later without a change?
        facts: numbers and names behind the message, for programs.
    """

    reason: ClassVar[str] = "Internal"
    status: ClassVar[str] = "INTERNAL"
    exit_code: ClassVar[int] = 1
    transient: ClassVar[bool] = False

    def __init__(self, message: str, facts: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.facts: dict[str, str] = dict(facts or {})


class Fault(NamedTuple):
    """One thing wrong with a file, and where. Files report all of theirs at once."""

    file: str
    line: int
    """0 for what was typed beside the file."""
    column: int
    field: str
    """Path such as `spec.limit`; empty for the file as a whole."""
    message: str
    nearest: str | None = None
    """The right name, when the wrong one was a typing slip away."""
    not_built: bool = False
    """True for what the contract names and this version refuses."""

    def __str__(self) -> str:
        field = f"{self.field}: " if self.field else ""
        if not self.line:
            return f"{field or f'{self.file}: '}{self.message}"
        return f"{self.file}:{self.line}:{self.column}: {field}{self.message}"


class InvalidRequest(BursarError):
    """The command line, job file or policy is wrong; the message says where and what would be right."""

    reason = "InvalidRequest"
    status = "INVALID_ARGUMENT"
    exit_code = 2
    faults: tuple[Fault, ...] = ()
    """Each fault of a file with its place; empty for errors that are not about a file."""


class PolicyInvalid(InvalidRequest):
    """A policy document is wrong; lists all faults, each with its line."""

    reason = "PolicyInvalid"


class NotBuilt(InvalidRequest):
    """Part of the contract that this version does not enforce yet, and therefore refuses."""

    reason = "NotBuilt"


class KeyConflict(InvalidRequest):
    """An idempotency key was used again with another body."""

    reason = "KeyConflict"
    status = "ALREADY_EXISTS"


class NotFound(BursarError):
    """No such job, node, budget or policy."""

    reason = "NotFound"
    status = "NOT_FOUND"
    exit_code = 4


class WrongState(BursarError):
    """The thing exists but cannot do that now (a finished job cannot be held)."""

    reason = "WrongState"
    status = "FAILED_PRECONDITION"
    exit_code = 1


class NotApplied(BursarError):
    """The daemon could not carry this change out, by a defect of its own: nothing of it is true."""

    reason = "NotApplied"
    status = "ABORTED"


class BudgetExceeded(BursarError):
    """A hard budget can never pay for this; facts carry limit, settled, held and needed."""

    reason = "BudgetExceeded"
    status = "RESOURCE_EXHAUSTED"
    exit_code = 3


class QuotaExceeded(BursarError):
    """A quota never allows so much; facts carry quota, resource, max and asked."""

    reason = "QuotaExceeded"
    status = "RESOURCE_EXHAUSTED"
    exit_code = 3


class DeadlineRefused(BursarError):
    """A deadline that cannot be promised; the message says which can."""

    reason = "DeadlineRefused"
    status = "RESOURCE_EXHAUSTED"
    exit_code = 3


class RateLimited(BursarError):
    """Too much at once; try again later."""

    reason = "RateLimited"
    status = "RESOURCE_EXHAUSTED"
    exit_code = 3
    transient = True


class AnswerTooLarge(BursarError):
    """What was asked for does not fit into one message: ask for less of it. What it changed is changed."""

    reason = "AnswerTooLarge"
    status = "RESOURCE_EXHAUSTED"
    exit_code = 2


class StaleVersion(BursarError):
    """A document was changed by someone else since it was read: read again, then apply."""

    reason = "StaleVersion"
    status = "ABORTED"
    exit_code = 2


class StoreUnavailable(BursarError):
    """The daemon cannot write its state (full or read-only disk)."""

    reason = "StoreUnavailable"
    status = "UNAVAILABLE"
    exit_code = 5
    transient = True


class ServerUnavailable(BursarError):
    """The server cannot be reached or is not ready."""

    reason = "ServerUnavailable"
    status = "UNAVAILABLE"
    exit_code = 5
    transient = True


class Unauthenticated(BursarError):
    """No identity on the call."""

    reason = "Unauthenticated"
    status = "UNAUTHENTICATED"
    exit_code = 3


class Forbidden(BursarError):
    """The identity may not do this."""

    reason = "Forbidden"
    status = "PERMISSION_DENIED"
    exit_code = 3


class InvariantViolation(AssertionError):
    """A broken invariant: our defect. The cycle stops, the log is kept."""


def _subclasses(cls: type[BursarError]) -> list[type[BursarError]]:
    found = []
    for child in cls.__subclasses__():
        found += [child, *_subclasses(child)]
    return found


def by_reason(reason: str) -> type[BursarError]:
    """The class for a wire reason; `BursarError` for one this version does not know."""
    own = {vars(c)["reason"]: c for c in _subclasses(BursarError) if "reason" in vars(c)}
    return own.get(reason, BursarError)
