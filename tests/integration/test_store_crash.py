"""A real process, a real disk, a real death: what was acknowledged is there afterwards, all of it."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bursar.errors import StoreUnavailable
from bursard.store import SqliteStore

CHILD = r"""
import asyncio, sys
from bursard.events import JobHeld, encode
from bursard.store import Batch, CommitUnknown, EventRow, KeyRow, PostingRow, SqliteStore
from bursard.writer import Writer

store = SqliteStore(sys.argv[1])
limit = int(sys.argv[2])

def batch(seq):
    return Batch(
        events=[EventRow(seq, seq, "ann", encode(JobHeld(job_id=f"job_{seq}")))],
        postings=[PostingRow(seq, "hold", "x", (("a", seq), ("b", -seq)))],
        keys=[KeyRow("ann", f"key{seq}", f"job_{seq}", b"d" * 32)],
    )

async def main():
    writer = Writer(store)
    writer.after_commit.append(lambda seq: print(seq, flush=True))
    seq = store.last_seq
    print("from", seq, flush=True)
    try:
        while seq < limit:
            await writer.room()
            for _ in range(1 + seq % 7):
                seq += 1
                writer.enqueue(batch(seq))
            await asyncio.sleep(0)
            if seq % 500 < 7:
                await writer.save_snapshot(seq, b"state of %d" % seq * 1000)
            if writer.waiting > 50:
                await writer.wait_durable()
    except CommitUnknown as error:
        print("unknown:", error, flush=True)
        sys.stdout.flush()
        import os; os._exit(70)
    await writer.close()

asyncio.run(main())
"""


def child(directory: Path, limit: int = 10**9, **options: object) -> subprocess.Popen[str]:
    """The same interpreter and import path, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
        [sys.executable, "-c", CHILD, str(directory), str(limit)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **options,
    )


def acknowledged(lines: list[str]) -> int:
    """The highest seq that the child was told is durable; a line cut by the kill does not count."""
    told = [int(line) for line in lines if line.endswith("\n") and line.strip().isdigit()]
    return max(told, default=0)


def check(directory: Path, acked: int) -> SqliteStore:
    """Reopen: nothing acknowledged is missing, what is there is whole."""
    store = SqliteStore(directory)
    assert store.last_seq >= acked
    assert store.verify() == []
    assert len(list(store.entries())) == 2 * store.last_seq
    loaded = store.load()
    first = next(loaded.images, (0, b""))[0]
    assert [row.seq for row in loaded.events(first)] == list(range(first + 1, loaded.last_seq + 1))
    if acked:
        assert store.keys("ann", [f"key{acked}"])
    return store


def test_everything_acknowledged_survives_kill_9_again_and_again(tmp_path: Path) -> None:
    """Each round kills at another moment of the same log's life, then starts on what is left."""
    directory = tmp_path / "state"
    before = 0
    for round_number in range(8):
        process = child(directory)
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        assert lines[0] == f"from {before}\n", process.stderr and process.stderr.read()
        # Die after a different number of acknowledgements each time, commits in flight.
        lines += [process.stdout.readline() for _ in range(3 + 40 * round_number)]
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate(timeout=120)
        lines += rest.splitlines(keepends=True)
        acked = acknowledged(lines)
        assert acked > before
        store = check(directory, acked)
        before = store.last_seq
        store.close()


def test_a_killed_holder_leaves_no_stale_lock_and_a_live_one_is_named(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    process = child(directory)
    assert process.stdout is not None
    process.stdout.readline()
    with pytest.raises(StoreUnavailable, match=f"pid {process.pid}"):
        SqliteStore(directory)
    process.kill()
    process.communicate(timeout=120)
    SqliteStore(directory).close()


def test_a_write_the_system_refuses_is_never_acknowledged(tmp_path: Path) -> None:
    """RLIMIT_FSIZE stands for a full disk where nobody may mount one: writes fail with EFBIG."""
    directory = tmp_path / "state"
    child(directory, limit=10).communicate(timeout=120)

    def cap() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    process = child(directory, preexec_fn=cap)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 70, errors
    lines = output.splitlines(keepends=True)
    assert "unknown" in lines[-1]
    assert "start again" in lines[-1]
    check(directory, acknowledged(lines)).close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root; RLIMIT_FSIZE covers the rest")
    where = tmp_path / "disk"
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m,mode=0700", "none", str(where)], check=True)
    yield where
    subprocess.run(["umount", "-l", str(where)], check=True)


def test_a_disk_that_fills_up_loses_nothing_and_serves_again_with_space(small_disk: Path) -> None:
    """1. work until full: exit 70; 2. a start is refused, saying so; 3. space returns: all is there."""
    directory = small_disk / "state"
    process = child(directory)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 70, errors
    lines = output.splitlines(keepends=True)
    assert "full" in lines[-1]
    acked = acknowledged(lines)
    assert acked > 100
    ballast = small_disk / "ballast"
    with ballast.open("wb") as file:
        _fill(file.fileno())
    with pytest.raises(StoreUnavailable, match=r"full.*free some space"):
        SqliteStore(directory)
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    ballast.unlink()
    store = check(directory, acked)
    assert store.free_bytes() > 16 << 20
    store.close()


def test_a_start_on_a_full_disk_is_refused_with_place_and_remedy(small_disk: Path) -> None:
    with (small_disk / "ballast").open("wb") as file:
        _fill(file.fileno())
    with pytest.raises(StoreUnavailable, match=r"disk.*full.*free some space"):
        SqliteStore(small_disk / "state")


def test_a_read_only_disk_is_refused(small_disk: Path) -> None:
    child(small_disk / "state", limit=20).communicate(timeout=120)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for directory in (small_disk / "state", small_disk / "other"):
        with pytest.raises(StoreUnavailable, match="read-only"):
            SqliteStore(directory)


def _fill(handle: int) -> None:
    for size in (65536, 4096, 1):
        try:
            while True:
                os.write(handle, b"x" * size)
        except OSError:
            continue


def test_a_start_on_many_events_is_quick(tmp_path: Path) -> None:
    """The cheap checks of a start do not grow with the log, as the full check does; replay from a snapshot
    neither. Both are measured in CPU time of this process, so other work of the machine does not count.
    """
    from bursard.events import JobHeld, encode
    from bursard.store import Batch, EventRow

    store = SqliteStore(tmp_path / "state")
    payload = encode(JobHeld(job_id="job_1" + "x" * 900))
    for start in range(1, 30_001, 3000):
        rows = [EventRow(seq, seq, "ann", payload) for seq in range(start, start + 3000)]
        store.append(Batch(events=rows))
    store.save_snapshot(29_990, b"state")
    store.close()
    began = time.process_time()
    store = SqliteStore(tmp_path / "state")
    loaded = store.load()
    assert len(list(loaded.events(next(loaded.images)[0]))) == 10
    started = time.process_time() - began
    assert store.verify(full=True) == []
    assert started < (time.process_time() - began - started) / 3
    store.close()
