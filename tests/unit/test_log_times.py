"""When what a log holds came: the marks beside it, and what is read by them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bursar_agent.runner.logcap import LogCap
from bursar_agent.runner.logtimes import (
    LOG_TIMES,
    STEP_US,
    LogTimes,
    marks_of,
    offset_since,
    read_marks,
)
from bursard.fleet import LogAnswer, LogRange, door

MARKS = [(0, 0), (10, 5), (20, 7), (30, 9)]


class Clock:
    """Told what time it is."""

    now = 0

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.chdir(tmp_path)
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


def test_what_comes_in_the_first_tenth_of_a_second_needs_no_mark(here: int) -> None:
    clock = Clock()
    times = LogTimes(clock)
    for clock.now in (0, STEP_US // 2, STEP_US - 1):
        times.note(clock.now)
    assert not Path(LOG_TIMES).exists()
    assert read_marks(here) == [(0, 0)]


def test_there_is_one_mark_for_each_tenth_of_a_second_in_which_something_came(here: int) -> None:
    clock = Clock()
    times = LogTimes(clock)
    for offset, clock.now in ((5, STEP_US), (9, STEP_US + 1), (12, 2 * STEP_US), (40, 9 * STEP_US)):
        times.note(offset)
    times.close()
    assert read_marks(here) == [(0, 0), (5, STEP_US), (12, 2 * STEP_US), (40, 9 * STEP_US)]


def test_what_is_moved_into_a_log_is_noted_where_each_piece_began(here: int) -> None:
    clock = Clock()
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    log = LogCap(read, 1 << 20, LogTimes(clock))
    for piece, clock.now in ((b"first\n", 0), (b"second\n", 3 * STEP_US), (b"third\n", 7 * STEP_US)):
        os.write(write, piece)
        assert log.pump()
    os.close(write)
    assert not log.pump()
    log.close()
    os.close(read)
    assert read_marks(here) == [(0, 0), (6, 3 * STEP_US), (13, 7 * STEP_US)]


def test_too_many_marks_become_half_as_many_made_half_as_often(here: int) -> None:
    clock = Clock()
    times = LogTimes(clock, marks_max=4)
    for i in range(1, 8):
        clock.now = i * STEP_US
        times.note(i)
    times.close()
    # At the fifth the second and fourth were dropped; from then on each second tenth has one.
    assert read_marks(here) == [(0, 0)] + [(i, i * STEP_US) for i in (1, 3, 5, 6)]


def test_a_disk_that_takes_no_mark_stops_nothing(here: int) -> None:
    clock = Clock()
    clock.now = STEP_US
    Path(LOG_TIMES).mkdir()
    times = LogTimes(clock)
    times.note(1)
    times.note(2)
    times.close()
    assert read_marks(here) == [(0, 0)]


def test_of_a_damaged_file_the_marks_that_ascend_are_read(here: int) -> None:
    def mark(offset: int, at: int) -> bytes:
        return offset.to_bytes(8, "big") + at.to_bytes(8, "big")

    Path(LOG_TIMES).write_bytes(mark(5, 7) + mark(4, 9) + mark(2**63, 2**63) + mark(8, 6) + mark(9, 9) + b"x")
    assert read_marks(here) == [(0, 0), (5, 7), (9, 9)]


def test_marks_that_no_daemon_would_believe_are_not_told(here: int) -> None:
    def mark(offset: int, at: int) -> bytes:
        return offset.to_bytes(8, "big") + at.to_bytes(8, "big")

    most = (door.BYTES_MAX, door.BOOT_US_MAX)
    Path(LOG_TIMES).write_bytes(mark(5, 7) + mark(most[0] + 1, 8) + mark(6, most[1] + 1) + mark(*most))
    assert read_marks(here) == [(0, 0), (5, 7), most]
    Path(LOG_TIMES).write_bytes(mark(0, 1) * 50 + mark(2, 2) * 50)
    answer = LogAnswer(b"abc", 0, 3, True, 0, marks=tuple(marks_of(read_marks(here), 0, 3)))
    assert answer.marks == ((0, 1), (2, 2), (2, 2), (2, 2))
    door.log_answer(LogRange("att_1", 0, 0, 10, times=True), answer)


@pytest.mark.parametrize(("since", "offset"), [(0, 0), (1, 10), (5, 10), (6, 20), (9, 30), (10, None)])
def test_what_came_since_begins_at_the_first_mark_then_or_later(since: int, offset: int | None) -> None:
    assert offset_since(MARKS, since) == offset


@pytest.mark.parametrize(
    ("start", "end", "marks"),
    [
        (0, 5, [(0, 0)]),
        (0, 10, [(0, 0)]),
        (0, 11, [(0, 0), (10, 5)]),
        (15, 40, [(10, 5), (20, 7), (30, 9)]),
        (20, 20, [(20, 7)]),
        (35, 99, [(30, 9)]),
    ],
)
def test_the_marks_of_a_piece_begin_with_the_one_before_it(
    start: int, end: int, marks: list[tuple[int, int]]
) -> None:
    assert marks_of(MARKS, start, end) == marks
