"""A plugin of pytest that records which test runs which line, for bench/mutants.py.

Why     a mutant is tried with the tests that run its line, the quickest first; every other test would say the
        same about it as about the product as it is. `pytest -p covering -n 2 ...` with BURSAR_COVERING naming
        the folder.

A context is the id of one test, parameters and all; what importing runs belongs to no test. Each worker
writes one file of coverage and one of durations into the folder; both are read by `mutants.Covering`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import coverage
import pytest

SOURCES = (
    "sdk/bursar",
    "policies/bursar_policies",
    "daemon/bursard",
    "agents/bursar_agent",
    "web/bursar_web",
    "gateway/bursar_gateway",
)
FOLDER = Path(os.environ["BURSAR_COVERING"])
durations: dict[str, float] = {}
recorded: list[coverage.Coverage] = []


def pytest_configure(config: Any) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    made = coverage.Coverage(
        data_file=str(FOLDER / "lines"), data_suffix=True, config_file=False, source=SOURCES, omit=["*/v1/*"]
    )
    made.start()
    recorded.append(made)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: Any) -> Iterator[None]:
    recorded[0].switch_context(item.nodeid)
    try:
        return (yield)
    finally:
        recorded[0].switch_context("")


def pytest_runtest_logreport(report: Any) -> None:
    durations[report.nodeid] = durations.get(report.nodeid, 0) + report.duration


def pytest_unconfigure(config: Any) -> None:
    recorded[0].stop()
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        return  # it only hands the tests out
    recorded[0].save()
    (FOLDER / f"durations-{os.getpid()}.json").write_text(json.dumps(durations))
