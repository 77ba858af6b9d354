"""The launcher's supervisors and what they start, without a fork: who gets an attempt, and with what."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bursar_agent.runner import pool as room
from bursar_agent.runner import spawning, worker
from bursar_agent.runner.pool import Pool, Worker
from bursar_agent.runner.spawning import (
    CannotStart,
    Host,
    Job,
    JobCgroup,
    find_program,
    interpreter,
    script_of_another,
    write_script,
)


class Bench:
    """A pool whose workers are sockets; what was sent to each, and who was killed."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path) -> None:
        self.folder = folder
        self.sent: list[tuple[int, int, str]] = []
        self.killed: list[int] = []
        self.watched: set[int] = set()
        self.dead: set[int] = set()
        self.sockets: list[socket.socket] = []
        self.locks = 0
        self.pids = iter(range(101, 2_000))
        self.made = Pool(None, None, None, self.watched.add, self.watched.discard)  # type: ignore[arg-type]
        patch.setattr(worker, "send_attempt", self._send)
        patch.setattr(room.os, "fork", self._fork)
        patch.setattr(room.os, "kill", lambda pid, number: self.killed.append(pid))

    def _fork(self) -> int:
        return next(self.pids)

    def _send(self, channel: socket.socket, number: int, directory: str, request: Any, lock_fd: int) -> None:
        pid = next(each.pid for each in self.made._by_pid.values() if each.channel is channel)
        if pid in self.dead:
            raise BrokenPipeError
        self.sent.append((pid, number, directory))

    def give(self, name: str) -> int:
        lock = self.folder / f"lock-{self.locks}"
        self.locks += 1
        return self.made.give(name, {"name": name}, os.open(lock, os.O_RDWR | os.O_CREAT))

    def says(self, pid: int, said: bytes) -> None:
        """The worker's channel has this to read."""
        found = self.made._by_pid[pid]
        fd = found.channel.fileno()
        found.channel.close()
        ours, theirs = socket.socketpair()
        del self.made._by_fd[fd]
        self.watched.discard(fd)
        ours.setblocking(False)
        found.channel = ours
        self.made._by_fd[ours.fileno()] = found
        self.watched.add(ours.fileno())
        if said:
            theirs.send(said)
            self.sockets.append(theirs)
        else:
            theirs.close()
        assert self.made.heard(ours.fileno())

    def open(self, at: int) -> bool:
        """Is this lock held here still?"""
        links = (f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd"))
        wanted = str(self.folder / f"lock-{at}")
        return wanted in [os.readlink(link) for link in links if os.path.islink(link)]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(monkeypatch, tmp_path)
    yield made
    for each in made.made._by_pid.values():
        if each.attempt is not None:
            os.close(each.attempt.lock_fd)
        each.channel.close()
    for theirs in made.sockets:
        theirs.close()


def test_an_idle_supervisor_is_used_again_and_the_newest_first(bench: Bench) -> None:
    assert [bench.give(name) for name in ("a", "b")] == [101, 102]
    assert bench.sent == [(101, 1, "a"), (102, 2, "b")]
    assert 101 in bench.made
    assert 99 not in bench.made
    bench.says(101, b"i")
    bench.says(102, b"i")
    assert (bench.made.idle, bench.open(0), bench.open(1)) == (2, False, False)
    assert bench.give("c") == 102
    assert bench.give("d") == 101
    assert bench.give("e") == 103
    assert (bench.made.idle, len(bench.watched)) == (0, 3)


def test_what_is_no_supervisors_descriptor_is_not_heard(bench: Bench) -> None:
    assert bench.made.heard(987) is False


def test_a_supervisor_that_died_idle_is_passed_over(bench: Bench) -> None:
    bench.give("a")
    bench.says(101, b"i")
    bench.dead.add(101)
    assert bench.give("b") == 102
    assert bench.killed == [101]
    assert bench.made.idle == 0
    bench.dead.add(103)
    with pytest.raises(OSError, match="a new supervisor died at once"):
        bench.give("c")
    assert (bench.killed, bench.open(2)) == ([101, 103], False)


def test_a_supervisor_goes_after_so_many_attempts_or_when_enough_wait(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "ATTEMPTS_MAX", 2)
    bench.give("a")
    bench.says(101, b"i")
    assert bench.made.idle == 1
    bench.give("b")
    bench.says(101, b"i")
    assert (bench.made.idle, len(bench.watched)) == (0, 0)
    monkeypatch.setattr(room, "IDLE_MAX", 1)
    for name in ("c", "d"):
        bench.give(name)
    for pid in (102, 103):
        bench.says(pid, b"i")
    assert (bench.made.idle, len(bench.watched)) == (1, 1)


def test_at_rest_one_supervisor_stays(bench: Bench) -> None:
    for name in ("a", "b", "c"):
        bench.give(name)
    for pid in (101, 102, 103):
        bench.says(pid, b"i")
    bench.made.rest()
    assert [each.pid for each in bench.made._idle] == [103]
    assert len(bench.watched) == 1
    bench.made.rest()
    assert bench.made.idle == 1


def test_an_attempt_that_was_not_taken_is_given_to_another(bench: Bench) -> None:
    bench.give("a")
    assert bench.made.died(101) is False
    assert bench.sent == [(101, 1, "a"), (102, 1, "a")]
    assert bench.made.died(102) is False
    assert bench.open(0)
    assert bench.made.died(103) is True
    assert bench.open(0) is False
    assert len(bench.sent) == 3


def test_an_attempt_that_was_taken_is_lost_with_its_supervisor(bench: Bench) -> None:
    bench.give("a")
    bench.made._notes.put(bench.made._by_pid[101].slot, 1)
    assert bench.made.died(101) is True
    assert (bench.open(0), bench.sent) == (False, [(101, 1, "a")])
    assert bench.made.died(4711) is True


def test_an_idle_supervisor_that_dies_has_lost_nothing(bench: Bench) -> None:
    bench.give("a")
    bench.says(101, b"i")
    assert bench.made.died(101) is False
    assert (bench.made.idle, len(bench.watched), bench.made._by_fd) == (0, 0, {})
    assert len(bench.made._slots) == worker.WORKERS_MAX


def test_a_supervisor_that_is_ending_is_let_go(bench: Bench) -> None:
    bench.give("a")
    bench.says(101, b"")
    assert (bench.watched, bench.made._by_fd) == (set(), {})
    assert bench.open(0)
    assert 101 in bench.made


def test_more_supervisors_than_there_may_be_are_refused(bench: Bench) -> None:
    bench.made._slots = [0]
    bench.give("a")
    with pytest.raises(OSError, match="too many attempts at once"):
        bench.give("b")
    assert bench.open(1) is False

    def full() -> int:
        raise OSError(errno.EAGAIN, "no more processes")

    bench.made._slots = [1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room.os, "fork", full)
        with pytest.raises(OSError, match="no more processes"):
            bench.give("c")
    assert bench.made._slots == [1]


def test_an_attempt_that_cannot_be_given_again_is_said_and_let_go(
    bench: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    bench.made._slots = [0]
    bench.give("a")
    bench.dead.add(102)
    assert bench.made.died(101) is False
    assert bench.open(0) is False
    assert capfd.readouterr().err == "a cannot be started again: OSError('a new supervisor died at once')\n"
    assert isinstance(bench.made._by_pid[102], Worker)


# --- what a supervisor starts


def request(**launch: Any) -> dict[str, Any]:
    return {
        "attempt_id": "att_1", "rank": 0, "place": "fe-1", "uid": None, "gid": None, "home": "/home/ann",
        "checkpoint_dir": "/ck", "env": {"PATH": "/bin", "A": "node"}, "launch": json.dumps(launch),
    }  # fmt: skip


def test_a_job_is_what_its_launch_says_and_what_only_the_node_knows() -> None:
    made = Job(request(command=["a", "b"], env={"A": "own", "B": "2"}, setup="s"))
    assert (made.argv, made.script, made.setup, made.cwd) == (["a", "b"], "", "s", "/home/ann")
    assert made.env == {
        "PATH": "/bin",
        "A": "own",
        "B": "2",
        "BURSAR_ATTEMPT": "att_1",
        "BURSAR_ATTEMPT_MEMBER": "att_1.0@fe-1",
        "BURSAR_PROGRESS_FILE": f"{os.getcwd()}/progress",
    }
    assert made.progress_dir == ""
    theirs = Job({**request(script="x"), "uid": 7, "gid": 7})
    assert re.fullmatch(r"/tmp/bursar-att_1\.0@fe-1\.[0-9a-f]{10}\.progress", theirs.progress_dir)
    assert theirs.env["BURSAR_PROGRESS_FILE"] == f"{theirs.progress_dir}/progress"
    assert (made.marker, made.uid, made.gid, made.warn_us, made.script_only) == (
        "att_1.0@fe-1",
        None,
        None,
        0,
        False,
    )
    assert (made.steps_dir, made.checkpoint_dir, made.scratch_dir, made.secrets_dir) == ("", "", "", "")
    other = Job(request(script="x", workdir="/w", checkpoint={"before_us": 5, "script_only": True}))
    assert (other.argv, other.script, other.cwd, other.warn_us, other.script_only) == ([], "x", "/w", 5, True)
    without = {key: value for key, value in request(script="x").items() if key != "place"}
    assert Job(without).marker == "att_1.0"


def test_directories_of_the_node_stand_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = request(
        script="x", env={"BURSAR_CHECKPOINT_DIR": "@checkpoint", "TMPDIR": spawning.scratch.PLACEHOLDER},
        files={"KEY": "secret"},
    )  # fmt: skip
    chosen = iter(("1", "2", "3"))
    monkeypatch.setattr(Job, "new_name", lambda self: next(chosen))
    made = Job(asked)
    scratch, secrets = spawning.scratch.path_of("1"), spawning.secretfiles.path_of("2")
    assert (made.checkpoint_dir, made.scratch_dir, made.secrets_dir) == ("/ck", scratch, secrets)
    assert (made.env["BURSAR_CHECKPOINT_DIR"], made.env["TMPDIR"]) == ("/ck", scratch)
    assert (made.env[spawning.secretfiles.VARIABLE], made.env["KEY"]) == (secrets, f"{secrets}/KEY")
    assert Job(request(script="x", env={"BURSAR_CHECKPOINT_DIR": "/own"})).checkpoint_dir == ""


@pytest.mark.parametrize(
    ("env", "path"),
    [
        ({}, "/bin:/steps/bin"),
        ({"SLURM_JOB_ID": "1"}, "/steps/slurm:/bin:/steps/bin"),
        ({"PATH": ""}, f"{spawning._DEFAULT_PATH}:/steps/bin"),
        ({"PATH": "/own"}, "/own:/steps/bin"),
    ],
)
def test_programs_of_steps_are_found_by_their_names(env: dict[str, str], path: str) -> None:
    asked = request(script="x", env={**env, "BURSAR_STEPS": "/lie"})
    asked["env"]["BURSAR_STEPS"] = "/steps"
    made = Job(asked)
    assert (made.env["PATH"], made.env["BURSAR_STEPS"], made.steps_dir) == (path, "/steps", "/steps")


@pytest.mark.parametrize(
    ("launch", "message"),
    [
        ({}, "give either a command (not empty) or a script"),
        ({"command": ["a"], "script": "b"}, "give either a command (not empty) or a script"),
        ({"script": "x", "workdir": "here"}, "working directory 'here': not an absolute path"),
    ],
)
def test_a_launch_that_cannot_be_is_refused(launch: dict[str, Any], message: str) -> None:
    with pytest.raises(CannotStart) as caught:
        Job(request(**launch))
    assert (caught.value.message, caught.value.exit_code, caught.value.end_cause) == (
        message,
        126,
        "failed",
    )


@pytest.mark.parametrize("text", ["{", "[]", '"x"'])
def test_a_launch_of_another_release_is_said_to_be_one(text: str) -> None:
    with pytest.raises(
        CannotStart, match="its launch cannot be read; daemon and agent are of different releases"
    ):
        Job({**request(), "launch": text})


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("#!/bin/sh\nx", ["/bin/sh"]), ("#! /usr/bin/env  python -u \nx", ["/usr/bin/env", "python -u"]),
        ("#!\nx", []), ("echo", []), ("", []), (" #!/bin/sh", []), ("#!/bin/sh", ["/bin/sh"]),
    ],
)  # fmt: skip
def test_the_first_line_names_the_interpreter_as_the_kernel_reads_it(script: str, words: list[str]) -> None:
    assert interpreter(script) == words


def test_a_script_is_written_once_for_its_owner_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = Job(request(script="echo \udcff"))
    path = write_script(made)
    assert path == str(tmp_path / "script")
    assert Path(path).read_bytes() == b"echo \xff"
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o700
    with pytest.raises(CannotStart, match=f"cannot write the script to {path}: File exists"):
        write_script(made)
    assert script_of_another("m") == "/tmp/bursar-m"


def test_a_program_is_found_in_the_jobs_own_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a/tool").write_text("")
    (tmp_path / "a/folder").mkdir()
    (tmp_path / "b/tool").write_text("")
    (tmp_path / "b/tool").chmod(0o755)
    env = {"PATH": f"{tmp_path}/a:{tmp_path}/b"}
    assert find_program("tool", env) == f"{tmp_path}/b/tool"
    assert find_program("./x", env) == "./x"
    for name, path, code, message in (
        ("tool", f"{tmp_path}/a", 126, "not executable: tool"),
        ("folder", f"{tmp_path}/a", 127, "no such command: folder"),
        ("none", f"{tmp_path}/a", 127, "no such command: none"),
    ):
        with pytest.raises(CannotStart) as caught:
            find_program(name, {"PATH": path})
        assert (caught.value.exit_code, caught.value.message, caught.value.end_cause) == (
            code,
            message,
            "failed",
        )
    monkeypatch.chdir(tmp_path / "b")
    assert find_program("tool", {"PATH": ""}) == "./tool"
    assert find_program("sh", {}) in ("/usr/bin/sh", "/bin/sh")


@pytest.mark.parametrize(
    ("number", "name", "code", "message"),
    [
        (errno.ENOENT, "/no/such", 127, "no such command: /no/such"),
        (
            errno.ENOENT,
            "/etc/passwd",
            127,
            "the interpreter that /etc/passwd names in its first line does not exist",
        ),
        (errno.ENOEXEC, "x", 126, "x is not a program of this machine and has no #! line"),
        (errno.EACCES, "x", 126, "not executable: x: Permission denied"),
        (errno.ENOTDIR, "x", 126, "not executable: x: Not a directory"),
        (errno.EISDIR, "x", 126, "not executable: x: Is a directory"),
        (errno.E2BIG, "x", 126, "a word of the command or a variable is over 128 KiB; use a file"),
        (errno.ENOMEM, "x", None, "cannot start x: Cannot allocate memory"),
    ],
)
def test_what_keeps_a_program_from_starting_is_said_in_words(
    number: int, name: str, code: int | None, message: str
) -> None:
    found = spawning._explain(OSError(number, os.strerror(number)), name)
    assert (found.exit_code, found.message) == (code, message)
    odd = spawning._explain(ValueError("embedded null byte"), "a")
    assert (odd.exit_code, odd.message) == (126, "cannot start 'a': embedded null byte")


def test_only_a_shortage_of_the_machine_is_its_own_fault_when_a_program_does_not_start() -> None:
    """Of all that a kernel can answer: the rest comes from what the job named."""
    blamed = {
        number
        for number in errno.errorcode
        if spawning._explain(OSError(number, os.strerror(number)), "/x").end_cause == "start_failed"
    }
    assert blamed == {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE}


def test_a_name_of_any_length_is_cut_where_it_is_told() -> None:
    found = spawning._explain(OSError(errno.ENAMETOOLONG, ""), "a" * 300)
    assert found.message == f"cannot start {'a' * 200}…: File name too long"
    exact = spawning._explain(OSError(errno.ENAMETOOLONG, ""), "a" * 200)
    assert exact.message == f"cannot start {'a' * 200}: File name too long"


@pytest.mark.parametrize(
    ("cwd", "reason"), [("/no/such", "No such file or directory"), ("/a\0b", "embedded null byte")]
)
def test_a_working_directory_that_is_none_is_named(cwd: str, reason: str) -> None:
    """Its job is to blame where that named it, its node where it is the home of the account."""
    home = request(script="x")
    home["home"] = cwd
    for asked, code in ((request(script="x", workdir=cwd), 126), (home, None)):
        with pytest.raises(CannotStart) as caught:
            spawning.enter(Job(asked))
        assert (caught.value.message, caught.value.exit_code) == (
            f"working directory {cwd!r}: {reason}",
            code,
        )


def test_a_user_without_a_group_is_refused() -> None:
    with pytest.raises(
        CannotStart, match="a user id needs a group id with it; refused to keep the agent's group"
    ):
        spawning.change_user(1234, None)
    spawning.change_user(None, None)


# --- cgroups


def hierarchy(folder: Path, *names: str) -> Path:
    """What stands for the kernel: files appear in a new directory as it makes them."""
    folder.mkdir()
    (folder / "files").write_text(" ".join(names))
    return folder


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.mkdir

    def mkdir(path: str, mode: int = 0o777) -> None:
        real(path, mode)
        there = Path(path).parent / "files"
        for name in there.read_text().split() if there.exists() else ():
            (Path(path) / name).touch()

    monkeypatch.setattr(spawning.os, "mkdir", mkdir)


def test_limits_are_set_where_the_kernel_has_them(tmp_path: Path, kernel: None) -> None:
    new = hierarchy(tmp_path / "new", "pids.max", "cpu.max", "memory.max", "cgroup.procs", "memory.events")
    made = JobCgroup([str(new / "job")], 1 << 20, 1_500)
    assert made.memory_limited
    assert {path.name: path.read_text() for path in (new / "job").iterdir()} == {
        "pids.max": "32768", "cpu.max": "150000 100000", "memory.max": "1048576", "cgroup.procs": "",
        "memory.events": "",
    }  # fmt: skip
    made.enter()
    assert (new / "job/cgroup.procs").read_text() == "0"
    old = [
        str(hierarchy(tmp_path / "mem", "memory.limit_in_bytes") / "job"),
        str(hierarchy(tmp_path / "cpu", "cpu.cfs_quota_us") / "job"),
    ]
    made = JobCgroup(old, 1 << 20, 1_500)
    assert made.memory_limited
    assert (tmp_path / "mem/job/memory.limit_in_bytes").read_text() == "1048576"
    assert (tmp_path / "cpu/job/cpu.cfs_quota_us").read_text() == "150000"
    bare = JobCgroup([str(hierarchy(tmp_path / "bare", "memory.max", "cpu.max") / "job")], 0, 0)
    assert not bare.memory_limited
    assert [path.read_text() for path in (tmp_path / "bare/job").iterdir()] == ["", ""]
    assert not JobCgroup([str(hierarchy(tmp_path / "none") / "job")], 1 << 20, 100).memory_limited


@pytest.mark.parametrize(
    ("name", "text", "killed"),
    [
        ("memory.events", "low 0\noom_kill 1\n", True),
        ("memory.events", "oom 5\noom_kill 0\n", False),
        ("memory.oom_control", "oom_kill_disable 0\noom_kill 2\n", True),
        ("other", "oom_kill 1\n", False),
    ],
)
def test_a_kill_for_want_of_memory_is_seen(
    tmp_path: Path, kernel: None, name: str, text: str, killed: bool
) -> None:
    made = JobCgroup([str(hierarchy(tmp_path / "h") / "job")], 0, 0)
    (tmp_path / "h/job" / name).write_text(text)
    assert made.close() is killed


def test_a_cgroup_that_cannot_be_made_whole_is_not_left(tmp_path: Path, kernel: None) -> None:
    first = hierarchy(tmp_path / "first")
    with pytest.raises(FileNotFoundError):
        JobCgroup([str(first / "job"), str(tmp_path / "none/job")], 0, 0)
    assert not (first / "job").exists()


def test_a_host_gives_each_member_a_cgroup_of_its_own_name(
    tmp_path: Path, kernel: None, capfd: pytest.CaptureFixture[str]
) -> None:
    root = hierarchy(tmp_path / "h", "memory.max", "cpu.max")
    host = Host(str(root))
    asked = {
        "attempt_id": "att_1",
        "rank": 2,
        "place": "fe-1",
        "memory_limit_bytes": 77,
        "cpu_limit_milli": 1_000,
    }
    assert host.job_cgroup(asked) is not None
    made = root / "bursar-att_1.2@fe-1"
    assert ((made / "memory.max").read_text(), (made / "cpu.max").read_text()) == ("77", "100000 100000")
    assert host.job_cgroup({"attempt_id": "att_1", "rank": 3}) is not None
    assert (root / "bursar-att_1.3").is_dir()
    assert host.job_cgroup(asked) is None
    assert capfd.readouterr().err.startswith("no cgroup for bursar-att_1.2@fe-1: FileExistsError(17, ")
    assert Host(None).job_cgroup(asked) is None
