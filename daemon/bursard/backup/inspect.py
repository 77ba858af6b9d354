"""What a copy of the books holds, and everything that is wrong with it.

Owns    the checks of `backup`, `backup drill`, `restore` and `audit verify`: the same ones, always over the
        whole log.
Input   a directory with a database that nobody else uses; it is opened as a daemon would, so it is a copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from bursar.errors import BursarError
from bursard import audit, doctor
from bursard.backup.archive import Manifest, told_otherwise
from bursard.replay import restore
from bursard.state import Limits, State
from bursard.store import SqliteStore, verify
from bursard.store.home import DATABASE

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
        damage = tuple(store.verify())
        return Report(
            cluster_id=state.cluster_id,
            seq=store.last_seq,
            hash=store.head.hash.hex(),
            epoch=store.epoch - 1,
            jobs_live=sum(1 for job in state.jobs.values() if not job.parent_id),
            attempts_live=len(state.attempts),
            budgets=len(state.budgets.records),
            accounts=_accounts(store),
            damage=damage,
            findings=(*findings_of(state, store), *extras_of(store)),
        )
    except BursarError as error:
        return Report(seq=store.last_seq, damage=(error.message,))
    finally:
        store.close()


def inspect_with(directory: Path, manifest: Manifest) -> Report:
    """The same for what was unpacked of a backup, which must be what its manifest says."""
    differing = told_otherwise(manifest, directory / DATABASE)  # first: opening it as a daemon changes it
    report = inspect(directory)
    return report if report.damage else msgspec.structs.replace(report, damage=differing)


def _accounts(store: SqliteStore) -> int:
    try:
        return len(store.balances())
    except BursarError:  # told among the damage
        return 0


def findings_of(state: State, store: SqliteStore) -> list[str]:
    """What should not be so in books that can be read."""
    return [*_state(state), *_ends(store), *rows_of(store)]


def _state(state: State) -> Iterator[str]:
    for finding in doctor.check_state(state):
        if not finding.ok and finding.check not in _CHECKS_OF_NOW:
            yield f"{finding.check}: {finding.message}"


def _ends(store: SqliteStore) -> Iterator[str]:
    """J5, over the whole log."""
    finding = doctor.check_ends(store, store.last_seq, True)
    if not finding.ok:
        yield f"{finding.check}: {finding.message}"


def extras_of(store: SqliteStore) -> list[str]:
    """Rows that nobody wrote and no number follows from: they keep nobody from an archive."""
    with store.picture() as picture:
        return list(verify.limited(picture.extras()))


def rows_of(store: SqliteStore) -> list[str]:
    """Rows that are not what the log makes them, and L3 of every account."""
    with store.picture() as picture:
        return audit.problems_of(picture)
