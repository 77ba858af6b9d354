"""Every file of an agent's directory under every damage: set aside and said, never trusted, never fatal."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bursar.clock import VirtualClock
from bursar.ids import SequentialIds
from bursar_agent.runner import truth
from bursar_agent.runner.handle import ProcessRunner
from bursar_agent.runner.layout import boot_id
from bursar_agent.runner.model import ExitReport
from bursar_agent.spool import Spool
from bursar_agent.statedir import Forgotten, HeldDevices, LogEnd, Remembered, StateDir
from bursar_agent.stimuli import Counter, Usage

CLOCK = VirtualClock()
NOISE = bytes(range(256)) * 20


def to_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").write_text("x")


def to_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def to_link(target: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.unlink()
        path.symlink_to(target)

    return change


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "emptied": lambda path: os.truncate(path, 0),
    "noise": lambda path: path.write_bytes(NOISE),
    "noise behind": lambda path: path.write_bytes(path.read_bytes() + NOISE),
    "removed": lambda path: path.unlink(),
    "directory": to_directory,
    "pipe": to_pipe,
    "endless device": to_link("/dev/zero"),
}
FILES = ("agent.json", "agent.lock", "instance", "forgotten", "spool", "signals/att_a.0", "run/launcher.lock")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory as an agent leaves it: one spooled record, one signal, one forgotten member."""
    state = StateDir(tmp_path / "agent")
    state.instance(SequentialIds())
    state.persist(7, 9)
    state.remember_signal(("att_a", 0), "USR1", 5)
    run = state.run_directory()
    for name in ("launcher.lock", "launcher.log"):
        (run / name).write_text("x")
    mark = run / "attempts" / "att_a.0"
    mark.mkdir()
    (mark / "starting").write_text(json.dumps({"epoch": 5}))
    forgotten = Forgotten(state.path / "forgotten", CLOCK)
    forgotten.add(("att_old", 0), 10)
    forgotten.close()
    spool = Spool(state.path / "spool", CLOCK)
    spool.append([usage(1), usage(2)])
    spool.close()
    state.close()
    return tmp_path / "agent"


def test_drafts_that_are_pipes_are_waited_for_by_nobody(folder: Path) -> None:
    """Whoever writes into a pipe without a reader waits for ever, as one who reads from it."""
    for name in ("log-end.new", "agent.json.new", "forgotten.new", "devices/.att_a.0.new", "signals/att_b.0"):
        (folder / name).parent.mkdir(exist_ok=True)
        os.mkfifo(folder / name)
    state = StateDir(folder)
    state.remember_log_end(LogEnd("cluster", 5, b"x" * 32))
    state.persist(8, 9)
    held = HeldDevices(boot_id="b", shares=(), counters={}, millijoules=1, source="", ended=False)
    state.remember_devices(("att_a", 0), held)
    state.remember_signal(("att_b", 0), "USR2", 6)
    forgotten = Forgotten(folder / "forgotten", CLOCK)
    forgotten.rewrite()
    forgotten.close()
    assert state.log_end() == LogEnd("cluster", 5, b"x" * 32)
    assert state.remembered().epoch == 8
    assert state.held_devices() == {("att_a", 0): held}
    assert state.signals() == {("att_a", 0): ("USR1", 5), ("att_b", 0): ("USR2", 6)}
    assert len(list(folder.rglob("*.damaged-*"))) == 5
    state.close()


def usage(seq: int) -> Usage:
    return Usage(seq, "boot-1", seq * 1000, (Counter("att_a", 0, seq * 10, seq),))


def of(folder: Path, name: str) -> Path:
    return next((folder / "spool").glob("usage-*")) if name == "spool" else folder / name


class Opened:
    """All of it read, as the agent does at its start."""

    def __init__(self, folder: Path) -> None:
        self.state = StateDir(folder)
        self.spool = Spool(folder / "spool", CLOCK)
        self.forgotten = Forgotten(folder / "forgotten", CLOCK)
        self.remembered = self.state.remembered()
        self.instance = self.state.instance(SequentialIds())
        self.signals = self.state.signals()
        self.run = self.state.run_directory()

    def close(self) -> None:
        self.spool.close()
        self.forgotten.close()
        self.state.close()


@pytest.fixture
def opening(folder: Path) -> Iterator[Callable[[], Opened]]:
    opened: list[Opened] = []

    def open_it() -> Opened:
        opened.append(Opened(folder))
        return opened[-1]

    yield open_it
    for one in opened:
        one.close()


def aside(folder: Path) -> list[str]:
    return sorted(path.name.partition(".damaged-")[0] for path in folder.rglob("*.damaged-*"))


def test_whole_directory_is_read_back(folder: Path, opening: Callable[[], Opened]) -> None:
    found = opening()
    assert found.remembered == Remembered(7, 9, "agent_0000000001")
    assert found.instance == "agent_0000000001"
    assert found.signals == {("att_a", 0): ("USR1", 5)}
    assert ("att_old", 0) in found.forgotten
    assert list(found.spool.records()) == [usage(1), usage(2)]
    assert aside(folder) == []


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_damaged_file_does_not_keep_the_node_away(
    folder: Path, opening: Callable[[], Opened], name: str, damage: Callable[[Path], object]
) -> None:
    damage(of(folder, name))
    found = opening()
    # What one file says another one knows, too: the name is whole, and no lower epoch is obeyed.
    assert found.instance == "agent_0000000001"
    assert found.remembered.epoch == (7 if name != "agent.json" else 0 if damage_removed(damage) else 5)
    found.state.persist(8, 1)
    assert found.state.remembered() == Remembered(8, 1, "agent_0000000001")
    found.spool.append([usage(3)])
    assert list(found.spool.records())[-1] == usage(3)
    found.forgotten.add(("att_new", 1), 0)
    assert ("att_new", 1) in found.forgotten
    assert found.run == folder / "run"


def damage_removed(damage: Callable[[Path], object]) -> bool:
    return damage is DAMAGES["removed"]


@pytest.mark.parametrize("name", [name for name in FILES if name not in ("agent.lock", "run/launcher.lock")])
@pytest.mark.parametrize("damage", [DAMAGES["noise"], to_directory], ids=["noise", "directory"])
def test_damaged_file_is_kept_aside(
    folder: Path, opening: Callable[[], Opened], name: str, damage: Callable[[Path], object]
) -> None:
    path = of(folder, name)
    damage(path)
    opening()
    assert aside(folder) == [path.name]
    kept = next(folder.rglob("*.damaged-*"))
    assert kept.is_dir() or kept.read_bytes() == NOISE


def test_good_records_before_the_damage_are_kept(folder: Path, opening: Callable[[], Opened]) -> None:
    path = of(folder, "spool")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data) + NOISE)
    found = opening()
    assert list(found.spool.records()) == [usage(1)]
    assert found.spool.last_seq == 1
    found.spool.append([usage(2)])
    found.spool.close()
    assert list(Spool(folder / "spool", CLOCK).records()) == [usage(1), usage(2)]
    assert next((folder / "spool").glob("*.damaged-*")).read_bytes() == bytes(data) + NOISE


@pytest.mark.parametrize("rest", [b"", b"\x01", b"\0" * 4096, b"\x20\0\0\0\1\2\3\4half"])
def test_what_a_crash_leaves_is_no_damage(folder: Path, opening: Callable[[], Opened], rest: bytes) -> None:
    path = of(folder, "spool")
    path.write_bytes(path.read_bytes() + rest)
    assert list(opening().spool.records()) == [usage(1), usage(2)]
    assert aside(folder) == []


def test_segment_with_an_impossible_number_is_not_ours(folder: Path, opening: Callable[[], Opened]) -> None:
    (folder / "spool" / f"usage-{'9' * 20}.spool").write_bytes(b"")
    assert opening().spool.last_seq == 2


def test_good_lines_of_a_damaged_list_are_kept(folder: Path, opening: Callable[[], Opened]) -> None:
    path = folder / "forgotten"
    hostile = "att_x 0 \u00b2 1\natt_y 0 " + "9" * 5000 + " 1\n../up 0 1 1\n"
    path.write_bytes(NOISE + b"\n" + path.read_bytes() + hostile.encode() + b"torn")
    found = opening().forgotten
    assert len(found) == 1
    assert ("att_old", 0) in found
    assert path.read_text() == f"att_old 0 {CLOCK.now()} 10\n"
    assert aside(folder) == ["forgotten"]


@pytest.mark.parametrize(
    "text", ['{"epoch": -1}', '{"epoch": 9223372036854775808}', '{"epoch": "7"}', "[]", "[" * 100_000]
)
def test_epoch_out_of_bounds_is_damage(folder: Path, text: str) -> None:
    (folder / "agent.json").write_text(text)
    state = StateDir(folder)
    assert state.remembered() == Remembered(epoch=5)
    assert aside(folder) == ["agent.json"]
    state.close()


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"cluster_id": 1}'])
def test_damaged_end_of_the_log_is_none(folder: Path, text: str) -> None:
    (folder / "log-end.json").write_text(text)
    state = StateDir(folder)
    assert state.log_end() is None
    assert aside(folder) == ["log-end.json"]
    state.close()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("att_a.0", '["KILL", 5]'),
        ("att_a.0", '["USR1", -1]'),
        ("att_a.0", '["USR1", 1.5]'),
        ("att_a.x", '["USR1", 5]'),
        ("junk", '["USR1", 5]'),
    ],
)
def test_signal_that_could_not_be_sent_is_damage(folder: Path, name: str, text: str) -> None:
    (folder / "signals" / "att_a.0").unlink()
    (folder / "signals" / name).write_text(text)
    state = StateDir(folder)
    assert state.signals() == {}
    assert aside(folder) == [name]
    assert state.signals() == {}
    assert aside(folder) == [name]
    state.close()


@pytest.mark.parametrize("name", ["spool", "signals", "run", "run/attempts"])
def test_file_in_place_of_a_folder_is_set_aside(
    folder: Path, opening: Callable[[], Opened], name: str
) -> None:
    (folder / name).rename(folder / "was")
    (folder / name).write_text("x")
    found = opening()
    assert aside(folder) == [name.rpartition("/")[2]]
    found.state.remember_signal(("att_b", 0), "TERM", 1)
    assert found.state.signals()["att_b", 0] == ("TERM", 1)
    assert (folder / "run" / "attempts").is_dir()


@pytest.mark.parametrize("name", ["launcher.sock", "agent.sock"])
def test_what_stands_in_a_sockets_place_is_set_aside(
    folder: Path, opening: Callable[[], Opened], name: str
) -> None:
    (folder / "run" / name).mkdir()
    opening()
    assert not (folder / "run" / name).exists()
    assert aside(folder) == [name]


def test_file_among_the_attempts_is_set_aside_where_attempts_are_not_looked_for(
    folder: Path, opening: Callable[[], Opened]
) -> None:
    (folder / "run/attempts/att_b.0").write_text("x")
    opening()
    assert [path.parent for path in folder.rglob("att_b.0.damaged-*")] == [folder / "run"]


# --- the records of one attempt ------------------------------------------------------------------

START = {"pid": 1, "pid_start_ticks": None, "start_boot_us": 5}
REPORT = ExitReport(
    "att_a", 0, 5, "completed", 0, None, "", "run", "boot", 5, 9, 4, 1, 1, 1, 0, 0
)  # fmt: skip


@pytest.fixture
def member(folder: Path) -> Iterator[tuple[int, int, Path]]:
    """(descriptor of the run directory, of the member's, and its path)."""
    path = folder / "run/attempts/att_a.0"
    (path / "start.json").write_text(json.dumps(START))
    (path / "exit.json").write_text(json.dumps(REPORT.to_json()))
    run_fd = os.open(folder / "run", os.O_RDONLY)
    dir_fd = os.open(path, os.O_RDONLY)
    yield run_fd, dir_fd, path
    os.close(run_fd)
    os.close(dir_fd)


def test_whole_records_are_left_alone(folder: Path, member: tuple[int, int, Path]) -> None:
    run_fd, dir_fd, _ = member
    assert truth.mend_member(run_fd, dir_fd, "att_a.0") == []
    found = truth.member_truth(dir_fd, "att_a", 0)
    assert (found.state, found.exit, found.pid, found.epoch) == ("ended", REPORT, 1, 5)
    assert found.reaped_before_us is None, "an earlier version's record does not tell it"


@pytest.mark.parametrize(
    ("told", "read"), [(0, 0), (12, 12), (-1, None), (True, None), ("12", None), (None, None), (1.5, None)]
)
def test_what_a_supervisor_waited_for_before_is_a_number_or_not_known(
    member: tuple[int, int, Path], told: object, read: int | None
) -> None:
    _, dir_fd, path = member
    (path / "start.json").write_text(json.dumps({**START, "reaped_before_us": told}))
    found = truth.member_truth(dir_fd, "att_a", 0)
    assert (found.pid, found.reaped_before_us) == (1, read)


GONE = ("removed", "emptied")
"""An empty record is one that is not written yet: a directory that is used again has them."""

WRONG_TYPES: dict[str, Callable[[Path], object]] = {
    "wrong types": lambda path: path.write_text(json.dumps(dict.fromkeys(json.loads(path.read_text()), "x"))),
    "numbers out of bounds": lambda path: path.write_text(
        json.dumps(dict.fromkeys(json.loads(path.read_text()), -1))
    ),
    "fields missing": lambda path: path.write_text("{}"),
    "deeply nested": lambda path: path.write_text("[" * 100_000),
}


ABSENT = ("removed", "emptied")
"""A record that is empty is one not yet written, in a directory that is used again."""


@pytest.mark.parametrize("name", ["start.json", "exit.json"])
@pytest.mark.parametrize("damage", ABSENT)
def test_a_record_that_is_absent_or_empty_is_none_and_nothing_is_set_aside(
    member: tuple[int, int, Path], name: str, damage: str
) -> None:
    run_fd, dir_fd, path = member
    DAMAGES[damage](path / name)
    assert truth.mend_member(run_fd, dir_fd, "att_a.0") == []
    found = truth.member_truth(dir_fd, "att_a", 0)
    assert (found.state, found.exit) == (("ended", REPORT) if name == "start.json" else ("running", None))


@pytest.mark.parametrize("name", ["start.json", "exit.json"])
@pytest.mark.parametrize(
    "damage",
    [*(d for name, d in DAMAGES.items() if name not in ABSENT), *WRONG_TYPES.values()],
    ids=[*(name for name in DAMAGES if name not in ABSENT), *WRONG_TYPES],
)
def test_damaged_record_is_none_and_lies_aside_outside(
    folder: Path, member: tuple[int, int, Path], name: str, damage: Callable[[Path], object]
) -> None:
    run_fd, dir_fd, path = member
    damage(path / name)
    moved = truth.mend_member(run_fd, dir_fd, "att_a.0")
    assert [one.partition(".damaged-")[0] for one in moved] == [f"att_a.0.{name}"]
    assert (folder / "run" / moved[0]).exists()
    found = truth.member_truth(dir_fd, "att_a", 0)
    assert (found.state, found.exit) == (("ended", REPORT) if name == "start.json" else ("running", None))
    truth.remove_member(run_fd, "att_a", 0)
    assert not path.exists()


@pytest.mark.parametrize("name", ["starting", "start.json", "exit.json"])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_agent_adopts_a_damaged_attempt_as_ended(
    folder: Path, member: tuple[int, int, Path], name: str, damage: Callable[[Path], object]
) -> None:
    """Nothing of it runs, so whatever the records say it has ended, in one report."""
    _, dir_fd, path = member
    (path / "starting").write_text(json.dumps({"epoch": 5, "boot_id": boot_id()}))
    damage(path / name)

    async def adopt() -> list[str]:
        runner = ProcessRunner(folder / "run", lambda event: None)
        await runner.open()
        try:
            return [found.state for found in await runner.adopt()]
        finally:
            await runner.close()

    assert asyncio.run(adopt()) == ["ended"]
    assert truth.exit_report(dir_fd) is not None
