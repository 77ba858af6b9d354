"""The names of accounts: where money can be, as paths.

Owns    the spelling of every account, and the way back from a spelling to its parts.
Why     entries outlive the code that wrote them; one module decides the names so that the ledger,
        the store, reports and `bursar doctor` never assemble or cut such a path themselves.

| account | balance |
|---|---|
| `node/<node>` | minus what the node has cost so far |
| `job/<job>` | what the job has been charged |
| `idle/<node>` `keep-alive/<node>` `down/<node>` `unknown/<node>` | what its time cost that no job held |
| `reserved/<node>` | the same, while it was reserved for some or for maintenance |
| `overhead/<node>` | rounding |
| `variance/<node>` | what shares are to pay beyond what their jobs pay, after corrections |
| `absorption/<node>` | what its shares cost less what jobs are to pay for them: the platform's loss or gain |
| `refund/<node>` | minus what its provider did not bill of what it cost by the meter |
| `budget/<name>/<period>/available` | what was given, minus what is committed; the limit itself is policy |
| `budget/<name>/<period>/held` | promised to live attempts, not yet spent |
| `budget/<name>/<period>/settled` | spent |
| `budget/<name>/<period>/given` | minus what it has beside its limit: grants, transfers, carry-over |
"""

from __future__ import annotations

from typing import NamedTuple

from bursar.errors import InvariantViolation

COST_BOOK = "cost"
"""The book of what things cost; each budget's period is a book of its own."""
PAID = ("usage", "startup")
"""Charge kinds that a job pays for: what it holds, and the launch of a machine that was rented for it."""
OWNERLESS = (
    "idle", "reserved", "keep-alive", "down", "unknown", "overhead", "variance", "absorption", "refund",
)  # fmt: skip
"""Charge kinds that no attempt pays for; each has one account per node."""


class BudgetAccounts(NamedTuple):
    """The accounts of one budget in one period."""

    available: str
    held: str
    settled: str
    given: str


def node_account(node_id: str) -> str:
    """Credited with everything the node costs."""
    return f"node/{node_id}"


def job_account(job_id: str) -> str:
    """Debited with everything the job holds."""
    return f"job/{job_id}"


def ownerless_account(kind: str, node_id: str) -> str:
    """Debited with what is nobody's on one node. Raises `InvariantViolation` on an unknown kind."""
    if kind not in OWNERLESS:
        raise InvariantViolation(f"charge kind {kind!r} is not {', '.join(PAID + OWNERLESS)}")
    return f"{kind}/{node_id}"


def budget_accounts(budget: str, period_start: int) -> BudgetAccounts:
    """The accounts of one budget in the period that begins at `period_start`."""
    stem = f"budget/{budget}/{period_start}/"
    return BudgetAccounts(stem + "available", stem + "held", stem + "settled", stem + "given")


def book_of(account: str) -> str:
    """The book an account is in.

    A sound transaction sums to zero in each book it touches, so money of one budget is never
    balanced by money of another, or by a cost.
    """
    return account.rpartition("/")[0] if account.startswith("budget/") else COST_BOOK


def budget_of(account: str) -> tuple[str, int, str] | None:
    """(budget, period start, `available` | `held` | `settled` | `given`), or None for an account of cost."""
    if not account.startswith("budget/"):
        return None
    stem, _, part = account.rpartition("/")
    name, _, period_start = stem.removeprefix("budget/").rpartition("/")
    return name, int(period_start), part
