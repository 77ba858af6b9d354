"""Input that all tasks of a node get: held once, taken by each at its own pace, and bounded."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator

import pytest

from bursar.steps.feeds import AHEAD_BYTES_MAX, Feeds


class Bench:
    """Feeds with the tasks' ends of the pipes."""

    def __init__(self) -> None:
        self.poll = select.epoll()
        self.feeds = Feeds(self.poll)
        self.readers: dict[int, int] = {}

    def task(self) -> int:
        """One more; the feed's end of its pipe."""
        reading, writing = os.pipe()
        self.readers[writing] = reading
        self.feeds.add(writing)
        return writing

    def reads(self, fd: int) -> bytes:
        """All that a task can read now."""
        os.set_blocking(self.readers[fd], False)
        found = b""
        while True:
            try:
                data = os.read(self.readers[fd], 1 << 20)
            except BlockingIOError:
                return found
            if not data:
                return found + b"<end>"
            found += data

    def stops_reading(self, fd: int) -> None:
        os.close(self.readers.pop(fd))

    def drained(self, fd: int) -> int:
        """Bytes that a task has read once it has all that is there."""
        found = len(self.reads(fd))
        while any(one == fd for one, _ in self.poll.poll(0)):
            self.feeds.feed(fd)
            found += len(self.reads(fd))
        return found


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    for reader in made.readers.values():
        os.close(reader)
    for fd in list(made.feeds._taken):
        os.close(fd)
    made.poll.close()


def test_every_task_gets_all_and_then_the_end(bench: Bench) -> None:
    tasks = [bench.task() for _ in range(3)]
    bench.feeds.take(b"abc")
    assert (bench.feeds.granted(), bench.feeds.granted()) == (3, 0)
    bench.feeds.take(b"de", end=True)
    assert [bench.reads(fd) for fd in tasks] == [b"abcde<end>"] * 3
    assert bench.feeds.granted() == 2


def test_one_that_does_not_read_keeps_others_waiting_beyond_the_bound_alone(bench: Bench) -> None:
    reads, idle = bench.task(), bench.task()
    come = granted = taken = 0
    while granted == come:
        bench.feeds.take(b"x" * 100_000)
        come += 100_000
        taken += bench.drained(reads)
        granted += bench.feeds.granted()
        assert taken == come
        assert come < 2 * AHEAD_BYTES_MAX
    assert granted >= AHEAD_BYTES_MAX
    assert len(bench.feeds._held) <= AHEAD_BYTES_MAX + 100_000
    bench.stops_reading(idle)
    bench.feeds.feed(idle)
    assert (granted + bench.feeds.granted(), len(bench.feeds._held)) == (come, 0)


def test_what_nobody_reads_any_more_is_let_go(bench: Bench) -> None:
    task = bench.task()
    bench.stops_reading(task)
    bench.feeds.take(b"abc")
    assert task not in bench.feeds
    bench.feeds.take(b"def", end=True)
    assert (bench.feeds.granted(), len(bench.feeds._held)) == (6, 0)
