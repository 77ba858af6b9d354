"""The units as they are shipped, under a real systemd that runs as PID 1 of a namespace of its own.

Why     what a unit forbids shows only where it is obeyed: sandbox, accounts, readiness, watchdog, restarts.
        Skipped, with the reason, where the machine cannot do it (root, systemd, namespaces, overlays).
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from systemd_machine import Machine, skip_where_none_can_be


@pytest.fixture
def machine() -> Iterator[Machine]:
    skip_where_none_can_be("the units are NOT tried")
    folder = Path(tempfile.mkdtemp(prefix="systemd-"))
    made = Machine(folder)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_shipped_units_run_a_job_and_come_back_after_a_kill(machine: Machine) -> None:
    machine.until(machine.pid1, "systemd runs")
    for unit in ("bursard", "bursar-agent"):
        machine.until(lambda unit=unit: machine.shown(unit, "ActiveState") == "active", f"{unit} is active")
    assert machine.shown("bursard", "User") == "bursar"
    assert machine.run("stat", "-c", "%U %a", "/var/lib/bursar").stdout == "bursar 700\n"
    command = "/opt/bursar/bin/bursar"

    def nodes() -> bool:
        done = machine.run(command, "nodes", "-o", "json")
        return done.returncode == 0 and [n["state"] for n in json.loads(done.stdout)] == ["up"]

    machine.until(nodes, "the agent has connected")
    done = machine.run(command, "run", "--wait", "--", "sh", "-c", "id -u; exit 3")
    assert done.returncode == 1, done.stderr
    assert "exit code 3" in done.stderr
    before = machine.shown("bursard", "MainPID")
    machine.run("kill", "-9", before)
    machine.until(
        lambda: (
            machine.shown("bursard", "MainPID") not in ("0", before)
            and machine.shown("bursard", "ActiveState") == "active"
        ),
        "the daemon is back",
    )

    def shown() -> Any:
        done = machine.run(command, "show", "1", "-o", "json")
        return json.loads(done.stdout) if done.returncode == 0 else None

    again = machine.until(shown, "it answers again")
    assert (again["state"], again["exit_code"]) == ("FAILED", 3)
    assert machine.shown("bursard", "NRestarts") == "1"
