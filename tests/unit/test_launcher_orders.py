"""What a launcher answers, marks and keeps in stock, without a process: the forks are a stand-in's."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import select
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from bursar_agent.runner import launcher as room
from bursar_agent.runner.launcher import Launcher, _Connection
from bursar_agent.runner.layout import FRAME_BYTES_MAX, RECORDS, UNWRITTEN_BYTES, boot_id

REQUEST = {
    "attempt_id": "att_1", "rank": 2, "epoch": 3, "boot_id": boot_id(), "place": "fe-1", "log_cap_bytes": 4,
    "time_limit_us": 5, "grace_us": 6, "launch": {"command": ["true"]},
}  # fmt: skip


class Pool:
    """It notes what it is given, and says that a process of this pid has it."""

    def __init__(self) -> None:
        self.given: list[tuple[str, dict[str, Any]]] = []
        self.locks: list[int] = []
        self.problem: OSError | None = None
        self.idle = 0
        self.news: list[int] = []

    def heard(self, fd: int) -> bool:
        self.news.append(fd)
        return True

    def give(self, directory: str, request: dict[str, Any], lock_fd: int) -> int:
        self.locks.append(lock_fd)
        if self.problem is not None:
            raise self.problem
        self.given.append((directory, request))
        return 4_711


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("attempts", "free"):
            (folder / name).mkdir()
        self.pool = Pool()
        self.made = Launcher.__new__(Launcher)  # its own start takes descriptors of this process
        for name, value in {
            "_boot_id": REQUEST["boot_id"], "_pool": self.pool, "_free": [], "_short": False, "_made": 0,
            "_going": True, "_poll": select.poll(), "_calls": select.poll(), "_connections": {},
            "_round_ends": 0.0, "_renameat2": getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None),
        }.items():  # fmt: skip
            setattr(self.made, name, value)

    def start(self, **changes: Any) -> dict[str, Any]:
        (answer,) = self.made._answer({"op": "start", "requests": [{**REQUEST, **changes}]})["results"]
        return dict(answer)

    def free(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "free").iterdir())

    def forgotten(self, name: str) -> Path:
        """The directory of a member that is over."""
        made = self.folder / "free" / name
        made.mkdir()
        for record in RECORDS:
            (made / record).write_text("of the one before, which was longer than what comes " * 9)
        return made


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    made = Bench(tmp_path)
    yield made
    for fd in made.pool.locks:
        os.close(fd)


def test_a_member_is_marked_and_locked_before_it_is_given_away(bench: Bench) -> None:
    assert bench.start() == {"state": "starting", "supervisor_pid": 4_711}
    assert [directory for directory, _ in bench.pool.given] == ["attempts/att_1.2"]
    mark = bench.folder / "attempts/att_1.2/starting"
    expected = {"taken": 0, **{name: REQUEST[name] for name in REQUEST if name != "launch"}}
    assert json.loads(mark.read_text()) == expected
    assert mark.read_text().startswith('{"taken": 0')
    assert (mark.stat().st_mode & 0o777, mark.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    with mark.open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_connection_that_cannot_be_taken_for_want_of_descriptors_is_rested_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Listener:
        problem = BlockingIOError(errno.EAGAIN, "nobody is there")

        def accept(self) -> None:
            raise self.problem

    rests = list[float]()
    monkeypatch.setattr(room.time, "sleep", rests.append)
    bench.made._listener = Listener()  # type: ignore[assignment]
    bench.made._accept()
    assert rests == []
    Listener.problem = OSError(errno.EMFILE, "Too many open files")  # type: ignore[assignment]
    bench.made._accept()
    assert rests == [room._ACCEPT_AGAIN_S]


def test_a_log_that_takes_nothing_ends_no_launcher(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(room.os, "write", full)
    room._log("closing a connection")


def test_a_member_is_started_once_and_never_again(bench: Bench) -> None:
    bench.start()
    assert bench.start() == {"state": "already", "message": "att_1.2 was started before"}
    bench.forgotten("old.0")
    bench.made._free = []
    assert bench.start() == {"state": "already", "message": "att_1.2 was started before"}
    assert bench.start(rank=3)["state"] == "starting"
    assert [directory for directory, _ in bench.pool.given] == ["attempts/att_1.2", "attempts/att_1.3"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boot_id": "another"}, "att_1.2 was meant for another boot of this machine"),
        (
            {"attempt_id": "../x"},
            "attempt id '../x' is not prefix_ followed by 1 to 40 of 0-9a-z; refused before",
        ),
        ({"rank": -1}, "rank -1 of attempt att_1 is not an integer from 0 to 999999"),
        ({"rank": True}, "rank True of attempt att_1 is not an integer"),
        ({"rank": 1_000_000}, "rank 1000000 of attempt att_1 is not an integer"),
    ],
)
def test_what_must_not_start_here_leaves_no_mark(bench: Bench, change: dict[str, Any], message: str) -> None:
    answer = bench.start(**change)
    assert (answer["state"], answer["message"][: len(message)]) == ("refused", message)
    assert (bench.pool.given, list((bench.folder / "attempts").iterdir())) == ([], [])


def test_a_start_that_could_not_be_made_is_refused_and_its_mark_stays(bench: Bench) -> None:
    bench.pool.problem = OSError(11, "no more processes")
    assert bench.start() == {
        "state": "refused",
        "message": "cannot fork for att_1.2: [Errno 11] no more processes",
    }
    bench.pool.problem = None
    assert bench.start()["state"] == "already"
    (bench.folder / "attempts").rename(bench.folder / "moved")
    (bench.folder / "attempts").touch()
    assert bench.start(rank=0) == {
        "state": "refused",
        "message": "cannot write attempts/att_1.0: Not a directory",
        "disk": False,
    }


def test_a_start_that_the_disk_will_not_take_is_refused_as_that(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    bench.made._free = []
    monkeypatch.setattr(bench.made, "_mark", full)
    answer = bench.start()
    assert (answer["state"], answer["disk"]) == ("refused", True)
    assert answer["message"] == "cannot write attempts/att_1.2: No space left on device"


def test_a_forgotten_directory_is_emptied_and_used_again_the_newest_name_last(bench: Bench) -> None:
    bench.forgotten("old.0")
    assert bench.start()["state"] == "starting"
    there = bench.folder / "attempts/att_1.2"
    assert bench.free() == []
    assert {path.name: path.stat().st_size for path in there.iterdir() if path.name != "starting"} == {
        "start.json": UNWRITTEN_BYTES,
        "exit.json": UNWRITTEN_BYTES,
    }
    assert json.loads((there / "starting").read_text())["epoch"] == 3
    assert bench.made._short


def test_a_directory_whose_supervisor_lives_is_left_for_later(bench: Bench) -> None:
    held = bench.forgotten("old.0")
    with (held / "starting").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert bench.start()["state"] == "starting"
    assert bench.free() == ["old.0"]
    assert (held / "starting").read_text().startswith("of the one before")


def test_a_directory_that_is_no_record_is_removed(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    broken = bench.forgotten("old.0")
    (broken / "starting").unlink()
    assert bench.start()["state"] == "starting"
    assert bench.free() == []
    assert capfd.readouterr().err == "free/old.0 cannot be used again: No such file or directory\n"


def test_without_the_kernels_help_nothing_is_used_again(bench: Bench) -> None:
    bench.forgotten("old.0")
    bench.made._renameat2 = None
    assert bench.start()["state"] == "starting"
    assert bench.free() == ["old.0"]


def test_two_directories_are_made_ahead_and_taken_after_those_used_before(bench: Bench) -> None:
    bench.made._short = True
    bench.made._stock()
    pid = os.getpid()
    assert bench.free() == [f"made.{pid}.1", f"made.{pid}.2"]
    assert bench.made._free == [f"made.{pid}.2", f"made.{pid}.1"]
    assert not bench.made._short
    made = bench.folder / "free" / f"made.{pid}.1"
    assert {path.name: path.stat().st_size for path in made.iterdir()} == dict.fromkeys(
        RECORDS, UNWRITTEN_BYTES
    )
    assert made.stat().st_mode & 0o777 == 0o700
    bench.forgotten("old.0")
    bench.made._free = []
    bench.made._stock()
    assert bench.made._free[-1] == "old.0"
    assert len(bench.made._free) == 3
    bench.start()
    assert bench.free() == [f"made.{pid}.1", f"made.{pid}.2"]
    assert not bench.made._short
    bench.start(rank=7)
    assert bench.made._short


def test_no_room_for_a_stock_is_said_and_nothing_else(
    bench: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(path: str, mode: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room.os, "mkdir", full)
        bench.made._stock()
    assert capfd.readouterr().err == "cannot make a directory ahead: No space left on device\n"
    assert bench.free() == []


def test_a_launcher_answers_what_it_knows_and_ends_when_it_is_told(bench: Bench) -> None:
    assert bench.made._answer({"op": "ping"}) == {"ok": True}
    assert bench.made._going
    assert bench.made._answer({"op": "x"}) == {"error": "unknown operation 'x'"}
    assert bench.made._answer({"op": "start", "requests": []}) == {"results": []}
    assert bench.made._going
    assert bench.made._answer({"op": "shutdown"}) == {"ok": True}
    assert not bench.made._going


# --- frames


def frame(message: Any) -> bytes:
    data = json.dumps(message).encode()
    return len(data).to_bytes(4, "little") + data


def test_frames_are_taken_whole_and_the_rest_waits() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = _Connection(ours)
        whole = frame({"a": 1}) + frame({"b": 2})
        connection.buffer += whole[:3]
        assert connection.frames() == []
        connection.buffer += whole[3:-1]
        assert connection.frames() == [{"a": 1}]
        connection.buffer += whole[-1:]
        assert connection.frames() == [{"b": 2}]
        assert connection.buffer == b""


def test_a_frame_longer_than_any_of_ours_is_not_waited_for() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = _Connection(ours)
        connection.buffer += FRAME_BYTES_MAX.to_bytes(4, "little")
        assert connection.frames() == []
        connection.buffer[:4] = (FRAME_BYTES_MAX + 1).to_bytes(4, "little")
        with pytest.raises(ValueError, match=f"frame of {FRAME_BYTES_MAX + 1} bytes"):
            connection.frames()


def test_an_answer_is_sent_whole_also_when_its_reader_is_slow() -> None:
    sent = {"results": ["x" * 400_000]}
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        parts: list[bytes] = []
        connection = _Connection(ours)

        class Slow:
            """The rest is sent when the reader has made room."""

            def __getattr__(self, name: str) -> Any:
                return getattr(ours, name)

            def sendall(self, data: bytes) -> None:
                assert ours.gettimeout() == 5
                parts.append(bytes(data))

        connection.sock = Slow()  # type: ignore[assignment]
        connection.send(sent)
        taken = theirs.recv(10_000_000)
        assert taken + parts[0] == frame(sent)
        assert ours.gettimeout() == 0
        connection.sock = ours
        connection.send({"ok": True})
        assert theirs.recv(1_000) == frame({"ok": True})


def test_what_is_no_message_of_ours_ends_its_connection_and_no_other(
    bench: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    pairs = [socket.socketpair() for _ in range(3)]
    closed: list[int] = []
    bench.made._poll = type("Poll", (), {"unregister": lambda self, fd: closed.append(fd)})()  # type: ignore[assignment]
    bench.made._calls = type("Poll", (), {"unregister": lambda self, fd: None})()  # type: ignore[assignment]
    bench.made._connections = {}
    for ours, _ in pairs:
        ours.setblocking(False)
        bench.made._connections[ours.fileno()] = _Connection(ours)
    numbers = list(bench.made._connections)
    for connection in list(bench.made._connections.values()):
        bench.made._receive(connection)  # nothing to read is no end
    assert list(bench.made._connections) == numbers
    pairs[0][1].sendall(frame({"op": "ping"}))
    pairs[1][1].sendall(frame(["no", "table"]))
    pairs[2][1].close()
    for connection in list(bench.made._connections.values()):
        bench.made._receive(connection)
    assert (list(bench.made._connections), closed) == (numbers[:1], numbers[1:])
    assert pairs[0][1].recv(1_000) == frame({"ok": True})
    assert capfd.readouterr().err.startswith("closing a connection: TypeError(")
    for ours, theirs in pairs:
        ours.close()
        theirs.close()


# --- rounds


@pytest.fixture
def agent(bench: Bench) -> Any:
    """Our end of a connection, and its."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        bench.made._connections[ours.fileno()] = _Connection(ours)
        bench.made._register(ours.fileno())
        yield bench.made._connections[ours.fileno()], theirs


STARTING = {"results": [{"state": "starting", "supervisor_pid": 4_711}]}


def ask(bench: Bench, agent: Any, *messages: dict[str, Any]) -> bytes:
    """What the agent has heard once its messages were taken."""
    connection, theirs = agent
    theirs.sendall(b"".join(map(frame, messages)))
    bench.made._receive(connection)
    try:
        return bytes(theirs.recv(10_000))
    except BlockingIOError:
        return b""


def test_that_a_member_was_given_away_is_told_with_its_like_at_the_end_of_the_round(
    bench: Bench, agent: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as still:
        still.setattr(room.time, "monotonic", lambda: 7.0)
        assert ask(bench, agent, {"op": "start", "requests": [REQUEST]}) == b""
    ends = bench.made._round_ends
    assert ends == 7.0 + room._ROUND_S
    assert ask(bench, agent, {"op": "start", "requests": [{**REQUEST, "rank": 3}]}) == b""
    assert bench.made._round_ends == ends, "a round is not made longer"
    bench.made._end_round()
    assert agent[1].recv(10_000) == frame(STARTING) * 2
    assert bench.made._round_ends == 0


def test_any_other_answer_is_told_at_once_behind_those_before_it(bench: Bench, agent: Any) -> None:
    assert ask(bench, agent, {"op": "start", "requests": [REQUEST]}) == b""
    already = {"results": [{"state": "already", "message": "att_1.2 was started before"}]}
    again = {"op": "start", "requests": [REQUEST]}
    assert ask(bench, agent, again) == frame(STARTING) + frame(already)
    assert ask(bench, agent, {"op": "start", "requests": [{**REQUEST, "rank": 3}]}, {"op": "ping"}) == (
        frame(STARTING) + frame({"ok": True})
    )


def test_news_of_a_round_are_calls_alone_and_of_supervisors_when_it_is_over(bench: Bench, agent: Any) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        bench.made._poll.register(ours.fileno(), select.POLLIN)
        theirs.sendall(b"idle")
        agent[1].sendall(b"call")
        bench.made._round_ends = time.monotonic() + 60
        assert [fd for fd, _ in bench.made._news()] == [agent[0].sock.fileno()]
        bench.made._round_ends = time.monotonic() - 1
        agent[0].owe({"ok": True})
        assert {fd for fd, _ in bench.made._news()} == {agent[0].sock.fileno(), ours.fileno()}
        assert agent[1].recv(100) == frame({"ok": True})


@pytest.mark.parametrize("idle", [0, 1, 2])
def test_supervisors_are_heard_before_a_start_that_lacks_idle_ones(bench: Bench, idle: int) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        bench.made._poll.register(ours.fileno(), select.POLLIN)
        theirs.sendall(b"idle")
        bench.pool.idle = idle
        bench.made._answer({"op": "start", "requests": [REQUEST, {**REQUEST, "rank": 3}]})
        assert bench.pool.news == [ours.fileno()] * (idle < 2)


def test_an_agent_that_is_gone_by_the_end_of_a_round_is_closed(bench: Bench, agent: Any) -> None:
    agent[0].owe({"ok": True})
    agent[1].close()
    bench.made._end_round()
    assert bench.made._connections == {}
