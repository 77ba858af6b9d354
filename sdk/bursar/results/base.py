"""What results of several kinds share."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all results."""


class Enforcement(StrEnum):
    """Hard budgets are never passed; soft ones tell."""

    HARD = "hard"
    SOFT = "soft"
