"""A service under a load: nothing is made or lost, and the daemon decides as the simulation does (G15)."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from service_site import Site

from bursar.clock import SECOND_US
from bursar.errors import InvalidRequest
from bursar.model import ServiceSpec
from bursard.serving.board import Gateway
from bursard.serving.board import Load as Told
from bursard.sim import main
from bursard.sim.serving import (
    MILLI,
    Load,
    Replica,
    Rule,
    Served,
    by_autoscaler,
    by_concurrency,
    fixed,
    peak,
    price_of,
    read_load,
    serve,
)

COLD_S = 20
SPEC = ServiceSpec(
    replicas_min=1, replicas_max=6, target=4, window_us=20 * SECOND_US, panic_window_us=4 * SECOND_US,
    down_delay_us=60 * SECOND_US, zero_after_us=90 * SECOND_US,
)  # fmt: skip


def day(seconds: int, most: float) -> list[Load]:
    """A day in little: from nothing up to so many requests a second, and down again."""
    rows = [
        Load(
            s,
            int(MILLI * most * max(math.sin(s / seconds * 2 * math.pi - math.pi / 2), -0.2)) if s else 0,
            2_000,
        )
        for s in range(0, seconds, 5)
    ]
    return [*(Load(one.from_s, max(one.milli, 0), one.each_ms) for one in rows), Load(seconds, 0, MILLI)]


class Live:
    """The keeper of a daemon, told each second what the simulation sees; its replicas are ready in time."""

    def __init__(self, spec: ServiceSpec) -> None:
        names = ("replicas_min", "replicas_max", "target", "window_us", "panic_window_us", "down_delay_us",
                 "zero_after_us")  # fmt: skip
        self.site = Site(**{name: getattr(spec, name) for name in names})
        self.site.turn(ready=True)
        self.began = self.site.world.engine.now()
        self.placed: dict[str, int] = {}
        self.wanted: list[int] = []

    def second(self, second: int, busy_milli: int, waiting: int, asked: bool) -> None:
        site, world = self.site, self.site.world
        world.clock.advance(SECOND_US)
        for attempt in site.live():
            ready_at = self.placed.setdefault(attempt.id, second) + COLD_S
            if second >= ready_at or attempt.placed_at < self.began:
                world.backend.ready(attempt.id)
        now = world.engine.now()
        told = Told(
            job_id=site.job.id, elapsed_us=SECOND_US, busy_us=busy_milli * 1_000,
            waiting=-(-waiting // MILLI), asked=int(asked), p50_us=0, p95_us=0, outstanding={},
        )  # fmt: skip
        site.keeper.heard(Gateway("g", "boot", "", now), [told])
        site.turn()
        memory = site.keeper.board.pace(site.job.id).memory
        assert memory is not None
        self.wanted.append(memory.target)


def test_the_daemon_decides_as_the_simulation_does_on_a_day_in_little() -> None:
    live, wanted = Live(SPEC), list[int]()
    decide = by_autoscaler(SPEC, COLD_S, 1)

    def both(
        second: int, busy: int, replicas: list[Replica], waiting: int, asked_at: int
    ) -> tuple[int, list[Replica], str]:
        places, going, why = decide(second, busy, replicas, waiting, asked_at)
        wanted.append(places)
        live.second(second, busy, waiting, asked_at == second)
        return places, going, why

    found = serve(SPEC, day(1_200, 10.0), COLD_S, both, first=1)
    assert max(wanted) >= 3
    assert len({*wanted}) >= 4
    both_wanted = enumerate(zip(wanted, live.wanted, strict=True))
    apart = [second for second, (one, other) in both_wanted if one != other]
    assert apart == [], f"of {len(wanted)} seconds these: {apart}"
    assert found.left_milli == 0
    assert live.site.findings() == []


loads = st.lists(
    st.tuples(st.integers(1, 40), st.integers(0, 30_000), st.integers(1, 20_000)), min_size=1, max_size=8
)


def as_loads(rows: list[tuple[int, int, int]]) -> list[Load]:
    found, at = list[Load](), 0
    for lasts, milli, each in rows:
        found.append(Load(at, milli, each))
        at += lasts
    return [*found, Load(at, 0, MILLI)]


@settings(max_examples=60)
@given(loads, st.integers(0, 2), st.integers(0, 30), st.integers(0, 2))
def test_each_request_is_answered_once_or_still_waits_and_no_replica_does_more_than_it_can(
    rows: list[tuple[int, int, int]], which: int, cold_s: int, least: int
) -> None:
    spec = ServiceSpec(replicas_min=least, replicas_max=5, target=3, window_us=10 * SECOND_US,
                       panic_window_us=2 * SECOND_US, down_delay_us=5 * SECOND_US)  # fmt: skip
    rule: Rule = (by_autoscaler(spec, cold_s, 1), by_concurrency(spec), fixed(2))[which]
    found = serve(spec, as_loads(rows), cold_s, rule, first=2)
    came = sum(lasts * milli for lasts, milli, _ in rows)
    assert found.requests_milli == came
    assert sum(found.waits_s.values()) + found.left_milli == came
    assert found.busy_milli_s <= found.ready_s * spec.target * MILLI
    assert found.ready_s <= found.replica_s
    assert found.cost(3_600) == found.replica_s


def test_nobody_asks_and_nothing_is_kept_where_none_need_be() -> None:
    spec = ServiceSpec(replicas_min=0, replicas_max=3, zero_after_us=10 * SECOND_US)
    found = serve(spec, [Load(0, 1_000, 1_000), Load(5, 0, 1_000), Load(200, 0, MILLI)], 3,
                  by_autoscaler(spec, 3, 1))  # fmt: skip
    assert (found.left_milli, found.requests_milli) == (0, 5_000)
    assert found.replica_s < 30
    assert [target for _, target, _ in found.changes] == [1, 0]
    assert found.changes[1][2].startswith("nobody asked for 10 s")


def test_fixed_is_as_many_as_the_most_of_the_load_takes() -> None:
    assert peak(SPEC, [Load(0, 1_000, 1_000), Load(9, 5_000, 2_000), Load(10, 0, MILLI)]) == 3
    assert Served().wait_s(95) == 0


def test_the_verb_tells_what_three_rules_cost_and_who_waits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "chat.yaml").write_text("type: service\nname: chat\nport: 8000\nreplicas: 1..4\nrun: serve\n")
    (tmp_path / "load.csv").write_text("from_s,requests_per_s,seconds\n0,4,2\n300,0.5,2\n900,0,1\n")
    flags = ["--service", str(tmp_path / "chat.yaml"), "--load", str(tmp_path / "load.csv")]
    assert main.run([*flags, "--price", "3.60 USD/h", "-o", "json"]) == 0
    found = json.loads(capsys.readouterr().out)["service"]
    assert found["rules"]["fixed"] == {
        "cost": "0.900000000 USD", "cost_per_request": "0.000600000 USD", "requests": 1500, "unanswered": 0,
        "replica_hours": 0.25, "most_replicas": 1, "changes": 0, "wait_p50_s": 0, "wait_p95_s": 0,
        "wait_p99_s": 0, "wait_max_s": 0,
    }  # fmt: skip
    assert set(found["rules"]) == {"autoscaler", "fixed", "concurrency"}
    assert main.run(flags) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table] == ["rule", "autoscaler", "fixed", "concurrency"]


@pytest.mark.parametrize(("flags", "why"), [
    (["--service", "{job}"], "--load is needed"),
    (["--service", "{job}", "--load", "{load}", "--nodes", "x"], "leave out --nodes"),
    (["--load", "{load}"], "are of a --service"),
    (["--service", "{plain}", "--load", "{load}"], "is no service"),
    (["--service", "{job}", "--load", "{load}", "--price", "much"], "is no price of a replica"),
    (["--service", "{job}", "--load", "{load}", "--cold-start", "-1"], "--cold-start: "),
])  # fmt: skip
def test_what_is_not_a_service_under_a_load_is_refused(tmp_path: Path, flags: list[str], why: str) -> None:
    files = {"job": "type: service\nname: chat\nrun: serve\n", "plain": "run: x\n",
             "load": "from_s,requests_per_s\n0,1\n9,0\n"}  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(InvalidRequest, match=why):
        main.run([flag.format(**{name: tmp_path / name for name in files}) for flag in flags])


@pytest.mark.parametrize(("rows", "why"), [
    ("0,1\n", "needs a row more"), ("5,1\n5,1\n", "is not after the row before"),
    ("0,-1\n9,0\n", "0 to 1000000"), ("0.5,1\n9,0\n", "whole seconds"),
    ("0,x\n9,0\n", "x"), ("9999999,1\n", "whole seconds from 0 to 604800"),
])  # fmt: skip
def test_a_load_that_cannot_be_is_refused_with_its_place(tmp_path: Path, rows: str, why: str) -> None:
    path = tmp_path / "load.csv"
    path.write_text(f"from_s,requests_per_s\n{rows}")
    with pytest.raises(InvalidRequest, match=why):
        read_load(str(path))


def test_a_price_is_of_a_replica_and_an_hour() -> None:
    assert price_of("2.50 USD/h") == (2_500_000_000, "USD")
    for wrong in ("", "USD", "-1 USD/h", "1 usd/h", "1e9 USD/h", "nan USD/h"):
        with pytest.raises(InvalidRequest, match="no price"):
            price_of(wrong)
