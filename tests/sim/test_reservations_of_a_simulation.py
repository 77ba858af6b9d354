"""Reservations in a simulation: what waits for a window starts at its end, and nothing is broken by then."""

from __future__ import annotations

from pathlib import Path

import pytest

from bursar_policies.document import parse_documents
from bursard.sim.rows import read_jobs, read_nodes
from bursard.sim.simulation import Simulation
from bursard.state.reservations import ReservationTable

WINDOW = """\
kind: Reservation
name: fix
spec: {nodes: [n1], start: 2026-01-01T01:00:00Z, duration: 1h, for: {projects: [big]}}
"""
NODES = "node_id,cpu_milli,memory_mib,price_per_hour\nn1,1000,1000,2\n"
JOBS = (
    "job_id,submit_s,duration_s,cpu_milli,project,time_limit_s\n"
    "short,0,600,1000,p,1800\n"
    "long,0,600,1000,p,7200\n"
    "theirs,3600,600,1000,big,7200\n"
)


def ran(folder: Path) -> Simulation:
    """The three jobs on the node, to the end."""
    for name, text in (("jobs", JOBS), ("nodes", NODES)):
        (folder / name).write_text(text)
    rows = read_jobs(str(folder / "jobs")), read_nodes(str(folder / "nodes"))
    found = Simulation(*rows, parse_documents(WINDOW, "w"))
    found.run()
    return found


def test_what_would_meet_a_window_starts_at_its_end_and_those_it_is_for_within(tmp_path: Path):
    made = ran(tmp_path)
    starts = {run.row.job_id: run.start_us // 1_000_000 for run in made.runs}
    assert starts == {"short": 0, "theirs": 3600, "long": 7200}
    assert made.checks.found == []


def test_the_second_book_sees_a_start_that_runs_into_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Plans that know of no reservation are not kept from it by the books alone."""
    from bursard.state import snapshot

    plain = snapshot.take

    def blind(tables, asked=""):
        specs, tables.reservations.specs = tables.reservations.specs, ReservationTable().specs
        try:
            return plain(tables, asked)
        finally:
            tables.reservations.specs = specs

    monkeypatch.setattr(snapshot, "take", blind)
    monkeypatch.setattr("bursard.place._Check._reserved_since", lambda self, job, job_class: False)
    assert any(one.startswith("R5:") for one in ran(tmp_path).checks.found)
