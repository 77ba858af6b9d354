"""Signals that mean nothing to a program that others depend on end it no more, and jobs have them as ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from bursar import strays


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    kept = {number: signal.getsignal(number) for number in (*strays.MEANINGLESS, *strays.OF_TERMINALS)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [*strays.MEANINGLESS, *strays.OF_TERMINALS])
def test_a_stray_signal_ends_and_stops_nothing(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strays, "_has_terminal", lambda: False)
    signal.signal(number, signal.SIG_DFL)
    strays.overhear()
    os.kill(os.getpid(), number)


def test_what_a_program_handles_or_was_told_to_ignore_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = list[int]()
    monkeypatch.setattr(strays, "_has_terminal", lambda: False)
    signal.signal(signal.SIGHUP, lambda number, _: heard.append(number))
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    strays.overhear()
    os.kill(os.getpid(), signal.SIGHUP)
    assert heard == [signal.SIGHUP]
    assert signal.getsignal(signal.SIGUSR2) is signal.SIG_IGN


def test_the_word_of_a_terminal_is_heard_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strays, "_has_terminal", lambda: True)
    for number in (*strays.MEANINGLESS, *strays.OF_TERMINALS):
        signal.signal(number, signal.SIG_DFL)
    strays.overhear()
    assert {signal.getsignal(number) for number in strays.OF_TERMINALS} == {signal.SIG_DFL}
    assert signal.getsignal(signal.SIGUSR1) is not signal.SIG_DFL


def test_what_is_started_has_its_signals_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strays, "_has_terminal", lambda: False)
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    strays.overhear()
    told = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGUSR1)"]
    assert subprocess.run(told, check=False).returncode == -signal.SIGUSR1


def test_every_program_that_stays_overhears_them() -> None:
    from pathlib import Path

    root = Path(__file__).parents[2]
    for name in (
        "daemon/bursard/__main__.py",
        "agents/bursar_agent/__main__.py",
        "gateway/bursar_gateway/__main__.py",
        "web/bursar_web/__main__.py",
        "sdk/bursar/local/keeper.py",
    ):
        assert "strays.overhear()" in (root / name).read_text(), name
