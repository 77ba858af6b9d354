"""Words that stand for something elsewhere: each is checked against what it names."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bursar.cli import report, rights
from bursar.cli.main import run
from bursar.cli.texts import explain_text
from bursar.client import asked
from bursar.client.arguments import JobChanges
from bursar.client.fake import FakeServer
from bursar.codec import view
from bursar.errors import InvalidRequest
from bursar.model import JobSpec
from bursar.v1 import jobs_pb2, types_pb2
from bursard.fleet.testing import World
from bursard.sim import summary
from bursard.state.decide import policies


def test_each_change_of_a_job_is_one_and_changes_fields_that_there_are() -> None:
    merged = {"labels", "gpus", "cpus", "memory", "idle_snooze", "throughput", "deadline_policy"}
    assert set(asked.UPDATED_BY) == set(JobChanges.__annotations__) - merged
    assert {name for fields in asked.UPDATED_BY.values() for name in fields} <= set(JobSpec.__struct_fields__)
    plain = {name: fields for name, fields in asked.UPDATED_BY.items() if name in JobSpec.__struct_fields__}
    assert plain == {name: (name,) for name in plain} | {"nodes": ("nodes", "max_nodes")}


BOTH = """\
kind: Budget
name: same
spec: {scope: {project: p}, limit: 5 USD, period: month, enforcement: hard}
---
kind: CostModel
name: same
spec: {pool: other, node_capex: 1 USD, useful_life: 5y}
"""


def test_a_document_that_is_removed_takes_none_of_its_name_with_it() -> None:
    world = World()
    world.apply(BOTH)
    world.engine.commit(policies.remove(world.state, "CostModel", "same"), "root")
    assert list(world.state.budgets.records) == ["same"]
    assert ("Budget", "same") in world.state.policies
    world.engine.commit(policies.remove(world.state, "Budget", "same"), "root")
    assert world.state.budgets.records == {}
    assert ("Budget", "same") not in world.state.policies


@pytest.mark.parametrize(
    ("given", "found"),
    [(b"abc", "abc"), (b"abc\n", "abc"), (b"abc\r\n", "abc"), (b"a\nb\n", "a\nb"), ("ü".encode(), "ü"),
     (b"x" * rights.SECRET_BYTES_MAX + b"\r\n", "x" * rights.SECRET_BYTES_MAX)],
)  # fmt: skip
def test_a_secret_is_what_comes_in_without_its_last_line_end(
    given: bytes, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_value(given, monkeypatch) == found


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (b"", "standard input has no value; a secret is 1 to"),
        (b"\n", "standard input has no value; a secret is 1 to"),
        (b"x" * (rights.SECRET_BYTES_MAX + 1), "standard input has too much; a secret is 1 to"),
        (b"\xff", "standard input is not UTF-8 text; encode it, as with base64"),
    ],
)
def test_what_is_no_secret_is_refused(given: bytes, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidRequest, match=said):
        read_value(given, monkeypatch)


def read_value(given: bytes, patch: pytest.MonkeyPatch) -> str:
    patch.setattr(rights.sys, "stdin", SimpleNamespace(buffer=io.BytesIO(given), isatty=lambda: False))
    return rights._read_value()


def test_the_times_of_a_simulations_passes_are_told_in_milliseconds() -> None:
    found: Any = summary._cycle_ms([1_000_000] * 99 + [101_000_000])
    assert found == {"p50": 1.0, "p99": 2.0, "max": 101.0}
    assert summary._cycle_ms([]) == {"p50": None, "p99": None, "max": None}


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (["--period", "2026-11"], ("statement", "2026-11", "text", None, "", "")),
        (
            ["--period", "2026-11", "-o", "csv", "--project", "p"],
            ("statement", "2026-11", "csv", None, "", "p"),
        ),
        (["--period", "2026-11", "--out", "s.json"], ("statement", "2026-11", "json", "s.json", "", "")),
    ],
)
def test_a_statement_is_asked_for_by_its_name_and_in_the_form_of_its_file(
    words: list[str], asked: tuple[object, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said: list[tuple[object, ...]] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(report, "_write_report", lambda client, *words, by: said.append(words))
    with FakeServer(tmp_path / "run") as server:
        monkeypatch.setenv("BURSAR_SERVER", server.url)
        assert run(["report", "statement", *words]) == 0
    assert said == [asked]


def test_what_explain_has_nothing_to_say_of_is_no_empty_table() -> None:
    bare = view.explain(jobs_pb2.ExplainResponse(job=types_pb2.Job(id="job_1", state="PENDING")))
    said = explain_text(bare, 0)
    assert "BUDGET" not in said
    assert "NODE" not in said
    assert said == said.rstrip()


def test_explain_says_of_what_runs_that_a_part_of_it_waits_before_it_says_why() -> None:
    why = types_pb2.Reason(code="BudgetExhausted", message="budget b has nothing left", remedy="raise it")
    for state, size, said in (("RUNNING", 3, True), ("PENDING", 3, False), ("RUNNING", 0, False)):
        job = types_pb2.Job(id="job_1", number=1, state=state)
        if size:
            job.array.size = size
        text = explain_text(view.explain(jobs_pb2.ExplainResponse(job=job, reason=why)), 0)
        lines = text.splitlines()
        assert (lines[1] == "some of its tasks wait:") is said, text
        assert "BudgetExhausted" in lines[2 if said else 1]
