"""A step as its client sees it: the hosts are sockets that a test speaks over, and no process is started."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from bursar.steps import bridge, client, frames, names, records
from bursar.steps.client import FORWARDED, KILL_AFTER_S, Step
from bursar.steps.request import Member, Refused, Request
from bursar.steps.sinks import FULL_BYTES, LINE_BYTES_MAX, Lines, Sink
from bursar.steps.slots import Slots, _Asked, take_places

ENV = {
    names.MEMBER: "att_x.0@1f-2e",
    names.DIRECTORY: "/steps",
    names.NODE_NAMES: "n0,n1",
    "BURSAR_NODE_ADDRESSES": "10.0.0.0,10.0.0.1",
    "BURSAR_NODES": "2",
}


class Host:
    """The far end of one node's stream."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.client, self.own = socket.socketpair()
        self.own.setblocking(False)
        self.reader = frames.Reader()

    def heard(self) -> list[tuple[int, int, bytes]]:
        try:
            return list(self.reader.feed(self.own.recv(1 << 20)))
        except BlockingIOError:
            return []

    def say(self, *said: tuple[int, int, bytes]) -> None:
        self.own.sendall(b"".join(frames.encode(*one) for one in said))


class Bench:
    """Makes steps whose hosts, clock and output are at hand."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path) -> None:
        self.hosts: list[Host] = []
        self.forked: list[tuple[object, ...]] = []
        self.now_s = 100.0
        patch.chdir(folder)
        patch.setattr(client.host, "fork_host", lambda: self._host(0, "here"))
        patch.setattr(client.bridge, "fork_to_member", lambda *words: self._host(int(words[3]), *words))
        patch.setattr(client, "_may_read_stdin", lambda: self.stdin)
        patch.setattr(client.time, "monotonic", lambda: self.now_s)
        patch.setattr(client, "Sink", self._sink)
        self.stdin = False
        self.steps: list[Step] = []
        self.said: dict[int, bytearray] = {}

    def _host(self, rank: int, *words: object) -> socket.socket:
        self.forked.append(words)
        self.hosts.append(Host(rank))
        return self.hosts[-1].client

    def _sink(self, fd: int) -> Any:
        said = self.said.setdefault(fd, bytearray())

        class Noted(Sink):
            def put(self, data: bytes) -> None:
                said.extend(data)

        return Noted(fd)

    def step(self, **asked: Any) -> Step:
        env = {**ENV, **asked.pop("env", {})}
        self.steps.append(Step(Request(["a"], program="srun", **asked), env))
        return self.steps[-1]

    def close(self) -> None:
        """Give back what a process that ends would."""
        for host in self.hosts:
            host.client.close()
            host.own.close()
        for step in self.steps:
            os.close(step._signals)
            for fd in step._sinks:
                if fd > 2:
                    os.close(fd)

    def turn(self, made: Step, turns: int = 6) -> None:
        """What came in is heard, and what is to go goes."""
        for _ in range(turns):
            made._watch()
            for fd, event in made._poll.poll(0):
                made._on(fd, event)
            made._act_on_time(self.now_s)

    def out(self) -> str:
        return bytes(self.said[1]).decode()

    def err(self) -> str:
        return bytes(self.said[2]).decode()


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Bench]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    nothing = os.open(os.devnull, os.O_RDONLY)
    kept = os.dup(0)
    os.dup2(nothing, 0)
    made = Bench(monkeypatch, tmp_path)
    try:
        yield made
    finally:
        made.close()
        while signal.sigtimedwait(FORWARDED, 0) is not None:
            pass
        os.dup2(kept, 0)
        os.close(kept)
        os.close(nothing)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end(rank: int, code: int = 0, number: int = 0) -> tuple[int, int, bytes]:
    return (frames.EXIT, rank, bytes((code, number)))


DONE = (frames.DONE, 0, b"")


def test_each_node_is_told_its_tasks_and_the_first_that_nothing_comes_in(bench: Bench) -> None:
    made = bench.step(tasks=3)
    bench.turn(made)
    assert bench.forked == [("here",), ("/steps", "att_x", 0, 1)]
    told = [host.heard() for host in bench.hosts]
    specs = [json.loads(each[0][2]) for each in told]
    assert [(spec["ranks"], spec["stdin"], spec["node"], spec["argv"]) for spec in specs] == [
        ([0, 1], True, "n0", ["a"]),
        ([2], False, "n1", ["a"]),
    ]
    assert [[kind for kind, _, _ in each] for each in told] == [
        [frames.SPEC, frames.STDIN_END],
        [frames.SPEC],
    ]


def test_a_step_is_over_when_every_host_is_and_has_the_highest_code(bench: Bench) -> None:
    made = bench.step(tasks=3)
    bench.turn(made)
    bench.hosts[0].say((frames.OUT, 0, b"zero\n"), end(0, 3), end(1), DONE)
    bench.hosts[1].say((frames.ERR, 2, b"two\n"), end(2, 0, signal.SIGTERM), DONE)
    assert made.run() == 128 + signal.SIGTERM
    assert bench.out() == "zero\n"
    assert bench.err().splitlines() == [
        "srun: error: n0: task 0: Exited with exit code 3",
        "two",
        "srun: error: n1: task 2: Terminated",
    ]


def test_a_killed_task_is_said_to_be_killed_and_a_quiet_step_says_nothing(bench: Bench) -> None:
    made = bench.step(tasks=1)
    bench.hosts[0].say(end(0, 0, signal.SIGKILL), DONE)
    assert made.run() == 137
    assert bench.err() == "srun: error: n0: task 0: Killed\n"
    bench.said.clear()
    made = bench.step(tasks=1, quiet=True)
    bench.hosts[-1].say(end(0, 9), DONE)
    assert made.run() == 9
    assert bench.err() == ""


def test_a_bad_exit_ends_the_others_and_their_ends_count_no_more(bench: Bench) -> None:
    made = bench.step(tasks=3, kill_on_bad_exit=True)
    bench.turn(made)
    for host in bench.hosts:
        host.heard()
    bench.hosts[0].say(end(1, 4))
    bench.turn(made)
    assert [host.heard() for host in bench.hosts] == [[(frames.SIGNAL, signal.SIGTERM, b"")]] * 2
    assert made._timeout_ms() == int(KILL_AFTER_S * 1000) + 1
    bench.hosts[0].say(end(0, 0, signal.SIGTERM))
    bench.now_s += KILL_AFTER_S - 0.001
    bench.turn(made)
    assert [host.heard() for host in bench.hosts] == [[], []]
    bench.now_s += 0.001
    bench.turn(made)
    assert [host.heard() for host in bench.hosts] == [[(frames.SIGNAL, signal.SIGKILL, b"")]] * 2
    assert made._timeout_ms() is None
    bench.hosts[0].say(DONE)
    bench.hosts[1].say(end(2, 0, signal.SIGKILL), DONE)
    assert made.run() == 4
    assert bench.err() == "srun: error: n0: task 1: Exited with exit code 4\n"


def test_a_bad_exit_ends_nothing_when_nobody_asked_for_it(bench: Bench) -> None:
    made = bench.step(tasks=2)
    bench.turn(made)
    bench.hosts[0].heard()
    bench.hosts[0].say(end(0, 1))
    bench.turn(made)
    assert (bench.hosts[0].heard(), made._kill_at) == ([], None)


def test_some_time_after_the_first_end_the_others_are_ended(bench: Bench) -> None:
    made = bench.step(tasks=2, wait_s=60)
    bench.turn(made)
    assert made._timeout_ms() is None
    bench.hosts[0].say(end(0))
    bench.turn(made)
    assert made._end_at == 160.0
    bench.now_s = 110.0
    bench.hosts[0].heard()
    bench.hosts[1].heard()
    bench.now_s = 159.9
    bench.turn(made)
    assert bench.hosts[1].heard() == []
    bench.now_s = 160.0
    bench.turn(made)
    assert bench.hosts[1].heard() == [(frames.SIGNAL, signal.SIGTERM, b"")]
    assert bench.err() == "srun: error: ending the tasks that run 60 s after the first ended\n"
    bench.hosts[0].say(DONE)
    bench.hosts[1].say(end(1, 0, signal.SIGTERM), DONE)
    assert made.run() == 0


def test_when_all_have_ended_in_time_nobody_is_ended(bench: Bench) -> None:
    made = bench.step(tasks=2, wait_s=5)
    bench.hosts[0].say(end(0))
    bench.hosts[1].say(end(1))
    bench.turn(made)
    bench.now_s += 5
    bench.turn(made)
    assert (bench.err(), made._kill_at, made._end_at) == ("", None, None)


def test_a_step_ends_at_its_limit(bench: Bench) -> None:
    made = bench.step(tasks=1, time_s=30)
    bench.turn(made)
    bench.hosts[0].heard()
    bench.now_s += 29.9
    bench.turn(made)
    assert bench.hosts[0].heard() == []
    bench.now_s = 130.0
    bench.turn(made)
    assert bench.hosts[0].heard() == [(frames.SIGNAL, signal.SIGTERM, b"")]
    bench.hosts[0].say(end(0), DONE)
    assert made.run() == 128 + signal.SIGTERM
    assert bench.err() == "srun: error: ended at its time limit\n"


def test_a_host_that_is_lost_is_the_end_of_its_tasks_and_of_the_step(bench: Bench) -> None:
    made = bench.step(tasks=3)
    bench.turn(made)
    for host in bench.hosts:
        host.heard()
    bench.hosts[0].own.close()
    bench.turn(made)
    assert bench.err() == "srun: error: n0: lost; its tasks 0-1 are killed\n"
    assert bench.hosts[1].heard() == [(frames.SIGNAL, signal.SIGTERM, b"")]
    bench.hosts[1].say(end(2, 0, signal.SIGTERM), DONE)
    assert made.run() == 137


def test_a_way_that_is_gone_says_why_and_a_host_that_had_nothing_left_is_no_loss(bench: Bench) -> None:
    made = bench.step(tasks=2)
    bench.hosts[1].say((bridge.GONE, 0, b"no way"))
    bench.hosts[0].say(end(0))
    bench.turn(made)
    bench.hosts[0].own.close()
    assert made.run() == 137
    assert bench.err() == "srun: error: no way\n"


@pytest.mark.parametrize("last", [(end(1), DONE), (end(1),)], ids=["done", "not said to be done"])
def test_a_way_that_closes_behind_what_has_ended_is_no_error(bench: Bench, last: Any) -> None:
    made = bench.step(tasks=2)
    bench.hosts[1].say(*last, (bridge.GONE, 0, b"the other end has ended"))
    bench.hosts[0].say(end(0), DONE)
    assert made.run() == 0
    assert bench.err() == ""


@pytest.mark.parametrize(("sender", "supervisor"), [("bursar-attempt", True), ("bash", False)])
def test_a_signal_goes_to_all_tasks_but_for_those_the_supervisor_has_told(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, sender: str, supervisor: bool
) -> None:
    made = bench.step(tasks=2)
    bench.turn(made)
    for host in bench.hosts:
        host.heard()
    real = open

    def comm(path: Any, *words: Any) -> Any:
        return real(bench_comm if path == "/proc/4711/comm" else path, *words)

    bench_comm = Path("comm").resolve()
    bench_comm.write_text(sender + "\n")
    monkeypatch.setattr(client, "open", comm, raising=False)
    for number in (signal.SIGUSR1, signal.SIGTERM):
        made._forward(number, 4711)
        bench.turn(made, 1)
        here = there = [(frames.SIGNAL, int(number), b"")]
        if supervisor and number != signal.SIGTERM:
            there = [(frames.SIGNAL, number | frames.HEEDED, b"")]
            here = [(frames.SIGNAL, number | frames.HEEDED | frames.LATE, b"")]
        assert [host.heard() for host in bench.hosts] == [here, there]
    made._forward(signal.SIGINT, 2**22 + 1)
    bench.turn(made, 1)
    assert [host.heard() for host in bench.hosts] == [[(frames.SIGNAL, signal.SIGINT, b"")]] * 2


def test_signals_that_are_passed_on_wait_for_the_step(bench: Bench) -> None:
    made = bench.step(tasks=1)
    assert (
        tuple(
            signal.Signals[f"SIG{name}"]
            for name in ("HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "ALRM", "CONT")
        )
        == FORWARDED
    )
    signal.pthread_kill(threading.get_ident(), signal.SIGUSR2)  # other threads have it open
    bench.turn(made)
    assert bench.hosts[0].heard()[-1] == (frames.SIGNAL, signal.SIGUSR2, b"")


def test_input_goes_to_the_first_task_as_far_as_it_takes_it(bench: Bench) -> None:
    bench.stdin = True
    reading, writing = os.pipe()
    os.dup2(reading, 0)
    os.close(reading)
    made = bench.step(tasks=2)
    os.write(writing, b"abc")
    bench.turn(made)
    heard = bench.hosts[0].heard()
    assert [kind for kind, _, _ in heard] == [frames.SPEC, frames.STDIN]
    assert heard[1] == (frames.STDIN, 0, b"abc")
    assert made._room() == frames.INPUT_BYTES_MAX - 3
    bench.hosts[0].say((frames.CREDIT, 3, b""))
    bench.turn(made)
    assert made._room() == frames.INPUT_BYTES_MAX
    os.close(writing)
    bench.turn(made)
    assert bench.hosts[0].heard() == [(frames.STDIN_END, 0, b"")]
    assert made._room() == 0
    bench.hosts[0].say((frames.CREDIT, 3, b""))
    bench.turn(made)
    assert made._room() == 0
    assert [kind for kind, _, _ in bench.hosts[1].heard()] == [frames.SPEC]


def test_input_of_srun_goes_to_the_tasks_of_every_node_as_far_as_all_take_it(bench: Bench) -> None:
    bench.stdin = True
    reading, writing = os.pipe()
    os.dup2(reading, 0)
    os.close(reading)
    made = bench.step(tasks=2, broadcast=True)
    os.write(writing, b"abc")
    bench.turn(made)
    for host in bench.hosts:
        (_, _, told), heard = host.heard()
        assert (json.loads(told)["stdin"], heard) == (frames.TO_ALL, (frames.STDIN, 0, b"abc"))
    bench.hosts[0].say((frames.CREDIT, 3, b""))
    bench.turn(made)
    assert made._room() == frames.INPUT_BYTES_MAX - 3  # the other has not taken it
    bench.hosts[1].say((frames.CREDIT, 2, b""))
    bench.turn(made)
    assert made._room() == frames.INPUT_BYTES_MAX - 1
    os.close(writing)
    bench.turn(made)
    assert [host.heard() for host in bench.hosts] == [[(frames.STDIN_END, 0, b"")]] * 2
    assert made._room() == 0


def test_a_node_whose_tasks_have_ended_keeps_nobody_from_input(bench: Bench) -> None:
    bench.stdin = True
    made = bench.step(tasks=2, broadcast=True)
    made._nodes[next(iter(made._nodes))].input_left = 0
    assert made._room() == 0
    bench.hosts[0].say(end(0))
    bench.turn(made, 1)
    assert made._room() == frames.INPUT_BYTES_MAX


def test_input_is_read_no_more_once_its_task_has_ended(bench: Bench) -> None:
    bench.stdin = True
    made = bench.step(tasks=2)
    bench.hosts[0].say(end(0))
    bench.turn(made, 1)
    made._read_stdin()
    assert made._room() == 0


def test_a_step_with_an_input_of_its_own_reads_none(bench: Bench) -> None:
    bench.stdin = True
    made = bench.step(tasks=1, input="none")
    bench.turn(made)
    ((kind, _, body),) = bench.hosts[0].heard()
    assert (kind, json.loads(body)["stdin"], made._room()) == (frames.SPEC, False, 0)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"tasks": 1}, "a0b"),
        ({"tasks": 2}, "a0b\na1\n"),
        ({"tasks": 2, "unbuffered": True}, "a0a1\nb"),
        ({"tasks": 1, "label": True}, "0: a0b"),
        ({"tasks": 11, "label": True}, " 0: a0b\n 1: a1\n"),
    ],
)
def test_lines_of_tasks_are_kept_whole_and_labelled(bench: Bench, asked: dict[str, Any], found: str) -> None:
    made = bench.step(**asked)
    made._out.take(0, b"a0")
    made._out.take(1, b"a1\n") if asked["tasks"] > 1 else None
    made._out.take(0, b"b")
    made._out.end(0)
    assert sorted(bench.out().splitlines()) == sorted(found.splitlines())


@pytest.mark.parametrize("append", [False, True])
def test_a_file_of_the_whole_step_is_written_here_and_its_errors_with_it(bench: Bench, append: bool) -> None:
    Path("out_7").write_text("before\n")
    made = bench.step(tasks=1, output="out_%j", append=append, env={"SLURM_JOB_ID": "7"})
    assert made._request.output == made._request.error == ""
    out = next(fd for fd in made._sinks if fd != 2)
    assert made._err._sink is made._out._sink is made._sinks[out]
    assert set(made._sinks) == {2, out}
    assert Path("out_7").read_text() == ("before\n" if append else "")
    made = bench.step(tasks=1, output="o", error="e")
    assert made._out._sink is not made._err._sink
    assert len(made._sinks) == 3


def test_files_of_tasks_are_opened_where_they_run(bench: Bench) -> None:
    made = bench.step(tasks=1, output="out_%t")
    assert (made._request.output, made._request.error) == ("out_%t", "out_%t")
    assert set(made._sinks) == {1, 2}
    assert not list(Path().iterdir())
    made = bench.step(tasks=1, output="none", error="e_%n")
    assert (made._request.output, made._request.error) == ("none", "e_%n")


def test_a_file_that_cannot_be_opened_refuses_the_step(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    request = Request(["a"], program="srun", output="no/such")
    assert client.run(request, ENV) == 1
    assert capsys.readouterr().err == "srun: error: --output no/such: No such file or directory\n"
    assert client.run(Request(["a"], program="srun", nodes=5), ENV) == 2


@pytest.mark.parametrize(
    ("ends", "asked", "told"),
    [
        ([(0, 0), (0, 0)], {}, ("completed", 0, 0, None)),
        ([(3, 0), (0, 0)], {}, ("failed", 3, 0, 0)),
        ([(0, 0), (0, 11)], {}, ("failed", -1, 11, 1)),
        ([(0, 0), (143, 0)], {"signal": signal.SIGTERM}, ("cancelled", 143, 0, 1)),
        ([(0, 0), (143, 0)], {"late": True}, ("time_limit", 143, 0, 1)),
    ],
)
def test_the_record_of_a_step_says_how_it_ended(
    bench: Bench, tmp_path: Path, ends: list[tuple[int, int]], asked: dict[str, Any], told: tuple[Any, ...]
) -> None:
    env = {records.VARIABLE: f"{tmp_path}/progress"}
    made = bench.step(tasks=2, nodes=1, recorded=True, time_s=5, env=env)
    bench.turn(made)
    if "signal" in asked:
        made._forward(asked["signal"], os.getpid())
    if "late" in asked:
        made._limit_at = 0.0
        made._say = lambda text: None  # type: ignore[method-assign]
        made._end_state = records.TIME_LIMIT
    for rank, (code, number) in enumerate(ends):
        bench.hosts[0].say((frames.EXIT, rank, bytes((code, number))))
    bench.hosts[0].say((frames.DONE, 0, b""))
    made.run()
    (one,) = records.read((tmp_path / records.FILE).read_bytes())
    assert (one.state, one.exit_code, one.signal, one.rank) == told
    assert (one.name, one.tasks, one.nodes) == ("a", 2, 1)


def test_a_step_that_cannot_be_is_recorded_as_one_that_failed(bench: Bench, tmp_path: Path) -> None:
    env = {**ENV, records.VARIABLE: f"{tmp_path}/progress"}
    assert client.run(Request(["a"], program="srun", nodes=5, recorded=True), env) == 2
    assert client.run(Request(["a"], program="bursar-rsh", nodes=5), env) == 2
    (one,) = records.read((tmp_path / records.FILE).read_bytes())
    assert (one.state, one.exit_code) == ("failed", 2)


def test_nobody_reads_the_output_so_all_is_killed(bench: Bench) -> None:
    made = bench.step(tasks=2)
    bench.turn(made)
    for host in bench.hosts:
        host.heard()
    made._sinks[1].flush = lambda: False  # type: ignore[method-assign]
    made._on(1, 4)
    bench.turn(made)
    assert [host.heard() for host in bench.hosts] == [[(frames.SIGNAL, signal.SIGKILL, b"")]] * 2
    for rank, host in enumerate(bench.hosts):
        host.say(end(rank, 0, signal.SIGKILL), DONE)
    assert made.run() == 128 + signal.SIGPIPE
    assert bench.err() == ""


# --- sinks


def test_a_sink_writes_what_its_reader_has_room_for_and_keeps_the_rest() -> None:
    reading, writing = os.pipe()
    sink = Sink(writing)
    assert (sink.waits, sink.full) == (False, False)
    data = bytes(range(256)) * (FULL_BYTES // 256)
    sink.put(data[:-1])
    assert (sink.waits, sink.full) == (True, False)
    sink.put(data[-1:])
    assert sink.full
    found = b""
    while sink.waits:
        assert sink.flush()
        found += os.read(reading, 1 << 20)
    assert found == data
    assert os.get_blocking(writing)  # others hold it too
    os.close(reading)
    sink.put(b"x")
    assert not sink.flush()
    assert not sink.waits
    sink.put(b"y")
    assert not sink.waits
    os.close(writing)


def test_what_cannot_be_written_to_takes_nothing() -> None:
    sink = Sink(987)
    sink.put(b"x")
    assert not sink.waits


def test_a_file_takes_all_at_once(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "f", os.O_WRONLY | os.O_CREAT)
    sink = Sink(fd)
    sink.put(b"x" * 100_000)
    assert sink.flush()
    assert (tmp_path / "f").read_bytes() == b"x" * 100_000
    os.close(fd)


class Kept:
    def __init__(self) -> None:
        self.data = b""

    def put(self, data: bytes) -> None:
        self.data += data


def test_a_line_without_end_is_written_in_pieces_and_at_the_end_of_its_task() -> None:
    kept = Kept()
    lines = Lines(kept, whole=True, width=3)  # type: ignore[arg-type]
    lines.take(7, b"x" * (LINE_BYTES_MAX - 1))
    assert kept.data == b""
    lines.take(7, b"x")
    assert kept.data == b"  7: " + b"x" * LINE_BYTES_MAX
    kept.data = b""
    lines.take(7, b"a\nb\nc")
    assert kept.data == b"  7: a\n  7: b\n"
    lines.end(7)
    lines.end(7)
    lines.end(8)
    assert kept.data == b"  7: a\n  7: b\n  7: c"


# --- CPUs that steps share

THREE = [Member(rank, f"n{rank}", "") for rank in range(3)]


def slots(folder: Path, sizes: str = "2(x2),1") -> Slots:
    return Slots({"SLURM_TMPDIR": str(folder), "SLURM_JOB_CPUS_PER_NODE": sizes})


def taken(made: Slots, **asked: Any) -> dict[int, list[int]]:
    request = Request(["a"], **asked)
    named = [one for one in THREE if one.name in request.node] or THREE
    found = made._try(_Asked(request, named, request.tasks or request.nodes or 1))
    return {place.member.rank: place.ranks for place in found}


def test_steps_take_cpus_that_no_other_has(tmp_path: Path) -> None:
    made = slots(tmp_path)
    assert taken(made) == {0: [0]}
    assert taken(made, tasks=2) == {0: [0], 1: [1]}
    assert taken(made, tasks=3) == {}
    assert taken(made, tasks=2, node=["n1", "n2"]) == {1: [0], 2: [1]}
    assert taken(made) == {}


def test_tasks_of_several_cpus_get_them_on_one_node(tmp_path: Path) -> None:
    made = slots(tmp_path)
    assert taken(made, tasks=1, cpus_per_task=2, node=["n1"]) == {1: [0]}
    assert taken(made, tasks=1, cpus_per_task=2, node=["n2"]) == {}
    assert taken(made, tasks=2, cpus_per_task=1, node=["n0", "n2"], tasks_per_node=1) == {0: [0], 2: [1]}


def test_a_step_on_so_many_nodes_gets_a_part_on_each_or_none(tmp_path: Path) -> None:
    made = slots(tmp_path)
    assert taken(made, tasks=3, nodes=2) == {0: [0, 1], 1: [2]}
    assert taken(made, tasks=2, nodes=2) == {1: [0], 2: [1]}
    assert taken(slots(tmp_path / "other"), nodes=3) == {0: [0], 1: [1], 2: [2]}


def test_a_step_that_can_never_be_is_refused_and_one_that_can_is_taken(tmp_path: Path) -> None:
    made = slots(tmp_path)
    with pytest.raises(Refused, match="--exclusive: 6 tasks of 1 CPU, more than this job has"):
        made.take(Request(["a"], tasks=6), THREE)
    with pytest.raises(Refused, match="--exclusive: 4 tasks of 1 CPU"):
        made.take(Request(["a"], nodes=2, tasks_per_node=2, node=["n0", "n2"]), THREE)
    with pytest.raises(Refused, match="--exclusive: 1 task of 2 CPUs"):
        made.take(Request(["a"], cpus_per_task=2, node=["n2"]), THREE)
    for never in ({"cpus_per_task": 2}, {"nodes": 1}, {"nodes": 3, "cpus_per_task": 2}):
        with pytest.raises(Refused, match=f"--exclusive: 3 tasks of {never.get('cpus_per_task', 1)} CPU"):
            made.take(Request(["a"], tasks=3, **never), THREE)
    places = made.take(Request(["a"], tasks=5), THREE)
    assert {place.member.rank: place.ranks for place in places} == {0: [0, 1], 1: [2, 3], 2: [4]}


def test_a_step_waits_until_another_has_given_its_cpus_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = slots(tmp_path, "1")
    first = [*made._lock(0, 1, 1, "").values()]
    slept: list[float] = []

    def give_back(seconds: float) -> None:
        slept.append(seconds)
        os.close(first[0])

    monkeypatch.setattr("bursar.steps.slots.time.sleep", give_back)
    assert len(made.take(Request(["a"]), THREE)) == 1
    assert slept == [0.1]


def test_without_a_directory_there_is_nothing_to_share() -> None:
    with pytest.raises(
        Refused, match=f"steps share no CPUs and GPUs: /proc/.bursar-cpus: {os.strerror(errno.ENOENT)}"
    ):
        Slots({"SLURM_TMPDIR": "/proc"})


# --- GPUs that steps have for themselves


def of_gpus(folder: Path, gpus: str = "2") -> dict[str, str]:
    cpus = {"SLURM_TMPDIR": str(folder), "SLURM_JOB_CPUS_PER_NODE": "4(x3)"}
    return {**cpus, "BURSAR_GPUS": gpus}


def devices(env: Mapping[str, str], **asked: Any) -> list[tuple[int, list[int], list[int] | None]]:
    found = take_places(Request(["a"], quiet=True, **asked), env, THREE)
    return [(place.member.rank, place.ranks, place.gpus) for place in found]


@pytest.mark.parametrize("exclusive", [False, True])
def test_steps_that_name_gpus_have_them_for_themselves(tmp_path: Path, exclusive: bool) -> None:
    env, one = (
        of_gpus(tmp_path),
        {"tasks": 1, "gpus_per_task": 1, "gpu_claim": "wait", "exclusive": exclusive},
    )
    assert devices(env, node=["n0"], **one) == [(0, [0], [0])]
    assert devices(env, node=["n0"], **one) == [(0, [0], [1])]
    assert devices(env, node=["n1"], **one) == [(1, [0], [0])]
    assert devices(env, node=["n2"], **{**one, "tasks": 2}) == [(2, [0, 1], [0, 1])]


def test_an_exclusive_step_goes_to_where_gpus_are_free(tmp_path: Path) -> None:
    env, asked = of_gpus(tmp_path), {"gpus_per_task": 1, "gpu_claim": "wait", "exclusive": True}
    assert devices(env, tasks=3, **asked) == [(0, [0, 1], [0, 1]), (1, [2], [0])]
    assert devices(env, tasks=1, gpus_per_node=2, gpu_claim="wait", exclusive=True) == [(2, [0], [0, 1])]
    assert devices(env, tasks=1, **asked) == [(1, [0], [1])]
    with pytest.raises(Refused, match="--exclusive: 7 tasks of 1 CPU and 1 GPU, more than this job has"):
        devices(env, tasks=7, **asked)
    with pytest.raises(Refused, match="--exclusive: 1 task of 1 CPU and 3 GPUs, more than this job has"):
        devices(env, tasks=1, gpus_per_node=3, gpu_claim="wait", exclusive=True)


def test_a_step_whose_gpus_others_have_waits_or_shares_as_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    env = of_gpus(tmp_path, "1")
    first = [*Slots(env)._lock(0, 1, 1, "gpu").values()]
    asked = {"tasks": 1, "nodes": 1, "gpus_per_task": 1}
    assert devices(env, **asked) == [(0, [0], None)]
    assert devices(env, gpu_claim="free", **asked) == [(0, [0], None)]
    monkeypatch.setattr("bursar.steps.slots.time.sleep", lambda _: os.close(first.pop()))
    found = take_places(Request(["a"], program="srun", gpu_claim="wait", **asked), env, THREE)
    assert (found[0].gpus, first) == ([0], [])
    assert capsys.readouterr().err == (
        "srun: other steps of this job have its GPUs; waiting until they are free (--overlap shares them)\n"
    )


def test_a_job_that_says_otherwise_what_it_holds_shares_its_gpus(tmp_path: Path) -> None:
    env = of_gpus(tmp_path, "many")
    asked = {"tasks": 1, "gpus_per_task": 1, "gpu_claim": "wait"}
    assert devices(env, **asked) == devices(env, exclusive=True, **asked) == [(0, [0], None)]
