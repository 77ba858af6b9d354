"""Cost by any dimensions, with a total that is the sum of its rows to the nano.

Why     one query gives the rows, the number of jobs and the total, so they cannot disagree. Time without
        a known price is counted beside the amount, never as 0 of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import msgspec

from bursar.clock import SECOND_US, format_instant
from bursard.store import ChargeFilter, ChargeSum, Dim, Unposted, Views
from bursard.store.base import check_dims


class CostRow(msgspec.Struct):
    """Charges of one group.

    Attributes:
        keys: one text per dimension; empty where the work does not say (idle has no project).
        gpu_milli_us, cpu_milli_us: what jobs used, in thousandths of a GPU or CPU times microseconds.
        held_us: summed length of the charges. unknown_us: the part of it without a known price.
        jobs: different jobs; an array is one, however many of its tasks are among the charges.
    """

    keys: tuple[str, ...]
    nanos: int = 0
    gpu: int = 0
    cpu: int = 0
    memory: int = 0
    gpu_milli_us: int = 0
    cpu_milli_us: int = 0
    held_us: int = 0
    unknown_us: int = 0
    jobs: int = 0

    def add(self, part: ChargeSum | CostRow) -> None:
        """Take more charges in; `jobs` is the caller's to count."""
        self.nanos += part.nanos
        self.gpu += part.gpu
        self.cpu += part.cpu
        self.memory += part.memory
        self.gpu_milli_us += part.gpu_milli_us
        self.cpu_milli_us += part.cpu_milli_us
        self.held_us += part.held_us
        self.unknown_us += part.unpriced_us if isinstance(part, ChargeSum) else part.unknown_us


class CostTable(msgspec.Struct, frozen=True):
    """Rows in order of their keys, and their sum."""

    by: tuple[str, ...]
    rows: tuple[CostRow, ...]
    total: CostRow


def cost_table(views: Views, by: Sequence[str], query: ChargeFilter, unposted: Unposted) -> CostTable:
    """Fold charges by dimensions. Raises `InvalidRequest` for a dimension there is none of."""
    check_dims(by)
    return fold(by, views.charge_sums([*by, Dim.JOB], query, unposted))


def fold(by: Sequence[str], sums: Iterable[ChargeSum]) -> CostTable:
    """Sums whose last key is the job or the task, folded over the jobs. A job in several parts counts once: a
    gang of several nodes, an array of several tasks.
    """
    rows: dict[tuple[str | int, ...], CostRow] = {}
    total, jobs = CostRow(()), set[str | int]()
    counted = set[tuple[str | int, ...]]()
    for part in sums:
        *keys, job = part.keys
        row = rows.get(tuple(keys))
        if row is None:
            texts = tuple(_text(dim, key) for dim, key in zip(by, keys, strict=True))
            row = rows[tuple(keys)] = CostRow(texts)
        row.add(part)
        total.add(part)
        whole = str(job).partition(".")[0]  # of the task of an array, the array
        if whole and (*keys, whole) not in counted:
            counted.add((*keys, whole))
            row.jobs += 1
            jobs.add(whole)
    total.jobs = len(jobs)
    return CostTable(tuple(by), tuple(rows.values()) if by else (), total)


def _text(dim: str, key: str | int) -> str:
    if dim == Dim.DAY and isinstance(key, int):
        return datetime.fromtimestamp(key // SECOND_US, UTC).strftime("%Y-%m-%d")
    if dim == Dim.HOUR and isinstance(key, int):
        return format_instant(key)
    return str(key)
