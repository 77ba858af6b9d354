"""The memory store: the same promises without a disk, for the simulator and tests.

Why     a simulated year must not pay for fsync, and a fake that passes the contract tests of the
        real one is worth trusting. Nothing survives the process; everything else holds, the chain
        included.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from bursar.clock import DAY_US, HOUR_US, SECOND_US
from bursar.errors import InvariantViolation, StoreUnavailable
from bursard.store import verify
from bursard.store.base import (
    LABEL_PREFIX,
    Batch,
    ChargeFilter,
    ChargeRow,
    ChargeSum,
    Dim,
    EntryRow,
    EventFilter,
    EventRow,
    JobFilter,
    JobPage,
    JobRow,
    KeyRow,
    Loaded,
    check_batch,
    check_dims,
)
from bursard.store.chain import GENESIS, chain_hash

_DIMS: dict[str, Callable[[ChargeRow], str | int]] = {
    Dim.KIND: lambda c: c.kind,
    Dim.NODE: lambda c: c.node_name,
    Dim.NODE_ID: lambda c: c.node_id,
    Dim.POOL: lambda c: c.pool,
    Dim.JOB: lambda c: c.job_id,
    Dim.JOB_NUMBER: lambda c: c.job_number,
    Dim.ATTEMPT: lambda c: c.attempt_id,
    Dim.PRICE: lambda c: c.price_id,
    Dim.PROJECT: lambda c: c.project,
    Dim.USER: lambda c: c.user,
    Dim.EXPERIMENT: lambda c: c.experiment,
    Dim.MODEL: lambda c: c.model,
    Dim.MODEL_VERSION: lambda c: c.model_version,
    Dim.SIMULATED: lambda c: int(c.simulated),
    Dim.HOUR: lambda c: c.start_at - c.start_at % HOUR_US,
    Dim.DAY: lambda c: c.start_at - c.start_at % DAY_US,
    Dim.MONTH: lambda c: datetime.fromtimestamp(c.start_at // SECOND_US, UTC).strftime("%Y-%m"),
}


class MemoryStore:
    """A store that lives as long as the object."""

    def __init__(self, free_bytes: int = 1 << 40) -> None:
        """`free_bytes`: what the disk it does not have shall claim to have left."""
        self._events: list[EventRow] = []
        self._hashes: list[bytes] = []
        self._jobs: dict[str, JobRow] = {}
        self._charges: list[ChargeRow] = []
        self._entries: list[EntryRow] = []
        self._keys: dict[tuple[str, str], KeyRow] = {}
        self._snapshots: list[tuple[int, bytes]] = []
        self._meta: dict[str, str] = {"epoch": "1"}
        self._free_bytes = free_bytes
        self._closed = False

    @property
    def last_seq(self) -> int:
        """Seq of the newest event."""
        return len(self._events)

    @property
    def epoch(self) -> int:
        """One: it is never opened twice."""
        return 1

    def free_bytes(self) -> int:
        """What it was told to claim."""
        return self._free_bytes

    def close(self) -> None:
        """Refuse everything from now on."""
        self._closed = True

    def _open(self) -> None:
        if self._closed:
            raise StoreUnavailable("the store is closed")

    # -------------------------------------------------------------- writing

    def append(self, batch: Batch) -> None:
        """All or nothing."""
        self._open()
        check_batch(batch, self.last_seq)
        added: dict[tuple[str, str], KeyRow] = {}
        for key in batch.keys:
            pair = (key.user, key.key)
            if pair in self._keys or pair in added:
                raise InvariantViolation(f"nothing was written: key {pair} exists")
            added[pair] = key
        last_hash = self._hashes[-1] if self._hashes else GENESIS
        for event in batch.events:
            last_hash = chain_hash(last_hash, *event)
            self._hashes.append(last_hash)
        self._events += batch.events
        self._jobs.update((job.id, job) for job in batch.jobs)
        self._charges += batch.charges
        self._entries += batch.entries
        self._keys |= added

    def save_snapshot(self, seq: int, data: bytes) -> None:
        """The last two are kept."""
        self._open()
        if not 0 < seq <= self.last_seq:
            raise InvariantViolation(f"a snapshot of event {seq}; the log ends at {self.last_seq}")
        kept = {**dict(self._snapshots), seq: data}
        self._snapshots = sorted(kept.items())[-2:]

    def set_meta(self, key: str, value: str) -> None:
        """Keep a note."""
        self._open()
        self._meta[key] = value

    def load(self) -> Loaded:
        """Newest snapshot and the events after it."""
        self._open()
        snapshot = self._snapshots[-1] if self._snapshots else None
        after = snapshot[0] if snapshot else 0
        last_hash = self._hashes[-1] if self._hashes else GENESIS
        return Loaded(snapshot, iter(self._events[after:]), self.last_seq, last_hash)

    def verify(self, full: bool = True) -> list[str]:
        """The same checks as any store's."""
        self._open()
        last_hash = self._hashes[-1] if self._hashes else GENESIS
        head = verify.Head(self.last_seq, last_hash, len(self._charges), len(self._entries))
        chained = [(*event, mark) for event, mark in zip(self._events, self._hashes, strict=True)]
        found = verify.check(head, chained, self._charges if full else None, self._entries if full else None)
        return list(verify.limited(found))

    # -------------------------------------------------------------- questions

    def meta(self, key: str) -> str | None:
        """A note."""
        self._open()
        return self._meta.get(key)

    def find_job(self, ref: str) -> JobRow | None:
        """By id, number, `last`, `JOB[7]`, or name (the newest)."""
        self._open()
        base, bracket, rest = ref.partition("[")
        if bracket:
            return self._find_task(base, rest)
        jobs = sorted((j for j in self._jobs.values() if j.array_index < 0), key=lambda j: -j.number)
        if ref == "last":
            return jobs[0] if jobs else None
        if ref in self._jobs:
            return self._jobs[ref]
        number = int(ref) if ref.isascii() and ref.isdigit() and len(ref) < 19 else None
        by_number = (job for job in jobs if job.number == number)
        by_name = (job for job in jobs if job.name == ref)
        return next(by_number, None) or next(by_name, None)

    def _find_task(self, base: str, rest: str) -> JobRow | None:
        index = rest.removesuffix("]")
        if not (rest.endswith("]") and index.isascii() and index.isdigit()):
            return None
        if f"{base}.{index}" in self._jobs:
            return self._jobs[f"{base}.{index}"]
        parent = self.find_job(base)
        for job in self._jobs.values():
            ours = (parent is not None and job.parent_id == parent.id) or str(job.number) == base
            if ours and job.array_index == int(index):
                return job
        return None

    def jobs_named(self, name: str, limit: int = 2) -> list[JobRow]:
        """Newest first."""
        return self.jobs(JobFilter(name=name, limit=limit)).rows if name else []

    def jobs(self, query: JobFilter) -> JobPage:
        """One page."""
        self._open()
        found = [job for job in self._jobs.values() if _job_matches(job, query)]
        found.sort(key=lambda job: (-job.number, job.array_index))
        page = found[: query.limit]
        full = len(page) == query.limit and bool(page)
        return JobPage(page, (page[-1].number, page[-1].array_index) if full else None)

    def events(
        self, after_seq: int = 0, limit: int = 1000, query: EventFilter | None = None
    ) -> list[EventRow]:
        """Oldest first."""
        self._open()
        asked = query or EventFilter()
        found: list[EventRow] = []
        for event in self._events[after_seq:]:
            if len(found) == limit:
                break
            if _event_matches(event, asked):
                found.append(event)
        return found

    def charges(self, query: ChargeFilter | None = None) -> Iterator[ChargeRow]:
        """By start."""
        self._open()
        found = [c for c in self._charges if _charge_matches(c, query or ChargeFilter())]
        return iter(sorted(found, key=lambda charge: charge.start_at))

    def charge_sums(self, by: Sequence[str], query: ChargeFilter | None = None) -> list[ChargeSum]:
        """Folded here."""
        check_dims(by)
        sums: dict[tuple[str | int, ...], list[int]] = {}
        for charge in self.charges(query):
            keys = tuple(_key(charge, dim) for dim in by)
            row = sums.setdefault(keys, [0] * 7)
            held = charge.end_at - charge.start_at
            unpriced = 0 if charge.price_id else held
            added = (charge.nanos, charge.gpu, charge.cpu, charge.memory, 1, held, unpriced)
            for position, value in enumerate(added):
                row[position] += value
        return [ChargeSum(keys, *sums[keys]) for keys in sorted(sums)]

    def entries(self, prefix: str = "") -> Iterator[EntryRow]:
        """By account, then log order."""
        self._open()
        found = [entry for entry in self._entries if entry.account.startswith(prefix)]
        return iter(sorted(found, key=lambda entry: (entry.account, entry.seq)))

    def balances(self, prefix: str = "") -> dict[str, int]:
        """Sum per account."""
        sums: dict[str, int] = {}
        for entry in self.entries(prefix):
            sums[entry.account] = sums.get(entry.account, 0) + entry.nanos
        return sums

    def key(self, user: str, key: str) -> KeyRow | None:
        """An idempotency key."""
        self._open()
        return self._keys.get((user, key))


# ------------------------------------------------------------------ filters, as SQL says them


def _key(charge: ChargeRow, dim: str) -> str | int:
    known = _DIMS.get(dim)
    if known is not None:
        return known(charge)
    value: str = _labels(charge.labels).get(dim.removeprefix(LABEL_PREFIX), "")
    return value


def _labels(text: str) -> dict[str, str]:
    return {} if text == "{}" else json.loads(text)


def _below(path: str, root: str) -> bool:
    return not root or path == root or path.startswith(root + "/")


def _labelled(text: str, pairs: Sequence[tuple[str, str]]) -> bool:
    if not pairs:
        return True
    labels = _labels(text)
    return all(labels.get(key) == value for key, value in pairs)


def _same(row: Any, query: Any, *names: str) -> bool:
    """Equal wherever the query says anything."""
    return all(getattr(query, name) in ("", getattr(row, name)) for name in names)


def _job_matches(job: JobRow, query: JobFilter) -> bool:
    if query.cursor is not None:
        number, index = query.cursor
        if (-job.number, job.array_index) <= (-number, index):
            return False
    chosen = job.parent_id == query.parent_id if query.parent_id else job.array_index < 0
    return (
        chosen
        and (not query.states or job.state in query.states)
        and job.submitted_at >= query.since
        and job.finished_at >= query.ended_since
        and _same(job, query, "user", "experiment", "model", "name")
        and _below(job.project, query.project)
        and _labelled(job.labels, query.labels)
    )


def _event_matches(event: EventRow, query: EventFilter) -> bool:
    if query.kinds and msgspec.json.decode(event.payload).get("type") not in query.kinds:
        return False
    return (
        query.actor in ("", event.actor)
        and event.at >= query.since
        and (not query.about or any(i.encode() in event.payload for i in (query.about, *query.or_about)))
    )


def _charge_matches(charge: ChargeRow, query: ChargeFilter) -> bool:
    return (
        (not query.since or charge.start_at >= query.since)
        and (not query.until or charge.start_at < query.until)
        and (not query.kinds or charge.kind in query.kinds)
        and (not query.job_ids or charge.job_id in query.job_ids)
        and query.job_number in (0, charge.job_number)
        and query.node in ("", charge.node_name)
        and query.simulated in (None, bool(charge.simulated))
        and _same(charge, query, "attempt_id", "pool", "user", "experiment", "model")
        and _below(charge.project, query.project)
        and _labelled(charge.labels, query.labels)
    )
