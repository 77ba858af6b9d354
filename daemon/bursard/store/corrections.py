"""A correction as rows: what was charged with its sign turned, what is charged instead, and the difference.

Why     the three stand together in the hour in which they were booked, so a sum over any time or owner is
        right, and each names the charge and the time that it is about. What was held is taken back and given
        anew too, with its energy, so that quantities stay what they were; the amount that stands instead was
        agreed on, and has no unit price. What is moved to somebody else stands there at the amount and the
        price it had.
"""

from __future__ import annotations

from collections.abc import Iterator

from bursard.events import Attribution, ChargesCorrected, Corrected
from bursard.store.base import ChargeRow


def told_late(row: ChargeRow, booked_at: int, closed_by: int) -> ChargeRow:
    """A charge of a month that was closed when it was told, as of the instant that it counts in."""
    return row._replace(
        start_at=booked_at,
        end_at=booked_at,
        corrects=closed_by,
        for_start=row.start_at,
        for_end=row.end_at,
    )


def correction_rows(seq: int, event: ChargesCorrected, posted_at: int) -> list[ChargeRow]:
    """The rows of event `seq`, in the order of its charges."""
    return [row for one in event.charges for row in _rows(seq, event, one, posted_at)]


def _rows(seq: int, event: ChargesCorrected, one: Corrected, posted_at: int) -> Iterator[ChargeRow]:
    blank = _blank(seq, event, one, posted_at)
    gpu_milli, devices, cpu_milli, memory_bytes = event.share
    usage = blank._replace(
        kind=event.kind,
        attempt_id=event.attempt_id,
        job_id=event.job_id,
        job_number=event.job_number,
        rank=event.rank,
        gpu_milli=gpu_milli,
        devices=devices,
        cpu_milli=cpu_milli,
        memory_bytes=memory_bytes,
    )
    usage = _of(usage, event.attribution)
    taken = (-one.gpu, -one.cpu, -one.memory)
    instead = (one.to_gpu, one.to_cpu, one.to_memory)
    rates = event.rates
    priced = usage._replace(gpu_rate=rates.gpu, cpu_rate=rates.cpu, memory_rate=rates.memory)
    energy = one.energy_millijoules
    yield _amounted(priced, -one.held_us, taken)._replace(energy_millijoules=-energy)
    moved = event.moved_to
    stands = _amounted(usage if moved is None else _of(priced, moved), one.held_us, instead)
    yield stands._replace(energy_millijoules=energy)
    rest = [-(before + after) for before, after in zip(taken, instead, strict=True)]
    if any(rest):
        yield _amounted(blank, 0, (rest[0], rest[1], rest[2]))


def _of(row: ChargeRow, whose: Attribution) -> ChargeRow:
    return row._replace(
        project=whose.project,
        user=whose.user,
        experiment=whose.experiment,
        model=whose.model,
        model_version=whose.model_version,
        labels=whose.labels,
    )


def _blank(seq: int, event: ChargesCorrected, one: Corrected, posted_at: int) -> ChargeRow:
    """The node's own row of it, without an amount."""
    return ChargeRow(
        seq=seq,
        kind="variance",
        node_id=event.node_id,
        node_name=event.node_name,
        pool=event.pool,
        attempt_id="",
        job_id="",
        job_number=0,
        rank=0,
        start_at=event.booked_at,
        end_at=event.booked_at,
        held_us=0,
        nanos=0,
        gpu=0,
        cpu=0,
        memory=0,
        price_id=event.price_id,
        project="",
        user="",
        experiment="",
        model="",
        model_version="",
        labels="{}",
        simulated=event.simulated,
        posted_at=posted_at,
        corrects=one.of,
        for_start=one.start,
        for_end=one.end,
        reason=event.reason,
    )


def _amounted(row: ChargeRow, held_us: int, parts: tuple[int, int, int]) -> ChargeRow:
    gpu, cpu, memory = parts
    return row._replace(held_us=held_us, nanos=gpu + cpu + memory, gpu=gpu, cpu=cpu, memory=memory)
