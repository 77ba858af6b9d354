"""What `bursar up` wants word by word, and in which order `bursar down` ends it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bursar.aside import Damaged
from bursar.cli import local
from bursar.cli.main import run
from bursar.errors import BursarError, ServerUnavailable, StoreUnavailable
from bursar.local import cluster as room
from bursar.local import files, processes, stopping, waiting
from bursar.local.child import STOP_S
from bursar.local.cluster import LocalCluster
from bursar.local.files import ChildSpec, Desired, Kept
from bursar.local.processes import Glance, Process
from bursar.v1 import types_pb2


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalCluster:
    monkeypatch.setattr(room, "machine", lambda: (8, 64_000))
    monkeypatch.setattr(room, "shipped_policies", lambda: "/shipped")
    made = LocalCluster(tmp_path / "s")
    with made.starting():
        made.prepare()
    return made


def test_each_agent_gets_its_part_of_the_machine(made: LocalCluster) -> None:
    wish = made.desire(3, None, "H100:2")
    home, run = made.directory, made.directory / "run"
    python = (sys.executable, "-P", "-m")
    daemon, *agents = wish.children
    assert daemon == ChildSpec(
        "daemon", "bursard", str(home / "daemon"),
        (*python, "bursard", "--state-dir", str(home / "daemon"), "--socket-dir", str(run),
         "--policies", "/shipped"),
    )  # fmt: skip
    assert [agent.name for agent in agents] == ["local-1", "local-2", "local-3"]
    folder = str(home / "agents/local-2")
    assert agents[1] == ChildSpec(
        "local-2", "bursar_agent", folder,
        (*python, "bursar_agent", "--state-dir", folder, "--server", f"unix://{run}/bursar.sock",
         "--name", "local-2", "--pool", "local", "--cpus", "2", "--memory-bytes", "21333",
         "--simulate-gpus", "H100:2"),
    )  # fmt: skip
    assert (wish.server, wish.state_dir, wish.run_dir) == (f"unix://{run}/bursar.sock", str(home), str(run))
    assert (wish.agents, wish.policies, wish.simulate_gpus) == (3, "", "H100:2")


def test_pages_are_a_child_beside_the_agents_until_they_are_taken_back(made: LocalCluster) -> None:
    wish = made.desire(1, None, None, "127.0.0.1:7480")
    folder = str(made.directory / "web")
    assert wish.children[2] == ChildSpec(
        "web", "bursar_web", folder,
        (sys.executable, "-P", "-m", "bursar_web", "--state-dir", folder, "--server", wish.server,
         "--listen", "127.0.0.1:7480"),
    )  # fmt: skip
    files.write_json(made.directory / files.DESIRED, wish.to_json())
    assert made.desire(None, None, None) == wish
    without = made.desire(None, None, None, "")
    assert [child.name for child in without.children] == ["daemon", "local-1"]
    assert (wish.agent_names, without.http) == (("local-1",), "")


def test_a_gateway_is_a_child_too_until_it_is_taken_back(made: LocalCluster) -> None:
    wish = made.desire(1, None, None, None, None, "127.0.0.1:7481")
    folder = str(made.directory / "gateway")
    assert wish.children[2] == ChildSpec(
        "gateway", "bursar_gateway", folder,
        (sys.executable, "-P", "-m", "bursar_gateway", "--state-dir", folder, "--server", wish.server,
         "--listen", "127.0.0.1:7481"),
    )  # fmt: skip
    files.write_json(made.directory / files.DESIRED, wish.to_json())
    assert made.desire(None, None, None) == wish
    assert [one.name for one in made.desire(None, None, None, gateway="").children] == ["daemon", "local-1"]


def test_all_that_is_kept_is_found_by_its_command_line(
    made: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has no notes must miss nobody: what is missed goes on, and is in the way of the next."""
    children = made.desire(2, "", "", "127.0.0.1:7480", None, "127.0.0.1:7481").children
    lines = list(enumerate(([*child.command] for child in children), 1_000))
    lines += [(2_000, ["python", "-m", child.module]) for child in children]  # of no directory
    lines.append((3_000, ["python", "-m", "bursar_agent", "--state-dir", "x"]))
    monkeypatch.setattr(processes, "_command_lines", lambda: lines)
    monkeypatch.setattr(processes, "noted", lambda pid: Process(pid, 1))
    monkeypatch.chdir(made.directory)
    found = {one.name: one.process.pid for one in processes.running_below(str(made.directory))}
    assert found == {child.name: 1_000 + number for number, child in enumerate(children)}
    assert found.keys() == {"daemon", "local-1", "local-2", "web", "gateway"}


def test_what_is_not_said_is_as_it_was_the_last_time(made: LocalCluster) -> None:
    assert made.desire(None, None, None).agents == 1
    (made.directory / "agents/local-2").mkdir(parents=True)
    (made.directory / "agents/local-x").mkdir()
    assert made.desire(None, None, None).agents == 2
    first = made.desire(9, "/own", "L4:1")
    assert [word for child in first.children for word in child.command if word == "1"] == ["1"] * 9
    files.write_json(made.directory / files.DESIRED, first.to_json())
    assert made.desire(None, None, None) == first
    assert made.desire(None, None, "").simulate_gpus == ""
    assert made.desire(2, "/other", None).policies == "/other"


@pytest.mark.parametrize("place", ["policies/catalog", "site-packages/bursar_policies/catalog"])
def test_a_shipped_catalogue_that_has_moved_is_looked_for_where_it_is_now(
    made: LocalCluster, tmp_path: Path, place: str
) -> None:
    moved = tmp_path / place
    files.write_json(made.directory / files.DESIRED, made.desire(1, str(moved), "").to_json())
    again = made.desire(None, None, None)
    assert (again.policies, again.children[0].command[-1]) == ("", "/shipped")
    moved.mkdir(parents=True)
    again = made.desire(None, None, None)
    assert (again.policies, again.children[0].command[-1]) == (str(moved), str(moved))


def test_a_socket_whose_path_is_too_long_lies_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = LocalCluster(Path("/x"))
    assert short._run_path() == Path("/x/run")
    edge = room.address.SOCKET_PATH_MAX - len("/run/bursar.sock")
    assert LocalCluster(Path("/" + "x" * (edge - 1)))._run_path().name == "run"
    long = LocalCluster(Path("/" + "x" * edge))
    digest = hashlib.sha256(os.fsencode(long.directory)).hexdigest()[:12]
    name = f"bursar-{os.getuid()}-{digest}"
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    assert long._run_path() == Path("/tmp") / name
    runtime = Path("/tmp") / f"r{os.getpid()}"
    runtime.mkdir()
    try:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
        assert long._run_path() == runtime / name
        monkeypatch.setenv("XDG_RUNTIME_DIR", "/no/such")
        assert long._run_path() == Path("/tmp") / name
        monkeypatch.setenv("XDG_RUNTIME_DIR", "/tmp/" + "y" * 60)
        assert long._run_path() == Path("/tmp") / name
    finally:
        runtime.rmdir()


def test_down_leaves_nothing_of_sockets_that_lie_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "")
    made = LocalCluster(tmp_path / ("d" * 120))
    made.directory.mkdir()
    elsewhere = made.run_directory()
    assert elsewhere.parent == Path("/tmp")
    (elsewhere / "socket.lock").touch()
    assert not local._stop(made)
    assert not elsewhere.exists()
    inside = LocalCluster(tmp_path / "d")
    kept = inside.run_directory()
    inside.forget_sockets()
    assert kept.is_dir() or len(str(tmp_path)) > 80


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (b"x\xff", "is not UTF-8 text"),
        (b"/".join([b"d" * 200] * 10), "at most 400 leave SQLite room"),
    ],
)
def test_a_name_that_no_books_could_be_kept_under_is_refused_before_anything_is_made(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: bytes,
    problem: str,
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    directory = os.fsdecode(os.fsencode(tmp_path) + b"/" + name)
    assert run(["up", "--detach", "--state-dir", directory]) == 2
    assert problem in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_status_shows_no_controls_of_a_damaged_note_and_asks_nobody_without_an_address(
    tmp_path: Path,
) -> None:
    row = local.read_status(LocalCluster(tmp_path))
    assert local._ask("", row["daemon"]) == {}
    row |= {"server": "unix:///\x1b[2Jx", "daemon": {**row["daemon"], "pid": 7}}
    assert "server     unix:///\\x1b[2Jx" in local._status_text(row)
    assert "\x1b" not in local._status_text(row)


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EACCES, "open it to yourself: chmod -R u+rwX DIR, or "),
        (errno.EPERM, "open it to yourself: chmod -R u+rwX DIR, or "),
        (errno.ENOSPC, "make room, or "),
        (errno.EROFS, ""),
    ],
)
def test_a_directory_that_cannot_be_written_says_what_mends_it(
    made: LocalCluster, number: int, remedy: str
) -> None:
    found = made._unwritable(OSError(number, os.strerror(number)))
    assert isinstance(found, StoreUnavailable)
    assert found.message == (
        f"the state directory {made.directory} cannot be written: {os.strerror(number)};"
        f" {remedy.replace('DIR', str(made.directory))}give another one with --state-dir"
    )


def test_agents_are_those_that_are_noted_or_that_have_a_directory(made: LocalCluster) -> None:
    assert made.agent_names() == []
    for name in ("local-10", "local-2", "other"):
        (made.directory / "agents" / name).mkdir()
    assert made.agent_names() == ["local-2", "local-10"]
    note(made, Kept(made.desire(3, None, None)))
    assert made.agent_names() == ["local-1", "local-2", "local-3"]


def note(made: LocalCluster, kept: Kept) -> None:
    files.write_json(made.directory / files.CLUSTER, kept.to_json())


def test_a_log_is_told_in_words_where_it_is_a_record() -> None:
    record = {"at": "12:00", "level": "error", "event": "no", "logger": "x", "node": "n1", "n": 2}
    assert waiting._readable(json.dumps(record)) == "12:00 error: no node=n1 n=2"
    for line in ("plain", "[]", "{}", '{"at": 1}', "1", "[" * 100_000):
        assert waiting._readable(line) == line


# --- waiting until it is ready


@pytest.fixture
def starting(made: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> waiting.Start:
    """Of a keeper that lives, of this process's making."""
    monkeypatch.setattr(processes, "alive", lambda process: process is not None and process.pid == 7)
    made.spawned = SimpleNamespace(pid=7, poll=lambda: None)  # type: ignore[assignment]
    return waiting.Start(made, made.desire(1, None, None), print)


def failures(made: LocalCluster, keeper: int = 7, **counts: int) -> None:
    note(made, Kept(made.desire(1, None, None), Process(keeper, 1), failures=counts))


def test_a_start_that_takes_its_time_is_waited_for(made: LocalCluster, starting: waiting.Start) -> None:
    failures(made, daemon=waiting.FAILURES_MAX - 1)
    assert starting._check() == made.kept()


@pytest.mark.parametrize(
    ("counts", "name"),
    [({"daemon": waiting.FAILURES_MAX}, "daemon"), ({"local-1": waiting.FAILURES_MAX}, "local-1")],
)
def test_what_keeps_failing_ends_the_start_with_its_log(
    made: LocalCluster, starting: waiting.Start, counts: dict[str, int], name: str
) -> None:
    made.log(name).write_text("No module named 'grpc'\n")
    failures(made, **counts)
    with pytest.raises(ServerUnavailable) as caught:
        starting._check()
    extra = "agent" if name == "local-1" else "daemon"
    assert caught.value.message == (
        f"the cluster did not start: the {name} keeps failing; a module is missing: pip install"
        f" 'bursar[{extra}]'\n  No module named 'grpc'"
    )


def test_pages_or_a_gateway_that_do_not_start_end_nobody_else(
    made: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are told of once all else is there, and are tried again meanwhile."""
    desired = made.desire(1, None, None, "127.0.0.1:7480", None, "127.0.0.1:7481")
    monkeypatch.setattr(processes, "alive", lambda process: process is not None and process.pid == 7)
    made.spawned = SimpleNamespace(pid=7, poll=lambda: None)  # type: ignore[assignment]
    starting = waiting.Start(made, desired, print)
    made.log("web").write_text("Traceback (most recent call last):\n")
    made.log("gateway").write_text("bursar-gateway: cannot listen at 127.0.0.1:7481: taken; choose another\n")
    note(made, Kept(desired, Process(7, 1), failures={"web": waiting.FAILURES_MAX, "gateway": 1}))
    monkeypatch.setattr(starting, "_listens", lambda: str(starting._check() and ""))
    monkeypatch.setattr(starting, "_connected", lambda: starting._unserved())
    assert starting.wait() == (
        f"the web does not start: the web keeps failing; see {made.log('web')}\n"
        "  Traceback (most recent call last):; the gateway does not start:"
        f" cannot listen at 127.0.0.1:7481: taken; choose another\n  so says {made.log('gateway')}"
    )
    note(made, Kept(desired, Process(7, 1), failures={"daemon": waiting.FAILURES_MAX}))
    with pytest.raises(ServerUnavailable, match="the daemon keeps failing"):
        starting._check()


def test_failures_of_before_and_of_another_keeper_do_not_count(
    made: LocalCluster, starting: waiting.Start
) -> None:
    failures(made, daemon=waiting.FAILURES_MAX + 1)
    made.failures_before = {"daemon": 2}
    starting._check()
    made.failures_before = {}
    failures(made, keeper=8, daemon=99)
    starting._check()
    made.spawned = None
    failures(made, daemon=waiting.FAILURES_MAX)
    with pytest.raises(ServerUnavailable, match="the daemon keeps failing"):
        starting._check()


def test_a_start_whose_keeper_ended_is_given_up(made: LocalCluster, starting: waiting.Start) -> None:
    failures(made, keeper=8)
    starting._check()
    made.spawned = SimpleNamespace(pid=7, poll=lambda: 1)  # type: ignore[assignment]
    with pytest.raises(ServerUnavailable) as caught:
        starting._check()
    log = made.log("keeper")
    assert caught.value.message == f"the cluster did not start: the keeper ended; see {log}"


def test_the_last_lines_of_a_log_are_shown(made: LocalCluster) -> None:
    log = made.log("daemon")
    log.write_text("".join(f"line {number}\n" for number in range(20)))
    assert waiting._last_lines(log) == [f"line {number}" for number in range(8, 20)]
    assert waiting._last_lines(made.log("none")) == []


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[int, Glance]:
    """What /proc tells of each process."""
    found: dict[int, Glance] = {}
    monkeypatch.setattr(processes, "glance", found.get)
    return found


def test_a_daemon_is_waited_for_while_it_works(seen: dict[int, Glance]) -> None:
    daemon, patience = Process(5, 1), waiting.Patience(0.0)
    for ticks in range(10):
        seen[5] = Glance("R", 1, ticks)
        assert patience.look(daemon, 50.0 * ticks)
    assert patience.look(daemon, 450.0 + waiting.READY_S)
    assert not patience.look(daemon, 450.1 + waiting.READY_S)


@pytest.mark.parametrize("daemon", [None, Process(5, 1)])
def test_a_daemon_that_is_not_there_is_not_waited_for(
    seen: dict[int, Glance], daemon: Process | None
) -> None:
    seen[5] = Glance("R", 2, 7)  # another process has the number now
    patience = waiting.Patience(1.0)
    assert patience.look(daemon, 1.0 + waiting.READY_S)
    assert not patience.look(daemon, 1.1 + waiting.READY_S)


def test_a_daemon_that_is_killed_each_time_is_not_waited_for(seen: dict[int, Glance]) -> None:
    patience, at_s = waiting.Patience(0.0), 0.0
    for pid in range(1, waiting.FAILURES_MAX + 1):
        seen[pid] = Glance("R", 1, pid)
        at_s += 50.0
        assert patience.look(Process(pid, 1), at_s)
    seen[99] = Glance("R", 1, 99)
    assert patience.look(Process(99, 1), at_s + waiting.READY_S)
    seen[99] = Glance("R", 1, 100)
    assert not patience.look(Process(99, 1), at_s + waiting.READY_S + 1)


# --- down


class Ending:
    """A cluster of stand-ins, and what was done to it in order."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path) -> None:
        self.directory = folder
        self.server = "unix:///s"
        self.did: list[Any] = []
        self.running = {
            name: Process(pid, 1) for name, pid in (("daemon", 1), ("local-1", 2), ("local-2", 3))
        }
        self.kept_now = Kept(Desired(agents=2), served=True)
        self.watched: Process | None = Process(9, 1)
        self.responds, self.late = True, list[Process]()
        self.jobs_left = 0
        patch.setattr(processes, "stopped", lambda process: False)
        patch.setattr(
            processes, "kill", lambda process, number: self.did.append(("kill", process.pid, number))
        )
        patch.setattr(processes, "wait_gone", self._wait_gone)
        patch.setattr(
            processes,
            "end_all",
            lambda wanted, limit_s: self.did.append(("end", [p.pid for p in wanted], limit_s)),
        )
        patch.setattr(stopping, "_stop_jobs", lambda server, progress: self.did.append(("jobs", server)))
        patch.setattr(stopping, "_give_back", lambda cluster, progress: self.did.append("machines"))
        patch.setattr(stopping, "_terminate", self._terminate)
        patch.setattr(files, "write_json", lambda path, value: self.did.append(("note", path.name, value)))

    def _wait_gone(self, wanted: list[Process], limit_s: float) -> list[Process]:
        self.did.append(("wait", [each.pid for each in wanted], limit_s))
        late, self.late = self.late, []
        return late

    def _terminate(self, directory: Path, progress: Any, jobs: bool) -> int:
        self.did.append("terminate" if jobs else "terminate idle")
        return self.jobs_left

    def processes(self) -> dict[str, Process]:
        return self.running

    def keeper(self) -> Process | None:
        return self.watched

    def keeper_responds(self, keeper: Process) -> bool:
        return self.responds

    def kept(self) -> Kept:
        return self.kept_now

    def ended(self) -> None:
        self.did.append("ended")


NOTED = ("note", "cluster.json", Kept(Desired(agents=2), served=True).to_json())


def test_down_ends_jobs_then_the_keeper_then_agents_then_the_daemon(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ending, told = Ending(monkeypatch, tmp_path), list[str]()
    assert stopping.stop(ending, told.append) is True  # type: ignore[arg-type]
    assert ending.did == [
        ("jobs", "unix:///s"), "machines", ("kill", 9, signal.SIGTERM), ("wait", [9], 20.0), "ended",
        ("end", [2, 3], STOP_S), ("end", [1], STOP_S), NOTED, "terminate",
    ]  # fmt: skip
    assert told == ["stopping the agents and the daemon"]


def test_down_does_not_wait_for_a_keeper_that_hangs_nor_ask_a_daemon_that_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ending = Ending(monkeypatch, tmp_path)
    ending.responds, ending.late = False, [Process(9, 1)]
    monkeypatch.setattr(processes, "stopped", lambda process: process.pid == 1)
    assert stopping.stop(ending, print) is True  # type: ignore[arg-type]
    assert ending.did[:5] == [
        ("kill", 9, signal.SIGTERM), ("wait", [9], 0.0), ("kill", 9, signal.SIGKILL), ("wait", [9], 2.0),
        "ended",
    ]  # fmt: skip


def test_down_without_a_keeper_ends_what_it_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ending = Ending(monkeypatch, tmp_path)
    ending.watched = None
    ending.kept_now = Kept()
    assert stopping.stop(ending, print) is True  # type: ignore[arg-type]
    assert ending.did == [
        ("jobs", "unix:///s"), "machines", ("end", [2, 3], STOP_S), ("end", [1], STOP_S),
        ("note", "cluster.json", {}), "terminate",
    ]  # fmt: skip


def test_an_up_that_failed_ends_everything_but_jobs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ending = Ending(monkeypatch, tmp_path)
    assert stopping.stop(ending, print, jobs=False) is True  # type: ignore[arg-type]
    assert ending.did == [
        ("kill", 9, signal.SIGTERM), ("wait", [9], 20.0), "ended",
        ("end", [2, 3], STOP_S), ("end", [1], STOP_S), NOTED, "terminate idle",
    ]  # fmt: skip


@pytest.mark.parametrize(("left", "ran"), [(0, False), (2, True)])
def test_where_nothing_runs_only_jobs_are_looked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, left: int, ran: bool
) -> None:
    ending = Ending(monkeypatch, tmp_path)
    ending.watched, ending.running, ending.jobs_left = None, {}, left
    assert stopping.stop(ending, print) is ran  # type: ignore[arg-type]
    assert ending.did == ["terminate"]


# --- stopping jobs


class Client:
    """A daemon whose jobs end after so many looks."""

    def __init__(self, *looks: list[str]) -> None:
        self.looks = list(looks)
        self.did: list[Any] = []

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.did.append("closed")

    def server(self, timeout_s: float) -> None:
        self.did.append(("server", timeout_s))

    def nodes(self) -> list[Any]:
        return [
            SimpleNamespace(state=state, facts=SimpleNamespace(name=f"n-{state}"))
            for state in ("up", "silent")
        ]

    def cordon(self, name: str, reason: str) -> None:
        self.did.append(("cordon", name, reason))

    def cancel(self, jobs: list[str], grace_us: int, reason: str) -> None:
        assert reason == room.DOWN_REASON
        self.did.append(("cancel", len(jobs), jobs[0], grace_us))


def stop_jobs(client: Client, patch: pytest.MonkeyPatch, now: list[float]) -> list[str]:
    told: list[str] = []
    patch.setattr("bursar.client.WireClient", lambda address: client)
    patch.setattr(
        stopping,
        "_live_jobs",
        lambda client: dict.fromkeys(client.looks.pop(0) if client.looks else (), False),
    )
    clock = SimpleNamespace(
        monotonic=lambda: now.pop(0) if len(now) > 1 else now[0], sleep=lambda seconds: None
    )
    patch.setattr(stopping, "time", clock)
    stopping._stop_jobs("unix:///s", told.append)
    return told


def test_running_jobs_are_cancelled_once_and_nothing_takes_their_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    many = [f"job_{number}" for number in range(501)]
    client = Client(many, ["job_500", "job_new"], ["job_new"])
    assert stop_jobs(client, monkeypatch, [0.0]) == ["stopping 501 running jobs", "stopping 1 running job"]
    assert client.did == [
        ("server", 5.0), ("cordon", "n-up", room.DOWN_REASON), ("cancel", 500, "job_0", 5_000_000),
        ("cancel", 1, "job_500", 5_000_000), ("cancel", 1, "job_new", 5_000_000), "closed",
    ]  # fmt: skip


def test_jobs_that_do_not_stop_in_time_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(*[["job_1"]] * 9)
    told = stop_jobs(client, monkeypatch, [0.0, 10.0, 10.1])
    assert told == ["stopping 1 running job", "1 job did not stop in 10 s; ending them"]
    assert len(client.looks) == 7


def test_a_daemon_that_cannot_stop_its_jobs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(timeout_s: float) -> None:
        raise BursarError("it hangs")

    client = Client()
    client.server = fail  # type: ignore[method-assign]
    told = stop_jobs(client, monkeypatch, [0.0])
    assert told == ["the daemon cannot stop the jobs (it hangs); ending them"]


def test_of_an_array_its_tasks_that_live_are_meant() -> None:
    def jobs(states: Any, tasks_of: str = "") -> list[Any]:
        assert states == ("STARTING", "RUNNING", "STOPPING")
        names = ["a[0]", "a[1]"] if tasks_of == "a" else ["a", "b"]
        return [
            SimpleNamespace(
                id=name,
                HasField=lambda field, name=name: field == "array" and name == "a",
                spec=types_pb2.JobSpec(),
            )
            for name in names
        ]

    found = stopping._live_jobs(SimpleNamespace(list=jobs))  # type: ignore[arg-type]
    assert found == {"a[0]": False, "a[1]": False, "b": False}


def test_an_agent_that_runs_as_it_would_be_started_is_like_the_wish(
    made: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = made.desire(2, None, None)
    words = {child.name: ("/other/python", *child.command[1:]) for child in before.children}
    running = [processes.Ours(name, Process(1, 2), said) for name, said in words.items()]
    monkeypatch.setattr(processes, "running_below", lambda directory: running)
    assert made.unlike(before) == []
    assert made.unlike(made.desire(3, None, None)) == ["local-1", "local-2"]  # each has less of the machine
    assert made.unlike(made.desire(2, "/other", "H100:2")) == ["local-1", "local-2"]


def test_up_says_what_it_goes_on_with_and_who_stays_as_it_was(
    made: LocalCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(wish: local.Wish, unlike: list[str]) -> str:
        local.say_kept(wish, made.desire(*wish), unlike)
        return capsys.readouterr().err

    first = local.Wish(2, "/own", "H100:2")
    assert said(first, []) == ""
    files.write_json(made.directory / files.DESIRED, made.desire(*first).to_json())
    assert said(local.Wish(None, None, None), ["local-1"]) == (
        "as before: --agents 2 --policies /own --simulate-gpus H100:2"
        " (`bursar up --help` tells how to take it back)\n"
        "already running, and so with the CPUs, memory and GPUs of its start: local-1;"
        " `bursar down` and another `up` give it the new ones\n"
    )
    assert said(local.Wish(1, "", ""), []) == ""
    assert made.desire(1, "", "").simulate_gpus == made.desire(1, "", "").policies == ""


def test_the_words_of_up_that_take_back_what_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wishes: list[local.Wish] = []
    monkeypatch.setattr(local, "_start", lambda cluster, wish, detach: wishes.append(wish))
    (tmp_path / "own").mkdir()
    for policies, gpus in (("shipped", "none"), (str(tmp_path / "own"), "H100:2")):
        words = ["--state-dir", str(tmp_path / "s"), "--policies", policies, "--simulate-gpus", gpus]
        assert run(["up", *words]) == 0
    assert run(["up", "--state-dir", str(tmp_path / "s")]) == 0
    assert run(["up", "--state-dir", str(tmp_path / "s"), "--http", "none", "--cloud", "none",
                "--gateway", "none"]) == 0  # fmt: skip
    assert run(["up", "--state-dir", str(tmp_path / "s"), "--agents", "3", "--cpus", "4"]) == 0
    asked = [(None, "", ""), (None, str(tmp_path / "own"), "H100:2"), (None, None, None)]
    assert wishes == [
        *((*one, None, None, None, None) for one in asked),
        (None, None, None, "", "", "", None),
        (3, None, None, None, None, None, 4),
    ]


def test_each_node_tells_of_the_cpus_that_were_asked_for_until_that_is_taken_back(
    made: LocalCluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(wish: Desired) -> list[str]:
        return [one.command[one.command.index("--cpus") + 1] for one in wish.children[1:]]

    wish = made.desire(2, None, None, cpus=4)
    assert told(wish) == ["4", "4"]
    files.write_json(made.directory / files.DESIRED, wish.to_json())
    assert told(made.desire(None, None, None)) == ["4", "4"]
    monkeypatch.setattr(room, "machine", lambda: (6, 64_000))
    assert told(made.desire(None, None, None, cpus=0)) == ["3", "3"]
    monkeypatch.setattr(local, "machine", lambda: (7, 64_000))
    local.say_kept(local.Wish(None, None, None), wish, [])
    assert capsys.readouterr().err.splitlines() == [
        "as before: --agents 2 --cpus 4 (`bursar up --help` tells how to take it back)",
        "each of 2 nodes tells of 4 CPUs; this machine has 7, which jobs share",
    ]
    monkeypatch.setattr(local, "machine", lambda: (8, 64_000))
    local.say_kept(local.Wish(2, None, None, cpus=4), wish, [])
    assert capsys.readouterr().err == ""
    files.write_json(made.directory / files.DESIRED, {**wish.to_json(), "cpus": 5_000})
    with pytest.raises(Damaged, match="its cpus are not 0 to 1024"):
        files.read_desired(made.directory)


def test_status_tells_the_gateway_and_the_keeper(made: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    me = processes.noted(os.getpid())
    assert me is not None
    desired = made.desire(1, None, None, gateway="127.0.0.1:7481")
    kept = Kept(desired, me, {"gateway": me}, {}, ("gateway",))
    monkeypatch.setattr(LocalCluster, "kept", lambda self: kept)
    monkeypatch.setattr(LocalCluster, "processes", lambda self: {"gateway": me, "local-1": me})
    responds = True
    monkeypatch.setattr(LocalCluster, "keeper_responds", lambda self, keeper: responds)
    row = local.read_status(made)
    assert row["gateway"] == {"url": "http://127.0.0.1:7481/", "pid": me.pid, "state": "ready"}
    assert local._status_text(row).splitlines()[-2:] == [
        f"gateway    http://127.0.0.1:7481/ ready, pid {me.pid}",
        f"keeper     ready, pid {me.pid}",
    ]
    responds = False
    told = local._status_text(local.read_status(made)).splitlines()[-1]
    assert told.startswith("keeper     not responding; `bursar up")
    kept = Kept(made.desire(1, None, None, gateway=""))
    assert local.read_status(made)["gateway"] is None
