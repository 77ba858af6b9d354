"""What every error of ours is to a caller: its reason, status, exit code, and whether to try again."""

from __future__ import annotations

from bursar import errors

TOLD = {
    "BursarError": ("Internal", "INTERNAL", 1, False),
    "InvalidRequest": ("InvalidRequest", "INVALID_ARGUMENT", 2, False),
    "PolicyInvalid": ("PolicyInvalid", "INVALID_ARGUMENT", 2, False),
    "NotBuilt": ("NotBuilt", "INVALID_ARGUMENT", 2, False),
    "KeyConflict": ("KeyConflict", "ALREADY_EXISTS", 2, False),
    "NotFound": ("NotFound", "NOT_FOUND", 4, False),
    "WrongState": ("WrongState", "FAILED_PRECONDITION", 1, False),
    "NotApplied": ("NotApplied", "ABORTED", 1, False),
    "BudgetExceeded": ("BudgetExceeded", "RESOURCE_EXHAUSTED", 3, False),
    "DeadlineRefused": ("DeadlineRefused", "RESOURCE_EXHAUSTED", 3, False),
    "QuotaExceeded": ("QuotaExceeded", "RESOURCE_EXHAUSTED", 3, False),
    "RateLimited": ("RateLimited", "RESOURCE_EXHAUSTED", 3, True),
    "AnswerTooLarge": ("AnswerTooLarge", "RESOURCE_EXHAUSTED", 2, False),
    "StaleVersion": ("StaleVersion", "ABORTED", 2, False),
    "StoreUnavailable": ("StoreUnavailable", "UNAVAILABLE", 5, True),
    "ServerUnavailable": ("ServerUnavailable", "UNAVAILABLE", 5, True),
    "Unauthenticated": ("Unauthenticated", "UNAUTHENTICATED", 3, False),
    "Forbidden": ("Forbidden", "PERMISSION_DENIED", 3, False),
}
"""Part of the public contract: programs branch on them."""


def test_every_error_is_to_callers_what_it_was() -> None:
    kinds = [
        each
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, errors.BursarError)
    ]
    assert {
        each.__name__: (each.reason, each.status, each.exit_code, each.transient) for each in kinds
    } == TOLD
