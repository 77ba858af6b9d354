"""What a released version wrote opens, and says the same: its log, its images, its database (P1).

Each folder of tests/fixtures holds state directories of one released schema, as they were left by `kill -9`
(`killed`: a write-ahead log and no image) and by a stop (`stopped`: an image at the end of the log).
"""

from __future__ import annotations

from pathlib import Path

import pytest
from released import ended_jobs, live_jobs, start_and_stop, unpacked, without_images

from bursard.events import decode, encode
from bursard.replay import restore
from bursard.state import Limits, State
from bursard.store import SqliteStore

ENDED = {
    1: ("ok", "SUCCEEDED", 36457),
    2: ("gpu", "SUCCEEDED", 1055551),
    3: ("bad", "FAILED", 164),
    4: ("gang", "SUCCEEDED", 72989),
    5: ("arr", "SUCCEEDED", 14829),
    6: ("pre", "SUCCEEDED", 10917),
    7: ("aft", "SUCCEEDED", 347),
    8: ("heldone", "SUCCEEDED", 169),
    9: ("heldjob", "SUCCEEDED", 164),
    13: ("canc", "CANCELLED", 0),
}
"""By number: what had ended when the daemon was killed, with its cost in nanos."""

WAITING = {11: ("toobig", "PENDING", True), 12: ("arrpend", "PENDING", False)}
"""By number: name, state, held."""

POLICIES = [
    ("Budget", "vision", 1),
    ("CostModel", "onprem-local", 1),
    ("CostModel", "rack-a", 1),
    ("PlacementPolicy", "default", 1),
]
PERIOD = (1793487600000000, 1796079600000000)
"""November 2026 in Berlin."""

STRATEGY = "pack"


def check_policies(state: State) -> None:
    found = sorted((kind, name, one.version) for (kind, name), one in state.policies.items())
    assert found == POLICIES
    assert state.strategy == STRATEGY
    budget = state.budgets.records["vision"]
    assert budget.spec.limit.nanos == 50_000_000_000
    assert (budget.spec.period, budget.spec.timezone) == ("month", "Europe/Berlin")
    assert budget.spec.scope.project == "research/vision"
    assert (budget.period_start, budget.period_end) == PERIOD
    assert state.ledger.settled("vision", PERIOD[0]) == 1092008
    assert state.ledger.held("vision", PERIOD[0]) == 0


def check_killed(store: SqliteStore, state: State) -> None:
    assert store.last_seq == 107
    assert (state.cluster_id, state.currency, state.version) == ("cluster_42j2gpz26nqkdc25", "USD", 107)
    assert live_jobs(state) == {10: ("big", "RUNNING", False), **WAITING}
    assert state.jobs["job_bs4f6axnrx7q2z1r"].settled_nanos == 9969981
    assert state.counts["PENDING"] == 21  # one job and the 20 tasks of the array
    assert ended_jobs(store) == ENDED
    nodes = {node.facts.name: (node.through, node.live) for node in state.nodes.values()}
    assert nodes == {
        "local-1": (1795793610638583, {"att_39aeb5yn3tzxj8t6": 0}),
        "local-2": (1795793610639928, {"att_39aeb5yn3tzxj8t6": 1}),
    }
    check_policies(state)


def check_stopped(store: SqliteStore, state: State) -> None:
    assert store.last_seq == 119
    assert (state.cluster_id, state.currency, state.version) == ("cluster_42j2gpz26nqkdc25", "USD", 119)
    assert live_jobs(state) == WAITING
    assert state.counts["PENDING"] == 21
    assert ended_jobs(store) == {**ENDED, 10: ("big", "FAILED", 35147450)}
    assert all(not node.live and not node.connected for node in state.nodes.values())
    assert state.next_number == 14
    check_policies(state)


def test_a_killed_daemon_of_schema_1_opens_by_replay(tmp_path: Path) -> None:
    store = SqliteStore(unpacked(1, "killed", tmp_path))
    check_killed(store, restore(store, Limits()))
    assert store.verify() == []
    store.close()


def test_a_stopped_daemon_of_schema_1_opens_by_its_image(tmp_path: Path) -> None:
    store = SqliteStore(unpacked(1, "stopped", tmp_path))
    check_stopped(store, restore(store, Limits()))
    assert store.verify() == []
    store.close()


def test_a_stopped_daemon_of_schema_1_opens_by_replay(tmp_path: Path) -> None:
    directory = unpacked(1, "stopped", tmp_path)
    without_images(directory)
    store = SqliteStore(directory)
    check_stopped(store, restore(store, Limits()))
    store.close()


@pytest.mark.parametrize("name", ["killed", "stopped"])
def test_every_event_of_schema_1_survives_being_written_anew(name: str, tmp_path: Path) -> None:
    store = SqliteStore(unpacked(1, name, tmp_path))
    events = store.events(limit=1000)
    assert len(events) == store.last_seq
    for row in events:
        event = decode(row.payload)
        assert decode(encode(event)) == event
    store.close()


@pytest.mark.parametrize("name", ["killed", "stopped"])
def test_a_daemon_starts_on_it_and_stops_in_order(name: str, tmp_path: Path) -> None:
    directory = unpacked(1, name, tmp_path)
    start_and_stop(directory, tmp_path)
    store = SqliteStore(directory)
    state = restore(store, Limits())
    assert {number: job[:2] for number, job in live_jobs(state).items()}[11] == ("toobig", "PENDING")
    assert ended_jobs(store).items() >= ENDED.items()
    check_policies_still_hold(state)
    store.close()


def check_policies_still_hold(state: State) -> None:
    assert state.ledger.settled("vision", PERIOD[0]) == 1092008
    assert ("Budget", "vision") in state.policies
