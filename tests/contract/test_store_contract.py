"""What every store promises: one class, run against each. A fake that fails here is no fake."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bursar.clock import DAY_US, HOUR_US
from bursar.errors import InvalidRequest, InvariantViolation
from bursar.model import EndCause
from bursard.events import Charge, ExitReport, JobHeld, MemberEnded, NodeBooted, encode
from bursard.store import (
    Batch,
    ChargeFilter,
    ChargeRow,
    EventFilter,
    EventRow,
    Fenced,
    JobFilter,
    JobRow,
    KeyRow,
    PostingRow,
    ScratchStore,
    SqliteStore,
    Store,
    Unposted,
    merge,
)

T0 = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z


@pytest.fixture(params=["scratch", "disk"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made: Store = ScratchStore() if request.param == "scratch" else SqliteStore(tmp_path / "state")
    yield made
    made.close()


def event(seq: int, actor: str = "ann", job: str = "job_1") -> EventRow:
    return EventRow(seq, T0 + seq, actor, encode(JobHeld(job_id=job)))


def job(number: int, **changes: Any) -> JobRow:
    fields: dict[str, Any] = {
        **{"id": f"job_{number}", "number": number, "parent_id": "", "array_index": -1},
        **{"name": f"n{number}", "project": "nlp", "user": "ann", "experiment": "e1"},
        **{"model": "m1", "model_version": "", "labels": "{}", "state": "SUCCEEDED"},
        **{"priority": 50, "submitted_at": T0 + number, "started_at": T0 + number},
        **{"finished_at": T0 + number + 10, "settled_nanos": 7, "currency": "USD"},
        "document": b"{}",
    }
    return JobRow(**(fields | changes))


def charge(seq: int, nanos: int = 5, start_at: int = T0, **changes: Any) -> ChargeRow:
    fields: dict[str, Any] = {
        **{"seq": seq, "kind": "usage", "node_id": "node_1", "node_name": "a", "pool": "local"},
        **{"attempt_id": "att_1", "job_id": "job_1", "job_number": 1, "rank": 0},
        **{"start_at": start_at, "end_at": start_at + 100, "held_us": 100, "nanos": nanos, "gpu": nanos},
        **{"cpu": 0, "memory": 0, "price_id": "p1", "project": "nlp", "user": "ann"},
        **{"experiment": "e1", "model": "m1", "model_version": "", "labels": "{}"},
        "simulated": 0,
    }
    return ChargeRow(**(fields | changes))


def settle(seq: int, nanos: int, account: str = "project:nlp") -> list[PostingRow]:
    return [PostingRow(seq, "settle", "att_1", ((account, nanos), ("cluster", -nanos)), "job_1")]


class TestLog:
    def test_a_new_store_is_empty_and_sound(self, store: Store) -> None:
        loaded = store.load()
        assert (list(loaded.images), list(loaded.events(0)), loaded.last_seq) == ([], [], 0)
        assert loaded.last_hash == bytes(32)
        assert store.verify() == []
        assert store.free_bytes() > 0

    def test_events_come_back_in_order_as_they_were_written(self, store: Store) -> None:
        rows = [event(seq) for seq in range(1, 201)]
        store.append(Batch(events=rows[:1]))
        store.append(merge([Batch(events=rows[1:90]), Batch(events=rows[90:])]))
        loaded = store.load()
        assert list(loaded.events(0)) == rows
        assert loaded.last_seq == store.last_seq == 200
        assert store.events(after_seq=10, limit=3) == rows[10:13]
        assert store.verify() == []

    def test_a_gap_in_seq_is_refused_and_nothing_is_written(self, store: Store) -> None:
        store.append(Batch(events=[event(1)]))
        for wrong in ([event(3)], [event(1)], [event(2), event(4)]):
            with pytest.raises(InvariantViolation, match="does not follow"):
                store.append(Batch(events=wrong, keys=[KeyRow("ann", "k", "job_1", b"d")]))
        assert store.last_seq == 1
        assert store.keys("ann", ["k"]).get("k") is None
        store.append(Batch(events=[event(2)]))
        assert store.verify() == []

    def test_the_head_is_the_newest_event_and_its_hash(self, store: Store) -> None:
        assert store.head == (0, bytes(32))
        store.append(Batch(events=[event(1), event(2)]))
        assert store.head == (2, store.load().last_hash)

    def test_a_log_that_a_later_epoch_has_opened_takes_nothing_more(self, store: Store) -> None:
        store.append(Batch(events=[event(1)]))
        store.set_meta("epoch", str(store.epoch + 1))
        with pytest.raises(Fenced, match=f"this is epoch {store.epoch}"):
            store.append(Batch(events=[event(2)]))
        assert store.last_seq == 1
        assert [row.seq for row in store.events()] == [1]
        store.set_meta("epoch", str(store.epoch))
        store.append(Batch(events=[event(2)]))
        assert store.verify() == []

    def test_events_are_filtered_by_kind_actor_subject_and_time(self, store: Store) -> None:
        ended = EventRow(
            3, T0 + 3, "node:a", encode(MemberEnded("att_1", 0, ExitReport(cause=EndCause.COMPLETED)))
        )
        store.append(Batch(events=[event(1), event(2, "bob", "job_2"), ended]))

        def seqs(**asked: Any) -> list[int]:
            return [row.seq for row in store.events(query=EventFilter(**asked))]

        assert seqs(kinds=("job-held",)) == [1, 2]
        assert seqs(kinds=("member-ended", "job-ended")) == [3]
        assert seqs(actor="bob") == [2]
        assert seqs(about="job_2") == [2]
        assert seqs(since=T0 + 2) == [2, 3]
        assert seqs(actor="bob' or '1'='1") == []
        assert seqs(about="att_1", kinds=("job-held",)) == []
        assert seqs(about="job_1", or_about=("att_1", "job_2")) == [1, 2, 3]

    def test_events_of_an_array_are_those_of_its_tasks_too_and_of_no_other_job(self, store: Store) -> None:
        names = ["job_1", "job_1.0", "job_10", "job_1.17", "job_1/x", "job_2.1"]
        store.append(Batch(events=[event(seq, job=name) for seq, name in enumerate(names, start=1)]))
        found = store.events(query=EventFilter(about="job_1"))
        assert [row.seq for row in found] == [1, 2, 4]
        assert [row.seq for row in store.events(1, 1, EventFilter(about="job_1"))] == [2]

    def test_the_hash_does_not_depend_on_how_commands_were_grouped(self, store: Store) -> None:
        store.append(Batch(events=[event(1), event(2)]))
        other = ScratchStore()
        other.append(Batch(events=[event(1)]))
        other.append(Batch(events=[event(2)]))
        assert store.load().last_hash == other.load().last_hash

    def test_a_start_reads_the_last_two_snapshots_and_what_follows_either(self, store: Store) -> None:
        store.append(Batch(events=[event(seq) for seq in range(1, 10)]))
        for seq in (3, 5, 8):
            store.save_snapshot(seq, b"state %d" % seq)
        loaded = store.load()
        assert list(loaded.images) == [(8, b"state 8"), (5, b"state 5")]
        assert [row.seq for row in loaded.events(8)] == [9]
        assert [row.seq for row in loaded.events(5)] == [6, 7, 8, 9]
        with pytest.raises(InvariantViolation):
            store.save_snapshot(10, b"of the future")

    def test_notes_are_kept(self, store: Store) -> None:
        assert store.meta("cluster_id") is None
        store.set_meta("cluster_id", "c1")
        assert store.meta("cluster_id") == "c1"
        assert store.epoch == 1


class TestJobs:
    def test_a_job_is_found_by_id_number_name_and_last(self, store: Store) -> None:
        store.append(Batch(events=[event(1)], jobs=[job(1, name="x"), job(2, name="x"), job(3)]))
        for ref, number in (("job_1", 1), ("2", 2), ("x", 2), ("n3", 3), ("last", 3)):
            found = store.find_job(ref)
            assert found is not None
            assert found.number == number, ref
        assert store.find_job("job_9") is None
        assert store.find_job("") is None
        assert store.find_job("9" * 40) is None
        assert [row.number for row in store.jobs_named("x")] == [2, 1]

    @pytest.mark.parametrize("parent_too", [True, False])
    def test_array_tasks_are_found_by_index_and_not_listed(self, store: Store, parent_too: bool) -> None:
        tasks = [job(4, id=f"job_4.{i}", parent_id="job_4", array_index=i, name="sweep") for i in range(5)]
        parent = [job(4, name="sweep")] if parent_too else []
        store.append(Batch(events=[event(1)], jobs=[*parent, *tasks]))
        for ref in ("job_4[3]", "4[3]", *(["sweep[3]"] if parent_too else [])):
            assert store.find_job(ref) == tasks[3], ref
        for ref in ("job_4[9]", "job_4[", "job_4[x]", "nope[1]", "[1]"):
            assert store.find_job(ref) is None, ref
        assert store.jobs(JobFilter()).rows == parent
        first = store.jobs(JobFilter(parent_id="job_4", limit=3))
        rest = store.jobs(JobFilter(parent_id="job_4", limit=3, cursor=first.next))
        assert [row.array_index for row in first.rows + rest.rows] == [0, 1, 2, 3, 4]
        assert rest.next is None

    def test_pages_are_newest_first_and_neither_skip_nor_repeat(self, store: Store) -> None:
        store.append(Batch(events=[event(1)], jobs=[job(number) for number in range(1, 26)]))
        seen: list[int] = []
        cursor = None
        while True:
            page = store.jobs(JobFilter(limit=10, cursor=cursor))
            seen += [row.number for row in page.rows]
            cursor = page.next
            if cursor is None:
                break
        assert seen == list(range(25, 0, -1))

    def test_filters_narrow(self, store: Store) -> None:
        rows = [
            job(1),
            job(2, project="nlp/finetune", labels=json.dumps({"team": "a", 'q"x': "1"})),
            job(3, project="nlp2", user="bob", state="FAILED"),
            job(4, experiment="e2", model="m2", submitted_at=T0 + DAY_US, finished_at=T0 + DAY_US),
        ]
        store.append(Batch(events=[event(1)], jobs=rows))

        def numbers(**asked: Any) -> list[int]:
            return [row.number for row in store.jobs(JobFilter(**asked)).rows]

        assert numbers(project="nlp") == [4, 2, 1]
        assert numbers(user="bob") == [3]
        assert numbers(states=("FAILED", "CANCELLED")) == [3]
        assert numbers(experiment="e2", model="m2") == [4]
        assert numbers(labels=(("team", "a"), ('q"x', "1"))) == [2]
        assert numbers(labels=(("team", "b"),)) == []
        assert numbers(ended_since=T0 + DAY_US) == [4]
        assert numbers(name="n2") == [2]
        assert numbers(user="x' or 1=1 --") == []

    def test_a_job_row_is_replaced_by_its_newer_self(self, store: Store) -> None:
        store.append(Batch(events=[event(1)], jobs=[job(1)]))
        store.append(Batch(events=[event(2)], jobs=[job(1, settled_nanos=9)]))
        assert [row.settled_nanos for row in store.jobs(JobFilter()).rows] == [9]

    def test_all_keys_are_walked_in_pages_whoever_owns_them(self, store: Store) -> None:
        pairs = [(user, f"k{number}") for user in ("ann", "bob") for number in range(5)]
        rows = [KeyRow(user, key, f"job_{user}{key}", b"d") for user, key in pairs]
        store.append(Batch(events=[event(1)], keys=rows[::-1]))
        assert store.keys_after(("", ""), 3) == pairs[:3]
        assert store.keys_after(("ann", "k2"), 4) == pairs[3:7]
        assert store.keys_after(("bob", "k1"), 100) == pairs[7:]
        assert store.keys_after(("bob", "k4"), 100) == []

    def test_a_key_belongs_to_its_user_and_is_never_reassigned(self, store: Store) -> None:
        row = KeyRow("ann", "k", "job_1", b"digest")
        store.append(Batch(events=[event(1)], keys=[row]))
        assert store.keys("ann", ["k"]).get("k") == row
        assert store.keys("bob", ["k"]).get("k") is None
        with pytest.raises(InvariantViolation, match="nothing was written"):
            store.append(Batch(events=[event(2)], keys=[KeyRow("ann", "k", "job_2", b"other")]))
        assert store.last_seq == 1
        assert store.keys("ann", ["k"]).get("k") == row
        store.append(Batch(events=[event(2)]))


class TestMoney:
    def test_entries_that_do_not_balance_are_refused(self, store: Store) -> None:
        with pytest.raises(InvariantViolation, match="sum to 5"):
            store.append(Batch(events=[event(1)], postings=[PostingRow(1, "settle", "att_1", (("a", 5),))]))
        assert store.last_seq == 0
        assert list(store.entries()) == []

    def test_rows_must_belong_to_events_of_their_batch(self, store: Store) -> None:
        with pytest.raises(InvariantViolation, match="in a batch of"):
            store.append(Batch(events=[event(1)], postings=settle(2, 5)))

    def test_balances_are_sums_of_entries(self, store: Store) -> None:
        store.append(Batch(events=[event(1)], postings=settle(1, 5)))
        store.append(Batch(events=[event(2)], postings=settle(2, 6) + settle(2, 2, "project:cv")))
        assert store.balances() == {"cluster": -13, "project:cv": 2, "project:nlp": 11}
        assert store.balances("project:") == {"project:cv": 2, "project:nlp": 11}
        assert [row.nanos for row in store.entries("project:nlp")] == [5, 6]
        assert list(store.entries("nobody")) == []
        assert len(list(store.entries())) == 6
        assert store.verify() == []

    def test_sums_past_64_bits_are_exact_and_no_damage(self, store: Store) -> None:
        most, count = 2**63 - 1, 5
        for seq in range(1, count + 1):
            row = charge(seq, start_at=T0, nanos=most)._replace(gpu=most - seq, cpu=-seq, memory=2)
            told = EventRow(seq, T0, "node:a", encode(_booted((row,))))
            store.append(Batch(events=[told], charges=[row], postings=settle(seq, most)))
        assert store.balances() == {"cluster": -count * most, "project:nlp": count * most}
        (found,) = store.charge_sums([])
        assert (found.nanos, found.charges) == (count * most, count)
        assert (found.gpu, found.cpu, found.memory) == (count * most - 15, -15, 2 * count)
        with store.picture() as picture:
            assert picture.balances_but("project") == {"cluster": -count * most}

    def test_walks_longer_than_a_page_lose_and_repeat_nothing(self, store: Store) -> None:
        count = 4500
        events, charges, postings = [], [], []
        for seq in range(1, count + 1):
            # Many share one start: the page boundary falls among equals.
            row = charge(seq, start_at=T0 + seq // 3000, nanos=seq)
            events.append(EventRow(seq, T0, "node:a", encode(_booted((row,)))))
            charges.append(row)
            postings += settle(seq, seq)
        store.append(Batch(events=events, charges=charges, postings=postings))
        assert [row.nanos for row in store.charges()] == list(range(1, count + 1))
        assert len(list(store.entries())) == 2 * count
        assert [row.nanos for row in store.entries("project")] == list(range(1, count + 1))
        assert store.charge_sums([])[0].nanos == count * (count + 1) // 2
        assert store.verify() == []

    def test_a_charge_says_what_it_is_of_and_when_it_was_posted(self, store: Store) -> None:
        share = {"gpu_milli": 500, "devices": 1, "cpu_milli": 2000, "memory_bytes": 2**40}
        rates = {"gpu_rate": 2**62, "cpu_rate": 7, "memory_rate": 0}
        rows = [
            charge(1, **share, **rates, energy_millijoules=1234),
            charge(1, start_at=T0 + 200, **share, **rates),
            charge(1, start_at=T0 + 400, kind="idle", attempt_id="", job_id="", job_number=0, devices=8,
                   gpu_milli=8000),
            charge(1, start_at=T0 + 600),
        ]  # fmt: skip
        store.append(Batch(events=[event(1)], charges=rows))
        assert list(store.charges()) == [row._replace(posted_at=T0 + 1) for row in rows]
        (total,) = store.charge_sums([])
        assert (total.gpu_milli_us, total.cpu_milli_us) == (2 * 500 * 100, 2 * 2000 * 100)

    def test_what_a_job_has_cost_may_pass_64_bits(self, store: Store) -> None:
        for number, nanos in enumerate((2**62 - 1, 2**62, 2**63, 10**21), 1):
            store.append(Batch(events=[event(number)], jobs=[job(number, settled_nanos=nanos)]))
            found = store.find_job(str(number))
            assert found is not None
            assert found.settled_nanos == nanos
        assert [row.settled_nanos for row in store.jobs(JobFilter()).rows] == [
            10**21,
            2**63,
            2**62,
            2**62 - 1,
        ]

    def test_charges_fold_by_any_dimension(self, store: Store) -> None:
        rows = [
            charge(1, 5, T0, labels='{"team":"a"}'),
            charge(1, 6, T0 + HOUR_US, project="cv", job_id="job_2", job_number=2),
            charge(1, 7, T0 + DAY_US, node_name="b", simulated=1, labels='{"team":"a"}'),
            charge(1, 0, T0 + 40 * DAY_US, price_id="", kind="idle", job_id="", job_number=0),
        ]
        store.append(_charged(rows))

        def folded(*by: str, **asked: Any) -> dict[tuple[str | int, ...], int]:
            return {s.keys: s.nanos for s in store.charge_sums(by, ChargeFilter(**asked))}

        assert folded() == {(): 18}
        assert folded(kinds=("none",)) == {}
        assert folded("project") == {("cv",): 6, ("nlp",): 12}
        assert folded("day", kinds=("usage",)) == {(T0,): 11, (T0 + DAY_US,): 7}
        assert folded("hour", until=T0 + DAY_US) == {(T0,): 5, (T0 + HOUR_US,): 6}
        assert folded("month") == {("2026-01",): 18, ("2026-02",): 0}
        assert folded("label:team") == {("",): 6, ("a",): 12}
        assert folded("label:team", "node") == {("", "a"): 6, ("a", "a"): 5, ("a", "b"): 7}
        assert folded("simulated") == {(0,): 11, (1,): 7}
        assert folded("job_number", job_ids=("job_1", "job_2")) == {(1,): 12, (2,): 6}
        assert folded(simulated=False, since=T0 + HOUR_US) == {(): 6}
        assert folded(labels=(("team", "a"),), node="b", project="nlp") == {(): 7}
        assert folded(job_number=2) == {(): 6}
        total = store.charge_sums([])[0]
        assert (total.charges, total.held_us, total.unpriced_us, total.gpu) == (4, 400, 100, 18)
        assert [row.nanos for row in store.charges(ChargeFilter(project="nlp"))] == [5, 7, 0]

    def test_open_hours_are_rows_among_rows_as_of_their_event(self, store: Store) -> None:
        store.append(_charged([charge(1, 5), charge(1, 7, T0 + HOUR_US, project="cv")]))
        store.append(Batch(events=[event(2)], charges=[charge(2, 100)], postings=settle(2, 100)))
        now = Unposted(1, (charge(0, 3, T0 + 1, labels='{"team":"a"}'), charge(0, 2**61, T0, kind="idle")))

        def folded(*by: str, **asked: Any) -> dict[tuple[str | int, ...], int]:
            return {s.keys: s.nanos for s in store.charge_sums(by, ChargeFilter(**asked), now)}

        assert folded(kinds=("usage",)) == {(): 15}
        assert folded("project", kinds=("usage",)) == {("cv",): 7, ("nlp",): 8}
        assert folded("kind", project="nlp") == {("idle",): 2**61, ("usage",): 8}
        assert folded("label:team", kinds=("usage",)) == {("",): 12, ("a",): 3}
        assert folded(labels=(("team", "a"),)) == {(): 3}
        assert folded(since=T0 + HOUR_US) == {(): 7}
        assert folded(project="other") == {}
        usage = ChargeFilter(kinds=("usage",))
        assert [row.nanos for row in store.charges(usage, now)] == [5, 3, 7]
        assert next(iter(store.charges(ChargeFilter(kinds=("idle",)), now))) == now.rows[1]
        assert store.charge_sums([], usage, Unposted(2, ()))[0].nanos == 112

    @pytest.mark.parametrize("dim", ["nope", "label:", "project; drop table charges", "", "Project"])
    def test_an_unknown_dimension_is_refused_by_name(self, store: Store, dim: str) -> None:
        with pytest.raises(InvalidRequest, match="cannot group by"):
            store.charge_sums(["project", dim])

    def test_a_charge_that_its_event_does_not_bear_out_is_found(self, store: Store) -> None:
        batch = _charged([charge(1, 5)])
        batch.charges = [charge(1, 4)]
        store.append(batch)
        (problem,) = store.verify()
        assert "charges of event 1" in problem
        assert "4 nanos" in problem


def _booted(rows: tuple[ChargeRow, ...]) -> NodeBooted:
    """An event that says its charges whole."""
    return NodeBooted(
        node_id="node_1",
        boot_id="b",
        anchor_at=T0,
        anchor_boot_us=0,
        charges=tuple(
            Charge(
                kind=row.kind,
                node_id=row.node_id,
                start=row.start_at,
                end=row.end_at,
                nanos=row.nanos,
                price_id=row.price_id,
                attempt_id=row.attempt_id,
                job_id=row.job_id,
                rank=row.rank,
                gpu=row.gpu,
                cpu=row.cpu,
                memory=row.memory,
            )
            for row in rows
        ),
    )


def _charged(rows: list[ChargeRow]) -> Batch:
    payload = encode(_booted(tuple(rows)))
    return Batch(events=[EventRow(1, T0, "node:a", payload)], charges=rows)


def test_a_log_that_a_later_epoch_has_written_to_refuses_for_that_and_not_for_its_numbers(
    tmp_path: Path,
) -> None:
    store = SqliteStore(tmp_path / "state")
    store.append(Batch(events=[event(1)]))
    with sqlite3.connect(tmp_path / "state" / "bursard.db") as other:
        other.execute("update meta set value = ? where key = 'epoch'", (str(store.epoch + 1),))
        other.execute("insert into events (seq, at, actor, payload, hash) values (2, 0, 'b', x'7b7d', x'00')")
    other.close()
    with pytest.raises(
        Fenced, match=f"epoch {store.epoch + 1} has opened this log, this is epoch {store.epoch}"
    ):
        store.append(Batch(events=[event(2)]))
    store.close()
