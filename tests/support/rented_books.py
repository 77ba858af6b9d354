"""What rented machines must have cost, by their facts and by a second book of the log."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from rented_site import Site
from second_book import SecondBook

from bursar.clock import HOUR_US
from bursar.model import ShareRates
from bursar.money import charge
from bursard.events import NodeMetered, NodeRemoved, encode
from bursard.ledger import PAID, hour_segments
from bursard.reports import control
from bursard.store import EventRow

MONEY_ALONE = ("overhead", "variance", "absorption", "refund")


def cost(rates: ShareRates, start: int, end: int) -> int:
    """By component, counted from full hours."""
    return sum(
        charge(rate, a % HOUR_US, a % HOUR_US + b - a)
        for rate in (rates.gpu, rates.cpu, rates.memory)
        for a, b in hour_segments(start, end)
    )


def what_the_facts_say(site: Site) -> control.Owed:
    """The control of a statement, of machines that are all gone."""
    events = [EventRow(seq, 0, "x", encode(event)) for seq, event in enumerate(site.world.events, 1)]
    through = {one.node_id: one.through for one in site.world.events if isinstance(one, NodeMetered)}
    removed = [one.node_id for one in site.world.events if isinstance(one, NodeRemoved)]
    return control.owed(events, {node_id: through.get(node_id, 0) for node_id in removed}, 0, 2**62)


def a_second_book_says_the_same(site: Site, rows: list[Any]) -> None:
    """Rows, budget and jobs against what the payloads of the log add up to."""
    book, state = SecondBook(site.world.writer.rows), site.world.state
    shown: dict[Any, list[int]] = defaultdict(lambda: [0] * 5)
    for row in rows:
        key = (row.kind, row.node_id, row.attempt_id, row.job_id, row.job_number, row.price_id)
        held_us = 0 if row.kind in MONEY_ALONE else row.held_us
        amounts = (row.nanos, row.gpu, row.cpu, row.memory, held_us)
        sums = shown[*key, row.start_at - row.start_at % HOUR_US, row.project, row.user, ""]
        sums[:] = [one + more for one, more in zip(sums, amounts, strict=True)]
    assert {key: tuple(sums) for key, sums in shown.items()} == book.sums()
    settled = {job.id: job.settled_nanos for job in state.jobs.values()}
    assert settled == {job_id: book.of_job[job_id] for job_id in settled}
    record, held = state.budgets.records.get("b"), book.held()
    if record is None:
        return
    for start in {record.period_start, *(start for _, start in book.settled)}:
        found = state.ledger.settled("b", start), state.ledger.held("b", start)
        paid = sum(row.nanos for row in rows if row.kind in PAID)
        assert found == (paid, 0), "B5"
        assert found == (book.settled["b", start], held["b", start]), "B4"
