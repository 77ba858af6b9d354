"""Why a job is where it is: one stable code, a sentence, a remedy."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

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
    BEHIND_OWN_JOBS = "BehindOwnJobs"
    RESERVED_FOR_OTHER = "ReservedForOther"
    BUDGET_EXHAUSTED = "BudgetExhausted"
    BUDGET_COMMITTED = "BudgetCommitted"
    PRICE_CAP_EXCEEDED = "PriceCapExceeded"
    WAITING_FOR_CHEAPER_PRICE = "WaitingForCheaperPrice"
    APPROVAL_REQUIRED = "ApprovalRequired"
    PROVISIONING = "Provisioning"
    PREEMPTION_PENDING = "PreemptionPending"
    RATE_LIMITED = "RateLimited"
    NO_REQUESTS = "NoRequests"
    NODE_OVERDUE = "NodeOverdue"
    NODE_SILENT = "NodeSilent"
    NODE_UNWELL = "NodeUnwell"


MEANINGS: Final = {
    ReasonCode.MISCONFIGURED: "nothing here can ever match what it asks: a constraint, a market, a price",
    ReasonCode.EXCEEDS_MAX_QUOTA: "it asks for more than its quota ever allows",
    ReasonCode.EXCEEDS_NODE_CAPACITY: "no node, or no set of nodes, is large enough, were all of it free",
    ReasonCode.HELD: "somebody, or an idle policy, has put it on hold",
    ReasonCode.BEGIN_TIME: "its `begin_after` has not come",
    ReasonCode.DEPENDENCY: "a job that it waits for has not ended, or not started",
    ReasonCode.WAITING_FOR_QUOTA: "its quota, or the parallel tasks of its array, are used up by what runs",
    ReasonCode.WAITING_FOR_RESOURCES: "what could hold it is in use",
    ReasonCode.WAITING_FOR_TOPOLOGY: "there is room, but not where its members would be together",
    ReasonCode.BEHIND_HIGHER_PRIORITY: "others come first by priority or order",
    ReasonCode.BEHIND_OWN_JOBS: "its user has so many different jobs waiting that plans look at them in turn",
    ReasonCode.RESERVED_FOR_OTHER: "it would fit now, in room that is kept for another job or short ones",
    ReasonCode.BUDGET_EXHAUSTED: "a budget has too little left for its worst case",
    ReasonCode.BUDGET_COMMITTED: "a budget would have enough, but for what is held for jobs that run",
    ReasonCode.PRICE_CAP_EXCEEDED: "every place costs more than its `max_price`",
    ReasonCode.WAITING_FOR_CHEAPER_PRICE: "a cheaper price is expected in time",
    ReasonCode.APPROVAL_REQUIRED: "somebody has to approve it",
    ReasonCode.PROVISIONING: "a machine for it is being rented",
    ReasonCode.PREEMPTION_PENDING: "what is to make room for it has not ended yet",
    ReasonCode.RATE_LIMITED: "its user or project starts too many at once",
    ReasonCode.NO_REQUESTS: "a service is asked too little for a replica, or for one more",
}
"""What each reason of a job that waits means, from faults to routine."""

MEANINGS_LIVE: Final = {
    ReasonCode.NODE_OVERDUE: "a node of it answers, and has not started or ended it as it was told",
    ReasonCode.NODE_SILENT: "a node of it does not answer: the job goes on if it comes back; if the machine"
    " is off, an operator says so with `bursar node drain NODE --confirm-dead`",
    ReasonCode.NODE_UNWELL: "a node of it says that it can start nothing; what runs there goes on",
}
"""Those of a job that has its place, and may not go on."""


class Reason(msgspec.Struct, frozen=True):
    """One dominant reason: a stable code, a sentence with numbers, and what the user can do.

    Attributes:
        facts: the numbers behind the sentence, as text, for programs.
    """

    code: ReasonCode
    message: str
    remedy: str = ""
    facts: tuple[tuple[str, str], ...] = ()
