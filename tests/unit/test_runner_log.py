"""The capped log: what is kept, what is dropped, and that a reader sees every gap."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bursar_agent.runner import logcap
from bursar_agent.runner.layout import LOG
from bursar_agent.runner.logs import read_log

CAP = 8192


@pytest.fixture
def pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
    monkeypatch.chdir(tmp_path)
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    yield read, write
    os.close(read)


def feed(log: logcap.LogCap, write: int, data: bytes, piece: int) -> None:
    for at in range(0, len(data), piece):
        os.write(write, data[at : at + piece])
        assert log.pump()


def read_all(limit: int = 1000) -> tuple[list[tuple[int, bytes]], int]:
    """(offset, bytes) of each answer, and the sum of the gaps."""
    fd = os.open(".", os.O_RDONLY)
    try:
        found, offset, gaps = [], 0, 0
        while True:
            data, after, gap = read_log(fd, CAP, offset, limit)
            gaps += gap
            if not data:
                return found, gaps
            assert after == offset + gap + len(data)
            found.append((offset + gap, data))
            offset = after
    finally:
        os.close(fd)


def test_silent_job_leaves_no_log_file(pipe: tuple[int, int]) -> None:
    log = logcap.LogCap(pipe[0], CAP)
    assert log.pump()
    os.close(pipe[1])
    assert not log.pump()
    assert not Path(LOG).exists()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(total=st.integers(0, 5 * CAP), piece=st.integers(1, 4096), limit=st.integers(1, 9000))
def test_reader_sees_the_bytes_that_were_written_where_they_were(
    tmp_path_factory: pytest.TempPathFactory, total: int, piece: int, limit: int
) -> None:
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("log"))
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        data = bytes(at * 7 % 251 for at in range(total))
        log = logcap.LogCap(read, CAP)
        feed(log, write, data, piece)
        found, gaps = read_all(limit)
        assert all(data[at : at + len(part)] == part for at, part in found)
        assert sum(len(part) for _, part in found) + gaps == total == log.total_bytes
        assert gaps == log.dropped_bytes
        assert sum(p.stat().st_size for p in Path().iterdir()) <= CAP + len(logcap.marker_line(0))
        if total > CAP:
            assert len(found[0][1]) > 0
            assert gaps > 0
            kept_tail = sum(len(part) for at, part in found if at >= CAP // 2)
            assert kept_tail >= CAP // 4
        elif total <= CAP * 3 // 4:
            assert gaps == 0
        log.close()
    finally:
        os.close(read)
        os.close(write)
        os.chdir(before)


def test_full_disk_drops_output_and_keeps_the_job_going(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = logcap.LogCap(pipe[0], CAP)
    feed(log, pipe[1], b"a" * 1000, 1000)

    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "splice", full)
        broken.setattr(os, "write", full)
        # The pipe is filled through its own descriptor, which this test opens as a file.
        with open(f"/proc/self/fd/{pipe[1]}", "wb", buffering=0) as file:
            file.write(b"b" * 1000)
        assert log.pump()
    feed(log, pipe[1], b"c" * 500, 500)
    os.close(pipe[1])
    assert not log.pump()
    assert (log.total_bytes, log.dropped_bytes) == (2500, 1000)
    assert read_all() == ([(0, b"a" * 1000), (2000, b"c" * 500)], 1000)


def test_marker_line_keeps_its_length() -> None:
    assert len(logcap.marker_line(1)) == len(logcap.marker_line(10**18))
