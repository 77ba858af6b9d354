"""Whose costs are, over any history of tables: what each row's own history says, to the nano.

The reference looks at one charge and one table after another, and knows nothing of stretches and sums.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import Any

import pytest

from bursar.clock import DAY_US, HOUR_US
from bursar_policies.attribution import Attributions, Change, Owner, Work, owner_of
from bursar_policies.specs import AttributionSpec, OwnerRule, Scope, SharedRule
from bursard.events import JobHeld, encode
from bursard.ledger import PAID
from bursard.reports.attribution import attributed_sums
from bursard.reports.chargeback import chargeback, divided
from bursard.reports.period import find_period, month_of
from bursard.store import LATE_AFTER_US, Batch, ChargeFilter, ChargeRow, Dim, EventRow, ScratchStore, Unposted

T0 = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z
SPAN = 120 * DAY_US
NOTHING = AttributionSpec()
SCOPES = (
    Scope(),
    Scope(project="a"),
    Scope(project="a/b"),
    Scope(user="ann"),
    Scope(labels=(("grant", "g"),)),
    Scope(project="c", labels=(("grant", "g"),)),
)


def spec(chance: random.Random) -> AttributionSpec | None:
    if chance.random() < 0.1:
        return None
    owners = tuple(
        OwnerRule(scope, chance.choice(["", "t1", "t2"]), chance.choice(["c1", "c2", "c3"]))
        for scope in chance.sample(SCOPES, chance.randint(0, 4))
    )
    shared = (
        SharedRule(("idle", "absorption"), by=chance.choice(["cost", "even"])),
        SharedRule(cost_center="c3", by="shares", shares=(("c1", 333_333), ("c9", 666_667))),
    )
    return AttributionSpec(owners, shared[: chance.randint(0, 2)], "why")


def tables(chance: random.Random, number: int) -> Attributions:
    """Applied one after another, with months closed at once or not; some reach back, some hold later."""
    found, at = [], T0
    for version in range(number):
        at += chance.randint(1, 30 * 24) * HOUR_US + 17
        month = month_of(at)[0]
        opened = month if chance.random() < 0.5 else month_of(at - LATE_AFTER_US)[0]
        since = (at + chance.choice([0, 0, -40 * DAY_US, -90 * DAY_US, 9 * DAY_US])) // HOUR_US * HOUR_US
        found.append(Change("org", version + 1, at, "ann", max(since, 0), opened, spec(chance)))
    return Attributions(found)


def charge(chance: random.Random, seq: int) -> ChargeRow:
    idle = chance.random() < 0.2
    start = T0 + chance.randrange(SPAN // HOUR_US) * HOUR_US + chance.choice([0, 0, 5])
    fields: dict[str, Any] = {
        **{"seq": seq, "kind": chance.choice(["idle", "absorption"]) if idle else "usage"},
        **{"node_id": "n", "node_name": "n", "pool": "p", "attempt_id": "" if idle else "att_1", "rank": 0},
        **{"job_id": "" if idle else "job_1", "job_number": 0 if idle else 1, "start_at": start},
        **{"end_at": start + HOUR_US, "held_us": HOUR_US - 5, "nanos": chance.randint(-(10**12), 10**13)},
        **{"gpu": 0, "cpu": 0, "memory": 0, "price_id": "p1", "user": chance.choice(["ann", "bob"])},
        **{"project": "" if idle else chance.choice(["a", "a/b", "c"]), "experiment": "", "model": ""},
        **{"model_version": "", "simulated": 0},
        "labels": "{}" if idle else json.dumps(chance.choice([{}, {"grant": "g"}, {"cost-center": "l"}])),
    }
    if not idle and chance.random() < 0.3:
        was = max(start - chance.randint(1, 80) * DAY_US, T0)
        fields |= {"corrects": 1, "for_start": was, "for_end": was + 9, "reason": chance.choice(["", "r"])}
    return ChargeRow(**fields)


def books(chance: random.Random) -> tuple[ScratchStore, list[ChargeRow]]:
    store, rows = ScratchStore(), []
    for seq in range(1, 40):
        some = [charge(chance, seq) for _ in range(6)]
        event = EventRow(seq, T0 + seq, "ann", encode(JobHeld(job_id="job_1")))
        store.append(Batch(events=[event], charges=some))
        rows += some
    return store, rows


def believed(changes: list[Change], upto: int, used_at: int) -> AttributionSpec:
    """After so many tables: of the last one that reaches so far back."""
    for one in reversed(changes[:upto]):
        if used_at >= one.since:
            return one.spec or NOTHING
    return NOTHING


def work_of(row: ChargeRow) -> Work:
    return Work(row.project, row.user, row.experiment, row.model, json.loads(row.labels))


def told(rows: list[ChargeRow], found: Attributions, since: int, until: int) -> Counter[Owner]:
    """Charge by charge, and of each table by table."""
    sums = Counter[Owner]()
    for row in rows:
        used_at = row.for_start if row.corrects else row.start_at
        known = sum(one.open_since <= row.start_at for one in found.changes)
        if since <= row.start_at < until:
            sums[owner_of(believed(found.changes, known, used_at), work_of(row))] += row.nanos
        for at in range(known, len(found.changes)):
            one = found.changes[at]
            if since <= max(one.at, one.open_since) < until:
                before, after = (
                    owner_of(believed(found.changes, upto, used_at), work_of(row)) for upto in (at, at + 1)
                )
                sums[before] -= row.nanos * (before != after)
                sums[after] += row.nanos * (before != after)
    return sums


def asked(
    store: ScratchStore, rows: list[ChargeRow], found: Attributions, since: int, until: int
) -> Counter[Owner]:
    sums = Counter[Owner]()
    query, by = ChargeFilter(since=since, until=until), ("team", "cost-center", Dim.JOB)
    for parts in attributed_sums(store, by, query, Unposted(store.last_seq, ()), (), found):
        for part in parts:
            sums[Owner(str(part.keys[0]), str(part.keys[1]))] += part.nanos
    return sums


def windows(chance: random.Random) -> list[tuple[int, int]]:
    cuts = sorted(T0 + chance.randrange(SPAN // HOUR_US) * HOUR_US for _ in range(3))
    whole = (T0, T0 + 2 * SPAN)
    return [whole, (cuts[0], cuts[1]), (cuts[1], cuts[2]), month_of(cuts[1])]


@pytest.mark.parametrize("seed", range(25))
def test_sums_by_owner_are_what_each_charge_says_by_itself(seed: int) -> None:
    chance = random.Random(seed)
    store, rows = books(chance)
    found = tables(chance, chance.randint(0, 6))
    for since, until in windows(chance):
        mine = asked(store, rows, found, since, until)
        reference = told(rows, found, since, until)
        assert {k: v for k, v in mine.items() if v} == {k: v for k, v in reference.items() if v}
        assert sum(mine.values()) == sum(row.nanos for row in rows if since <= row.start_at < until)


@pytest.mark.parametrize("seed", range(25))
def test_no_later_table_changes_what_a_published_time_says(seed: int) -> None:
    chance = random.Random(1_000 + seed)
    store, rows = books(chance)
    every = tables(chance, 7)
    for number in range(8):
        found = Attributions(every.changes[:number])
        later = Attributions(every.changes)
        until = every.changes[number].open_since if number < 7 else T0 + 2 * SPAN
        # Moves of later tables are booked later: what was published by then is as it was.
        assert asked(store, rows, found, T0, until) == asked(store, rows, later, T0, until)


@pytest.mark.parametrize("seed", range(15))
def test_all_cost_centres_together_bear_what_the_nodes_cost(seed: int) -> None:
    chance = random.Random(2_000 + seed)
    store, rows = books(chance)
    found = tables(chance, chance.randint(0, 5))
    whole = Counter[str]()
    for text in ("2026-01", "2026-02", "2026-03", "2026-04", "2026-Q1"):
        period = find_period(text, 0)
        page = chargeback(store, period, "USD", Unposted(store.last_seq, ()), found)
        of_month = [row for row in rows if period.since <= row.start_at < period.until]
        assert sum(int(row[4]) for row in page.rows) == sum(row.nanos for row in of_month) == page.total[4]  # type: ignore[arg-type]
        assert sum(int(row[2]) for row in page.rows) == 0 == sum(int(row[3]) for row in page.rows)  # type: ignore[arg-type]
        paid = sum(row.nanos for row in of_month if row.kind in PAID)
        own = {str(row[0] or ""): int(row[1]) for row in page.rows}  # type: ignore[arg-type]
        nobody = sum(row.nanos for row in of_month if row.kind not in PAID)
        assert sum(own.values()) - nobody == paid
        for row in page.rows:
            whole[str(row[0] or "")] += int(row[4]) * (-1 if text == "2026-Q1" else text != "2026-04")  # type: ignore[arg-type]
    assert not any(whole.values())  # a quarter is its months


def test_what_is_divided_goes_by_cost_evenly_or_by_shares_to_the_last_nano() -> None:
    kinds, own = Counter({"idle": 10, "down": 7}), Counter({"A": 2, "B": 1, "": 50, "C": -5, "P": 9})
    by_cost = AttributionSpec(shared=(SharedRule(("idle",)),))
    assert divided(by_cost, kinds, own) == {"A": 2, "B": 1, "P": 7, "": -10}
    evenly = AttributionSpec(shared=(SharedRule(("idle", "down"), by="even"),))
    assert divided(evenly, kinds, own) == {"A": 6, "B": 6, "P": 5, "": -17}
    given = AttributionSpec(
        shared=(
            SharedRule(cost_center="P", by="shares", shares=(("A", 500_000), ("Z", 500_000))),
            SharedRule(("idle",), by="even"),
        )
    )
    assert divided(given, kinds, own) == {"P": -9, "A": 5 + 5, "Z": 4, "B": 5, "": -10}
    assert divided(by_cost, kinds, Counter({"": 4})) == {}  # nobody is there to bear it
