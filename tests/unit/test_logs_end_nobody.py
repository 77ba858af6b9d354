"""A log that cannot be written, such as one on a full disk, ends no process and changes no exit code."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from bursar import lastword
from bursar.local import files
from bursar.local.files import Desired
from bursar.local.keeper import Keeper
from bursar_agent import __main__ as agent
from bursar_gateway import __main__ as gateway
from bursar_web import __main__ as web
from bursard import __main__ as daemon
from bursard import logs


class Failing(io.StringIO):
    """On a disk that takes nothing any more."""

    def write(self, text: str) -> int:
        raise OSError(errno.EIO, "it fails")


Muted = Callable[[], contextlib.AbstractContextManager[None]]


@pytest.fixture(params=["full", "failing", "none"])
def muted(request: pytest.FixtureRequest) -> Muted:
    """Standard error on a full disk, on one that fails, none at all; within a test alone."""

    @contextlib.contextmanager
    def within() -> Iterator[None]:
        full = open("/dev/full", "w", buffering=1, encoding="utf-8")  # noqa: SIM115
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stderr", {"full": full, "failing": Failing(), "none": None}[request.param])
            yield
        with contextlib.suppress(OSError):
            full.close()
        with contextlib.suppress(OSError):
            full.close()  # what it could not write is given up by now

    return within


def test_the_last_word_is_said_or_is_not(muted: Muted) -> None:
    with muted():
        lastword.say("a word")


def test_the_last_word_is_a_line_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    lastword.say("a word")
    assert capsys.readouterr().err == "a word\n"


def test_a_keeper_that_cannot_say_what_it_does_goes_on(
    muted: Muted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says of a daemon that cannot start that it cannot, and tries again."""
    wakeups: list[int] = []
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    monkeypatch.setattr(signal, "set_wakeup_fd", lambda fd, warn_on_full_buffer: wakeups.append(fd))
    child = files.ChildSpec("daemon", "m", str(tmp_path), (str(tmp_path / "no-such-program"),))
    lock = files.lock(tmp_path / files.KEEPER_LOCK)
    assert lock is not None
    made = Keeper(tmp_path, lock)
    with muted():
        made._load(Desired("unix:///s", str(tmp_path), str(tmp_path), 1, "", "", (child,)))
        for failures in (1, 2):
            made._children["daemon"].start_at_s = 0.0
            made._start_due()
            assert made._children["daemon"].failures == failures
        made._shut_down()
    for fd in (lock, made._wake, made._here, *wakeups):
        os.close(fd)


@pytest.mark.parametrize(
    ("main", "words"),
    [
        (daemon.main, ["--config", "/no/such/file"]),
        (agent.main, ["--config", "/no/such/file"]),
        (web.main, ["--listen", "0.0.0.0:1"]),
        (gateway.main, ["--listen", "0.0.0.0:1"]),
    ],
    ids=["daemon", "agent", "web", "gateway"],
)
def test_a_refusal_that_cannot_be_told_is_a_refusal_all_the_same(
    muted: Muted, main: Callable[[Sequence[str]], int], words: list[str]
) -> None:
    with muted():
        assert main(words) == 2


def test_what_is_logged_to_a_full_disk_is_nobodys_end(muted: Muted) -> None:
    ways: list[Callable[[], None]] = [
        lambda: logs.configure("INFO", "json"),
        lambda: agent._log_to_stderr("INFO"),
    ]
    for configure in ways:
        with muted():
            configure()
            logging.getLogger("bursard").error("a word", extra={"what": object()})
