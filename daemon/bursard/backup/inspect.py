"""What a copy of the books holds, and everything that is wrong with it.

Owns    the checks of `backup`, `backup drill`, `restore` and `audit verify`: the same ones, always over the
        whole log.
Input   a directory with a database that nobody else uses; it is opened as a daemon would, so it is a copy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bursar.errors import BursarError
from bursard import doctor
from bursard.replay import restore
from bursard.state import Limits, State
from bursard.store import SqliteStore

_CHECKS_OF_NOW = ("nodes", "prices")
"""Findings of `doctor` about the world, not about the books: a copy has no agents."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What was found, as sentences; none: it is sound.

    Attributes:
        damage: what keeps the books from being read as they were written.
        findings: what should not be so in books that can be read.
    """

    cluster_id: str = ""
    seq: int = 0
    hash: str = ""
    epoch: int = 0
    jobs_live: int = 0
    attempts_live: int = 0
    budgets: int = 0
    accounts: int = 0
    damage: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()

    @property
    def problems(self) -> tuple[str, ...]:
        """Both."""
        return (*self.damage, *self.findings)


def inspect(directory: Path) -> Report:
    """Open, replay and check. Whatever is wrong is in the report; nothing is raised for it."""
    try:
        store = SqliteStore(directory)
    except BursarError as error:
        return Report(damage=(error.message,))
    try:
        state = restore(store, Limits())
        return Report(
            cluster_id=state.cluster_id,
            seq=store.last_seq,
            hash=store.head.hash.hex(),
            epoch=store.epoch - 1,
            jobs_live=sum(1 for job in state.jobs.values() if not job.parent_id),
            attempts_live=len(state.attempts),
            budgets=len(state.budgets.records),
            accounts=len(store.balances()),
            damage=tuple(store.verify()),
            findings=tuple(findings_of(state, store)),
        )
    except BursarError as error:
        return Report(seq=store.last_seq, damage=(error.message,))
    finally:
        store.close()


def findings_of(state: State, store: SqliteStore) -> list[str]:
    """What should not be so in books that can be read."""
    return [*_state(state), *_ends(store), *_ledger(state, store)]


def _state(state: State) -> Iterator[str]:
    for finding in doctor.check_state(state):
        if not finding.ok and finding.check not in _CHECKS_OF_NOW:
            yield f"{finding.check}: {finding.message}"


def _ends(store: SqliteStore) -> Iterator[str]:
    """J5, over the whole log."""
    finding = doctor.check_ends(store, store.last_seq, True)
    if not finding.ok:
        yield f"{finding.check}: {finding.message}"


def _ledger(state: State, store: SqliteStore) -> Iterator[str]:
    """L3, L10: what replaying says a budget has settled and holds is the sum of its entries, those kept and
    those of hours that are still open.
    """
    still_open = Counter[str]()
    for hour in state.open_hours():
        still_open.update(hour.entries)
    for name, record in state.budgets.records.items():
        account = f"budget/{name}/{record.period_start}"
        kept = store.balances(f"{account}/")
        for part, said in (
            ("settled", state.ledger.settled(name, record.period_start)),
            ("held", state.ledger.held(name, record.period_start)),
        ):
            found = kept.get(f"{account}/{part}", 0) + still_open[f"{account}/{part}"]
            if found != said:
                yield f"L3: {account}/{part} is {found} nanos by its entries, {said} by the log"
