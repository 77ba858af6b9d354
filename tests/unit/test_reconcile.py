"""What follows from a provider's list, rule by rule: which machine is ours, which ends, which never was."""

from __future__ import annotations

import itertools

import pytest

from bursar.clock import SECOND_US
from bursard.machines.provider import Instance, InstanceState, Place
from bursard.machines.reconcile import (
    AGAIN_MAX_US,
    AGAIN_US,
    SETTLE_US,
    Adopt,
    Bury,
    End,
    Reconciler,
    Rise,
    Step,
    Terminate,
)
from bursard.state import MachineRecord, MachineState

PLACE = Place("r", "z", "f", "t", "spot")
NOW = 1_000 * SECOND_US


def record(machine_id: str = "m", **about: object) -> MachineRecord:
    known: dict[str, object] = {"region": "r", "zone": "z", "instance_type": "t", "market": "spot"}
    return MachineRecord(id=machine_id, provider="local", intended_at=900 * SECOND_US, **known | about)  # type: ignore[arg-type]


def listed(key: str = "i-1", machine_id: str = "m", **about: object) -> Instance:
    known: dict[str, object] = {"state": InstanceState.RUNNING, "created_at": 1, "cluster": "c"}
    return Instance(provider_id=key, machine_id=machine_id, place=PLACE, **known | about)  # type: ignore[arg-type]


def steps(
    machine: MachineRecord | None,
    *found: Instance,
    at: int = NOW,
    of: Reconciler | None = None,
    busy: bool = False,
) -> list[Step]:
    machines = {machine.id: machine} if machine is not None else {}
    return (of or Reconciler("c")).steps(machines, found, at, machines.keys() if busy else ())


UP = record(state=MachineState.UP, provider_id="i-1", billed_from=7)
ENDING = record(state=MachineState.ENDING, provider_id="i-1", billed_from=7, reason="idle")


@pytest.mark.parametrize(
    ("machine", "one", "expected"),
    [
        (record(), listed(), [Adopt("m", "i-1")]),
        (record(), listed(billed_from=5), [Adopt("m", "i-1"), Rise("m", 5)]),
        (record(provider_id="i-1"), listed(), []),
        (record(provider_id="i-1"), listed(billed_from=5), [Rise("m", 5)]),
        (UP, listed(billed_from=9), []),
        (UP, listed(state=InstanceState.PENDING), []),
        (UP, listed(state=InstanceState.FAILED), [End("m", "its provider could not make it run")]),
        (UP, listed(state=InstanceState.FAILED, message="no boot"), [End("m", "no boot")]),
        (UP, listed(state=InstanceState.ENDING), [End("m", "it was ended at its provider")]),
        (UP, listed(state=InstanceState.ENDING, message="too old"), [End("m", "too old")]),
        (
            UP,
            listed(state=InstanceState.GONE, billed_until=9),
            [Bury("m", 9, "it was ended at its provider")],
        ),
        (
            UP,
            listed(state=InstanceState.GONE, billed_until=9, message="taken back", interrupted=True),
            [Bury("m", 9, "taken back", True)],
        ),
        (
            record(provider_id="i-1"),
            listed(state=InstanceState.GONE, billed_from=5, billed_until=9),
            [Rise("m", 5), Bury("m", 9, "it was ended at its provider")],
        ),
        (ENDING, listed(), [Terminate("i-1", "m", "idle")]),
        (ENDING, listed(state=InstanceState.ENDING), [Terminate("i-1", "m", "idle")]),
        (ENDING, listed(state=InstanceState.GONE, billed_until=9, message="done"), [Bury("m", 9, "idle")]),
        (
            record(),
            listed(state=InstanceState.GONE, billed_until=9, interrupted=True),
            [Bury("m", 9, "it has ended", True)],
        ),
        (record(), listed(state=InstanceState.GONE, billed_until=9, message="no"), [Bury("m", 9, "no")]),
    ],
)  # fmt: skip
def test_a_record_and_the_machine_that_is_listed_for_it(
    machine: MachineRecord, one: Instance, expected: list[Step]
) -> None:
    assert steps(machine, one) == expected


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        (record(), Bury("m", NOW, "it was never made")),
        (record(reason="not wanted"), Bury("m", NOW, "not wanted")),
        (UP, Bury("m", NOW, "its provider knows nothing of it any more")),
        (ENDING, Bury("m", NOW, "idle")),
    ],
)
def test_what_is_in_no_list_for_long_enough_is_gone_since_it_was_missed_first(
    machine: MachineRecord, expected: Bury
) -> None:
    reconciler = Reconciler("c")
    assert steps(machine, of=reconciler) == []
    assert steps(machine, at=NOW + SETTLE_US - 1, of=reconciler) == []
    assert steps(machine, at=NOW + SETTLE_US, of=reconciler) == [expected]


def test_what_was_listed_in_between_or_is_being_made_is_not_missed() -> None:
    reconciler = Reconciler("c")
    assert steps(UP, of=reconciler) == []
    assert steps(UP, listed(), at=NOW + SETTLE_US, of=reconciler) == []
    assert steps(UP, at=NOW + SETTLE_US + 1, of=reconciler) == []
    for late in (0, 2 * SETTLE_US):
        assert steps(record(), at=NOW + late, busy=True) == []


def test_a_record_that_comes_back_is_not_missed_since_its_first_life() -> None:
    reconciler = Reconciler("c")
    assert steps(UP, of=reconciler) == []
    assert steps(None, at=NOW + 1, of=reconciler) == []
    assert steps(UP, at=NOW + SETTLE_US + 1, of=reconciler) == []


def test_of_two_machines_of_one_intent_the_first_one_stays() -> None:
    late, early = listed("i-2", created_at=5), listed("i-9", created_at=4)
    assert steps(record(), late, early) == [
        Adopt("m", "i-9"),
        Terminate("i-2", "m", "its intent has a machine"),
    ]
    same = listed("i-2", created_at=4)
    assert steps(record(), early, same)[0] == Adopt("m", "i-2")
    known = record(provider_id="i-2")
    assert steps(known, late, early) == [Terminate("i-9", "m", "its intent has a machine")]


def test_a_machine_that_nobody_owns_ends_when_it_was_seen_for_long_enough() -> None:
    reconciler, stranger = Reconciler("c"), listed("i-7", "other")
    assert steps(None, stranger, of=reconciler) == []
    assert steps(None, stranger, at=NOW + SETTLE_US - 1, of=reconciler) == []
    expected = [Terminate("i-7", "", "nobody owns it")]
    assert steps(None, stranger, at=NOW + SETTLE_US, of=reconciler) == expected
    assert (
        steps(None, listed("i-7", "other", state=InstanceState.GONE), at=NOW + 9 * SETTLE_US, of=reconciler)
        == []
    )


def test_a_stranger_that_went_and_came_is_seen_anew() -> None:
    reconciler, stranger = Reconciler("c"), listed("i-7", "other")
    steps(None, stranger, of=reconciler)
    steps(None, at=NOW + 1, of=reconciler)
    assert steps(None, stranger, at=NOW + SETTLE_US, of=reconciler) == []


def test_a_machine_of_another_cluster_is_nobodys_business() -> None:
    reconciler, other = Reconciler("c"), listed("i-7", "m", cluster="d")
    for late in (0, SETTLE_US):
        assert steps(None, other, at=NOW + late, of=reconciler) == []


def test_what_is_to_end_is_asked_again_after_twice_as_long_each_time_and_for_ever() -> None:
    reconciler, asked, at = Reconciler("c"), list[int](), NOW
    for _ in range(2_000):
        asked += [at] * len(steps(ENDING, listed(), at=at, of=reconciler))
        at += SECOND_US
    gaps = [later - earlier for earlier, later in itertools.pairwise(asked)]
    assert gaps[:6] == [AGAIN_US, 2 * AGAIN_US, 4 * AGAIN_US, 8 * AGAIN_US, 16 * AGAIN_US, AGAIN_MAX_US]
    assert set(gaps[6:]) == {AGAIN_MAX_US}


def test_without_a_list_only_what_is_to_end_and_has_a_name_is_asked() -> None:
    machines = (UP, record("a"), record("b", state=MachineState.ENDING, reason="x"), ENDING)
    assert Reconciler("c").unheard(machines, NOW) == [Terminate("i-1", "m", "idle")]


@pytest.mark.parametrize(
    ("machine", "late"),
    [
        (record(lease_until=NOW), True),
        (record(lease_until=NOW + 1), False),
        (record(lease_until=0), False),
        (record(lease_until=NOW, node_id="n"), False),
        (record(lease_until=NOW, state=MachineState.ENDING), False),
        (record(lease_until=NOW, state=MachineState.UP), True),
    ],
)
def test_an_agent_that_does_not_come_in_time_is_given_up(machine: MachineRecord, late: bool) -> None:
    expected = [End("m", "its agent has not said hello within 100 s")] if late else []
    assert Reconciler("c").overdue([machine], NOW) == expected
