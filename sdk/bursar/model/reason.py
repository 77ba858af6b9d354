"""Why a job is where it is: one stable code, a sentence, a remedy."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class ReasonCode(StrEnum):
    """Why a job is where it is: the dominant code, ordered from fault to routine."""

    NONE = ""
    MISCONFIGURED = "Misconfigured"
    EXCEEDS_MAX_QUOTA = "ExceedsMaxQuota"
    EXCEEDS_NODE_CAPACITY = "ExceedsNodeCapacity"
    HELD = "Held"
    BEGIN_TIME = "BeginTime"
    DEPENDENCY = "Dependency"
    WAITING_FOR_QUOTA = "WaitingForQuota"
    WAITING_FOR_RESOURCES = "WaitingForResources"
    WAITING_FOR_TOPOLOGY = "WaitingForTopology"
    BEHIND_HIGHER_PRIORITY = "BehindHigherPriority"
    RESERVED_FOR_OTHER = "ReservedForOther"
    BUDGET_EXHAUSTED = "BudgetExhausted"
    BUDGET_COMMITTED = "BudgetCommitted"
    PRICE_CAP_EXCEEDED = "PriceCapExceeded"
    WAITING_FOR_CHEAPER_PRICE = "WaitingForCheaperPrice"
    APPROVAL_REQUIRED = "ApprovalRequired"
    PROVISIONING = "Provisioning"
    PREEMPTION_PENDING = "PreemptionPending"
    RATE_LIMITED = "RateLimited"


class Reason(msgspec.Struct, frozen=True):
    """One dominant reason: a stable code, a sentence with numbers, and what the user can do.

    Attributes:
        facts: the numbers behind the sentence, as text, for programs.
    """

    code: ReasonCode
    message: str
    remedy: str = ""
    facts: tuple[tuple[str, str], ...] = ()
