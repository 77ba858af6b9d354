"""What a rented machine was and cost is told after it was given back, from the log and the books."""

from __future__ import annotations

import pytest
from money_daemon import ANN, COST_MODEL, START, Daemon, in_a_daemon

from bursar.cli.cloud import machine_text
from bursar.clock import HOUR_US, SECOND_US
from bursar.codec import view
from bursar.codec.amounts import exact
from bursar.errors import NotFound
from bursar.model import NodeFacts
from bursar.v1 import nodes_pb2 as pb
from bursard.access.identity import Identity, Role, set_caller
from bursard.reports import control
from bursard.reports.period import read_period
from bursard.reports.statement import statement
from bursard.services import clouds, machine_past
from bursard.state.decide import machines
from bursard.store import ChargeFilter, Dim

PRICES = """\
kind: PriceBook
name: cloud-local
spec:
  source: provider local
  currency: USD
  prices:
    - {provider: local, region: home, instance_type: cpu.small, market: spot, price: 1.80 USD/h}
"""


def rent(daemon: Daemon, job_id: str = "") -> str:
    """A machine is asked for; its id."""
    facts = NodeFacts(
        name="",
        cpu_milli=4_000,
        memory_bytes=8 << 30,
        pool="gpus",
        provider="local",
        region="home",
        instance_type="cpu.small",
        market="spot",
    )
    engine = daemon.engine
    events = machines.intend(
        engine.state,
        engine.ids,
        provider="local",
        region="home",
        zone="home-a",
        instance_type="cpu.small",
        market="spot",
        why="job 1 fits on no node",
        lease_until=engine.now() + HOUR_US,
        launch=machines.Launch("gpus", job_id, (), facts, 1_800_000_000),
    )
    engine.commit(events, "bursard")
    return events[0].machine_id


def live_and_die(daemon: Daemon, machine_id: str, seconds: int, free: bool = False) -> None:
    """It comes up, is paid for, is not wanted any more and is gone. `free`: its provider bills nothing."""
    engine, state = daemon.engine, daemon.engine.state
    engine.commit(machines.launched(state, machine_id, "i-7"), "bursard")
    engine.commit(
        machines.rise(state, engine.ids, engine.prices, machine_id, engine.now(), engine.now()), "bursard"
    )
    daemon.clock.advance(seconds * SECOND_US)
    engine.commit(machines.ending(state, machine_id, "idle for 5m"), "bursard")
    for decided in machines.bury(
        state, engine.prices, machine_id, engine.now(), "its provider lists it as gone", free
    ):
        engine.commit(list(decided()), "bursard")


async def ask(daemon: Daemon, name: str, seen_by: Identity = ANN) -> pb.Machine:
    await daemon.engine.durable()
    return await clouds.past_view(daemon.engine, name, seen_by)


def test_one_that_is_gone_is_told_by_its_name_and_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_past, "PAGE", 4)

    async def story(daemon: Daemon) -> None:
        await daemon.apply(COST_MODEL, PRICES)
        machine_id = rent(daemon)
        name = daemon.engine.state.machines[machine_id].name
        live_and_die(daemon, machine_id, 3 * 3600 + 7)
        for _ in range(9):
            rent(daemon)
        for called in (name, machine_id):
            told = await ask(daemon, called)
            assert (told.id, told.name, told.state) == (machine_id, name, "gone")
            assert (told.provider_id, told.why, told.reason) == (
                "i-7",
                "job 1 fits on no node",
                "idle for 5m",
            )
            assert (told.intended_at, told.billed_from) == (START, START)
            assert told.billed_until == START + (3 * 3600 + 7) * SECOND_US
            assert (told.ends_at, told.attempt, told.job) == (0, "", "")
            cost = exact(told, "cost_nanos")
            assert 1_800_000_000 * (3 * 3600 + 7) // 3600 - cost in (0, 1, 2), "parts of a nano are in no row"
            rows = daemon.store.charge_sums(
                [Dim.NODE, Dim.HOUR], ChargeFilter(node=name), await daemon.engine.books()
            )
            assert cost == sum(one.nanos for one in rows)

    in_a_daemon(story)


def test_one_that_never_came_up_has_cost_nothing() -> None:
    async def story(daemon: Daemon) -> None:
        machine_id = rent(daemon)
        engine = daemon.engine
        engine.commit(
            machines.gone(engine.state, machine_id, engine.now(), "no such machine to be had"), "bursard"
        )
        told = await ask(daemon, machine_id)
        assert (told.state, told.billed_from, told.billed_until) == ("gone", 0, 0)
        assert (told.reason, exact(told, "cost_nanos")) == ("no such machine to be had", 0)

    in_a_daemon(story)


@pytest.mark.parametrize("name", ["nope", "", "mach_0000000099"])
def test_one_that_never_was_or_still_is_is_none_of_the_past(name: str) -> None:
    async def story(daemon: Daemon) -> None:
        rent(daemon)
        set_caller(Identity("eve", Role.VIEWER))
        with pytest.raises(NotFound, match=f"there is no machine '{name}'; `bursar cloud ls` lists them"):
            await ask(daemon, name)

    in_a_daemon(story)


def test_all_of_one_machine_is_shown_and_nothing_that_it_does_not_have() -> None:
    wire = pb.Machine(
        id="mach_1",
        name="gpus-1",
        pool="gpus",
        provider="local",
        region="home",
        zone="home-a",
        instance_type="cpu.small",
        market="spot",
        state="launching",
        job="12",
        why="job 12 fits on no node",
        intended_at=START,
        ends_at=START + HOUR_US,
        rate_nanos_per_hour=1_800_000_000,
        currency="USD",
    )
    assert machine_text(view.machine(wire)).splitlines() == [
        "machine         gpus-1, launching",
        "where           local home-a cpu.small spot, pool gpus",
        "why             job 12 fits on no node",
        "job             12",
        "launched        2026-11-01 01:00:00Z",
        "billed from     not yet",
        "ends            2026-11-01 02:00:00Z at the latest",
        "price           1.80 USD/h",
        "cost            0.00 USD",
    ]
    wire.MergeFrom(
        pb.Machine(
            state="gone",
            provider_id="i-7",
            attempt="att_1",
            reason="idle for 5m",
            billed_from=START + SECOND_US,
            billed_until=START + HOUR_US,
            cost_nanos=1_799_500_000,
        )
    )
    wire.ends_at = 0
    told = machine_text(view.machine(wire)).splitlines()
    assert [line for line in told if line.startswith(("its", "att", "bil", "end", "cost"))] == [
        "its name there  i-7",
        "attempt         att_1",
        "billed from     2026-11-01 01:00:01Z",
        "billed until    2026-11-01 02:00:00Z",
        "ended           idle for 5m",
        "cost            1.80 USD",
    ]


@pytest.mark.parametrize("free", [False, True], ids=["paid for", "taken back for nothing"])
def test_the_control_of_a_statement_holds_machines_that_are_gone_against_the_facts_and_can_fail(
    free: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.apply(COST_MODEL, PRICES)
        for seconds in (3 * 3600 + 7, 1, 40):
            live_and_die(daemon, rent(daemon), seconds, free)
        await daemon.engine.durable()
        views, books, period = daemon.store, await daemon.engine.books(), read_period("2026-11")
        honest = statement(views, period, "USD", books)
        assert honest.left_out == 0
        assert honest.difference_nanos == 0
        assert honest.checked_nanos == honest.node_nanos
        if not free:
            assert honest.facts_nanos > 5_400_000_000
        lost = next(views.charges(ChargeFilter(until=START + HOUR_US)))
        doubled = books._replace(rows=(*books.rows, lost))
        assert statement(views, period, "USD", doubled).difference_nanos == lost.nanos > 0
        # Whose facts are not in the log any more is counted as left out, and nothing else is made of it.
        monkeypatch.setattr(control, "_GONE_MAX", 1)
        some = statement(views, period, "USD", books)
        assert (some.left_out, some.difference_nanos) == (2, 0)

    in_a_daemon(story)
