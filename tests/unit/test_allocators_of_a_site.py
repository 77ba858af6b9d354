"""Allocators that a site brings: whatever they do, the daemon goes on, and says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from turning import MINUTE_US, Turning

from bursar.errors import InvalidRequest, PolicyInvalid
from bursar.model import Device, NodeFacts
from bursar.resources import GpuRequest, ResourceRequest
from bursar_policies import allocators
from bursar_policies.allocators import (
    Allotment,
    Contender,
    Problem,
    Size,
    Supply,
    Weight,
    answered,
    apart,
    registry,
)
from bursar_policies.document import parse_documents
from bursard.doctor import check_planning
from bursard.scheduler import targets
from bursard.sim import rows
from bursard.sim.simulation import Simulation
from bursard.state import JobRecord

POLICY = "kind: PlacementPolicy\nname: p\nspec: {strategy: pack, allocator: {name: theirs, round: %s}}\n"
HEAD = """
import os, sys, time
from bursar_policies.allocators import Weight, Allotment
class Theirs:
    name = "theirs"
    weights = {"stay": Weight(0.5, 0, 1)}
    def allot(self, problem):
"""
GIVES = HEAD + "        return [Allotment(one.job_id, 'V100', 1, 1) for one in problem.contenders]\n"
Install = Callable[[str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a package with this text beside the daemon, as the allocator `theirs`."""
    point = EntryPoint("theirs", "sites_own:Theirs", registry.GROUP)
    monkeypatch.setattr(
        registry, "entry_points", lambda group, name="theirs": [point] if name == "theirs" else []
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setattr(apart, "ASK_S", 20.0)  # of a slow machine; tests of what hangs have less
    yield (tmp_path / "sites_own.py").write_text  # type: ignore[misc]
    allocators.drop("theirs")


class Site(Turning):
    """One node with a V100, and a job that contends for it."""

    def __init__(self) -> None:
        super().__init__()
        device = Device(0, "v-0", "V100", 1 << 34)
        self.backend.connect(NodeFacts(name="v", cpu_milli=8_000, memory_bytes=1 << 34, devices=(device,)))
        self.apply(POLICY % "6m")
        self.job: JobRecord = self.submit(
            options=(ResourceRequest(GpuRequest(1, ("V100",)), 1_000, 1 << 20),),
            throughput=(("V100", 0, 1_000_000),),
            time_limit_us=6_000 * MINUTE_US,
        )

    @property
    def runs(self) -> bool:
        return self.job.attempt is not None


def ready() -> None:
    """Until its process, begun anew, is loaded."""
    known = registry._APART.get("theirs")
    if known is not None:
        known.load()


def test_it_runs_in_a_process_of_its_own_and_what_it_prints_is_no_answer(install):
    install(GIVES.replace("        return", "        print('I am asked')\n        return"))
    site = Site()
    site.turn()
    assert site.runs
    assert site.passes.allocator_wrong == ""
    found = allocators.find("theirs")
    assert isinstance(found, apart.Apart), "the daemon never has its code"
    assert found.weights == {"stay": Weight(0.5, 0, 1)}


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("        sys.exit(3)\n", "theirs failed: Failed: SystemExit: 3"),
        ("        os._exit(3)\n", "theirs failed: Failed: its process ended"),
        ("        return [Allotment('j' * 10_000_000, 'V100', 1, 1)]\n", "bytes is too long"),
        ("        while True: time.sleep(3600)\n", "it gave no answer within"),
    ],
    ids=["exits", "dies", "says too much", "hangs"],
)
def test_one_that_fails_three_times_is_set_aside_and_told_until_the_policy_changes(
    install, monkeypatch, caplog, does: str, said: str
):
    install(HEAD + does)
    site = Site()
    if "sleep" in does:
        monkeypatch.setattr(apart, "ASK_S", 0.2)
    for _ in range(2):
        ready()
        site.turn(6)
        assert said in site.passes.allocator_wrong
        assert not site.runs, "it moves nobody, and starts nobody"
    ready()
    for _ in range(3):
        site.turn(6)
    assert site.runs, "its jobs are placed as all others"
    why = site.passes.allocator_wrong
    assert why.startswith("allocator theirs is set aside, since it failed 3 times in a row (theirs failed: ")
    assert said in why
    assert [one.msg for one in caplog.records].count("no allocator") == 1
    assert not check_planning("", [], why).ok
    assert why in check_planning("", [], why).message

    monkeypatch.setattr(apart, "ASK_S", 20.0)
    install(GIVES)
    site.apply(POLICY % "7m")
    site.turn()
    assert site.passes.allocator_wrong == "", "the package was mended, and no daemon was restarted"
    assert isinstance(allocators.find("theirs"), apart.Apart)


def test_a_daemon_that_starts_waits_for_no_package_that_hangs_as_it_is_loaded(install, monkeypatch):
    install(GIVES)
    site = Site()
    allocators.drop("theirs")
    install("import time\ntime.sleep(3600)\n")
    monkeypatch.setattr(apart, "LOAD_S", 0.5)
    site.turn()
    assert not site.runs
    with pytest.raises(apart.Failed, match="not loaded within"):
        registry._APART["theirs"].load()
    site.turn()
    assert site.runs
    assert (
        "allocator theirs of sites_own:Theirs cannot be loaded: it was not loaded"
        in site.passes.allocator_wrong
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import sys\nsys.exit('no licence')\n", "cannot be loaded: SystemExit: no licence"),
        ("import os\nos._exit(1)\n", "cannot be loaded: its process ended"),
        (
            HEAD.replace("Weight(0.5, 0, 1)", "Weight(None, 0, 1)") + "        pass\n",
            "stay with a bound or a default",
        ),
    ],
)
def test_one_that_cannot_be_used_is_refused_with_its_line_when_it_is_named(install, text: str, said: str):
    install(text)
    with pytest.raises(PolicyInvalid) as refused:
        parse_documents(POLICY % "6m", "p.yaml")
    assert said in str(refused.value)
    assert "allocator theirs of sites_own:Theirs" in str(refused.value)
    install(GIVES)
    assert parse_documents(POLICY % "6m", "p.yaml"), "once it is mended"


class Panic(BaseException):
    """As of a library that is written in another language."""


class Mute(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


def problem(contenders: int = 1) -> Problem:
    jobs = tuple(
        Contender(job_id=f"job_{order}", order=order, sizes=(Size("V100"),), holds=Size("V100"))
        for order in range(contenders)
    )
    return Problem(contenders=jobs, supply=(Supply("V100", ((contenders, 1),)),), round_us=1, weights={})


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Panic("at the disco"), "Panic: at the disco"),
        (SystemExit(1), "SystemExit: 1"),
        (Mute(), "Mute, which cannot be put into words"),
    ],
)
def test_whatever_is_raised_moves_nobody_and_is_told(error: BaseException, said: str):
    def allot(asked: Problem) -> list[Allotment]:
        raise error

    theirs: Any = SimpleNamespace(name="theirs", weights={}, allot=allot)
    found = targets.ask(theirs, problem())
    assert dict(found.given) == {"job_0": Size("V100")}
    assert (found.moves, found.failed, found.refused) == ({}, True, (f"theirs failed: {said}",))


class Hidden:
    name = "theirs"

    def allot(self, asked: Problem) -> list[Allotment]:
        return []

    @property
    def weights(self) -> dict[str, Weight]:
        raise Panic("not today")


def with_weights(weights: object) -> SimpleNamespace:
    return SimpleNamespace(name="theirs", allot=print, weights=weights)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (Hidden(), "cannot be looked at: Panic: not today"),
        (with_weights(None), "has no `weights`"),
        (with_weights({"a": Weight("x", 0, 1)}), "a weight a with a bound or a default that is no number"),  # type: ignore[arg-type]
        (with_weights({"a": Weight(float("nan"), 0, 1)}), "that is no number"),
        (with_weights({"a": Weight(0, 0, 10**400)}), "that is no number"),
        (with_weights({"a": Weight(2, 0, 1)}), "not within its bounds"),
        (with_weights({"a b": Weight(0, 0, 1)}), "which is no word"),
        (with_weights({f"a{n}": Weight(0, 0, 1) for n in range(65)}), "more than 64 weights"),
    ],
)
def test_what_it_declares_is_looked_at_number_by_number(made: object, said: str):
    point = SimpleNamespace(value="theirs:Theirs", load=lambda: made)
    with pytest.raises(InvalidRequest) as refused:
        registry.loaded("theirs", [point])
    assert said in refused.value.message


def test_of_an_answer_no_more_is_looked_at_than_there_can_be_in_it():
    read = count()
    answer = (Allotment(f"nobody_{next(read)}", "V100", 1, 1) for _ in range(2_000_000))
    found = answered(problem(contenders=50), answer)
    assert next(read) <= 50 + 101
    assert len(found.refused) <= 101
    assert found.refused[-1] == "and 51 more"


def test_a_simulation_waits_until_it_is_loaded_and_goes_on_without_it(install, monkeypatch, tmp_path):
    install(HEAD + "        os._exit(1)\n")
    (tmp_path / "jobs.csv").write_text(
        "job_id,submit_s,duration_s,gpus,gpu_type,throughput,preemptible\na,0,1000,1,V100,V100=1,1\n"
    )
    (tmp_path / "nodes.csv").write_text("node_id,cpu_milli,memory_mib,gpus,gpu_type\nv,9000,1000,1,V100\n")
    files = rows.read_jobs(str(tmp_path / "jobs.csv")), rows.read_nodes(str(tmp_path / "nodes.csv"))
    found = Simulation(*files, parse_documents(POLICY % "10m", "p"))
    found.run()
    assert [run.state for run in found.runs] == ["SUCCEEDED"]
