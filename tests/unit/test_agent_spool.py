"""The usage spool: what was appended is there after a crash, and goes only when acknowledged."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from bursar.clock import DAY_US, VirtualClock
from bursar_agent.spool import Spool
from bursar_agent.stimuli import Counter, Usage

CLOCK = VirtualClock()


def usage(seq: int, members: int = 1) -> Usage:
    counters = tuple(Counter(f"att_{i}", 0, seq * 10, seq) for i in range(members))
    return Usage(seq, "boot-1", seq * 1000, counters)


def opened(folder: Path, **options: int) -> Spool:
    return Spool(folder / "spool", CLOCK, **options)


def seqs(spool: Spool, after: int = 0) -> list[int]:
    return [record.seq for record in spool.unacknowledged(after)]


def segment(folder: Path) -> Path:
    return sorted((folder / "spool").iterdir())[-1]


def test_records_and_numbering_survive_a_restart(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.append([usage(1), usage(2, members=3)])
    spool.append([usage(3)])
    spool.close()
    again = opened(tmp_path)
    assert list(again.records()) == [usage(1), usage(2, members=3), usage(3)]
    assert again.last_seq == 3
    again.append([usage(4)])
    assert seqs(again) == [1, 2, 3, 4]
    again.close()


@pytest.mark.parametrize("cut", [1, 7, 8, 9, 20])
def test_torn_tail_loses_only_the_torn_record(tmp_path: Path, cut: int) -> None:
    spool = opened(tmp_path)
    spool.append([usage(1), usage(2)])
    spool.close()
    path = segment(tmp_path)
    os.truncate(path, path.stat().st_size - cut)
    again = opened(tmp_path)
    assert seqs(again) == [1]
    again.append([usage(2)])
    again.close()
    assert seqs(opened(tmp_path)) == [1, 2]


def test_a_restart_goes_on_in_the_newest_segment_behind_its_last_whole_record(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.append([usage(1), usage(2)])
    spool.close()
    path = segment(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole + b"torn")
    again = opened(tmp_path)
    assert path.read_bytes() == whole
    again.append([usage(3)])
    again.close()
    assert [each.name for each in (tmp_path / "spool").iterdir()] == [path.name]
    assert path.read_bytes().startswith(whole)


def test_flipped_byte_ends_the_segment_there(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.append([usage(1), usage(2)])
    spool.close()
    path = segment(tmp_path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert seqs(opened(tmp_path)) == [1]


def test_trim_drops_acknowledged_segments_but_never_the_newest_record(tmp_path: Path) -> None:
    spool = opened(tmp_path, segment_bytes=1)
    for seq in range(1, 6):
        spool.append([usage(seq)])
    spool.trim(3)
    assert seqs(spool) == [4, 5]
    spool.trim(5)
    assert seqs(spool, after=5) == []
    spool.close()
    again = opened(tmp_path)
    assert again.last == usage(5)
    assert again.last_seq == 5


def test_oldest_segments_go_at_the_size_limit(tmp_path: Path) -> None:
    spool = opened(tmp_path, segment_bytes=1, bytes_max=400)
    for seq in range(1, 50):
        spool.append([usage(seq)])
    kept = seqs(spool)
    assert kept[-1] == 49
    assert 1 < len(kept) < 20
    assert spool.dropped_segments > 0


def test_segments_older_than_a_week_go(tmp_path: Path) -> None:
    clock = VirtualClock()
    spool = Spool(tmp_path / "spool", clock, segment_bytes=1)
    spool.append([usage(1)])
    spool.append([usage(2)])
    old = (clock.now() - 8 * DAY_US) * 1000
    for path in (tmp_path / "spool").iterdir():
        os.utime(path, ns=(old, old))
    spool.append([usage(3)])
    spool.append([usage(4)])
    assert 1 not in seqs(spool)
    assert seqs(spool)[-1] == 4


def test_failed_fsync_counts_as_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    1. Appending 2 fails in fsync: whether it is on disk is unknown.
    2. It is cut off again; the next append stands right behind 1.
    """
    spool = opened(tmp_path)
    spool.append([usage(1)])

    def broken(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", broken)
        with pytest.raises(OSError, match="Input/output"):
            spool.append([usage(2)])
    assert spool.last_seq == 1
    spool.append([usage(3)])
    spool.close()
    assert seqs(opened(tmp_path)) == [1, 3]


def test_foreign_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "usage-x.spool").write_text("mine")
    spool = opened(tmp_path)
    spool.append([usage(1)])
    spool.trim(1)
    assert (tmp_path / "spool" / "usage-x.spool").read_text() == "mine"
