"""Starting one job process, and saying in words why it cannot start.

Owns    opening the launch, the script's file, PATH search, working directory, signals, user change, memory
        cgroup.
Input   the request.
Why     posix_spawn (vfork underneath) is the cheapest start Python has, but it cannot change the
        user or enter a cgroup first; those jobs take a fork in the supervisor, which has one thread
        and no gRPC, so forking there is sound.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from typing import Any, NoReturn

from bursar_agent.runner import progressfile, scratch, secretfiles
from bursar_agent.runner.layout import (
    DISK_REFUSES,
    MARKER_VARIABLE,
    PROGRESS,
    SCRIPT,
    SETUP,
    marker_of,
    member_name,
)

SIGNALS = tuple(number for number in range(1, 65) if number not in (9, 19, 32, 33))
"""All that have a disposition: 9 and 19 cannot have one, 32 and 33 belong to the C library."""

NAME_BYTES = 5
"""Of a name nobody can foretell. Sockets lie below it, whose paths have 107 letters at most."""
NAME_TRIES = 8

PIDS_MAX = 32_768
"""Processes and threads of one member: room for 8 ranks of 64 loaders, none for a fork bomb."""
_CPU_PERIOD_US = 100_000
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

STEPS_VARIABLE = "BURSAR_STEPS"
"""The directory of programs for steps, which `bursar.steps.names` describes."""

OWN_BASH_ENV_VARIABLE = "BURSAR_BASH_ENV"
"""The `BASH_ENV` that a job was given, where the agent has put its own in the place."""

OUTPUT_VARIABLE = "BURSAR_OUTPUT_FILE"
ERROR_VARIABLE = "BURSAR_ERROR_FILE"
"""Where a job finds the paths of its output files."""

CHECKPOINT_VARIABLE = "BURSAR_CHECKPOINT_DIR"
CHECKPOINT_PLACEHOLDER = "@checkpoint"
"""The daemon writes this where only the node can know the path."""

OF_THE_HOST = frozenset(("PATH", "SHELL", "LANG", "LC_ALL", "TMPDIR"))
"""What a container has of its own, and not of its node."""

SCRIPTS_OF_OTHERS = "/tmp"
ENGINE_PROGRAM = "bursar-launch"
"""`bursar.steps.names.LAUNCH`, which is not loaded here."""
_LAUNCH_AT, _ENGINE_AT = 3, 5
"""Where a command names it, and how it is to take the engine's program: `model.job.launch_of`."""
"""Where another user's script lies while it runs."""

OOM_SCORE_SUPERVISOR = "-900"
"""Under memory pressure the kernel shall take the job, not the one process that can report it."""


NOT_STARTABLE = 126
NOT_FOUND = 127
"""What a shell exits with where it is the command's own fault: `bursar.model.ends` has words for both."""

_SHORTAGES = frozenset((errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE))
"""The machine's, whatever was to be started. Every other errno of a start comes from what the job named: its
program, what that names in turn, its words, its environment, its directory."""
_NAME_SHOWN_MAX = 200


class CannotStart(Exception):
    """The job process could not be started; carries what the exit report says.

    Args:
        exit_code: `NOT_STARTABLE` or `NOT_FOUND` where the job's own words are to blame, and then it is the
            job that failed. None: it is the node, and enough of these in a row take its work away.
        disk: the node's disk will not take what a start needs.
    """

    def __init__(self, message: str, exit_code: int | None = None, disk: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code
        self.disk = disk
        self.end_cause = "start_failed" if exit_code is None else "failed"


class Job:
    """What a member runs: its launch (`bursar.model.Launch`), opened, on this node. Raises `CannotStart`."""

    __slots__ = (
        "appends", "arguments", "argv", "checkpoint_dir", "cwd", "cwd_is_own", "engine_script",
        "env", "error_path", "gid", "image", "image_auth", "marker", "mounts", "output_path",
        "own_names", "progress_dir", "progress_made", "runtime",
        "scratch_dir", "scratch_names", "script", "script_only", "secret_files", "secrets_dir",
        "setup", "steps_dir", "uid", "warn_us",
    )  # fmt: skip

    def __init__(self, request: dict[str, Any]) -> None:
        member = member_name(request["attempt_id"], request["rank"])
        self.marker = marker_of(member, request.get("place", ""))
        self.uid: int | None = request["uid"]
        self.gid: int | None = request["gid"]
        try:
            launch = json.loads(request["launch"])
            self.argv: list[str] = launch.get("command", [])
            self.script: str = launch.get("script", "")
            self.arguments: list[str] = launch.get("arguments", [])
            self.setup: str = launch.get("setup", "")
            self.cwd: str = launch.get("workdir", "") or request["home"]
            own: dict[str, str] = launch.get("env", {})
            self.secret_files: dict[str, str] = launch.get("files", {})
            checkpoint = launch.get("checkpoint", {})
            self.warn_us: int = checkpoint.get("before_us", 0)
            self.script_only: bool = checkpoint.get("script_only", False)
            files = launch.get("output_files", {})
            paths: tuple[str, str] = (files.get("output", ""), files.get("error", ""))
            self.appends: bool = files.get("append", False)
            self.image: str = launch.get("image", "")
            self.image_auth: str = launch.get("image_auth", "")
            self.mounts: list[str] = launch.get("mounts", [])
        except (ValueError, AttributeError):
            raise CannotStart(
                "its launch cannot be read; daemon and agent are of different releases"
            ) from None
        if bool(self.argv) == bool(self.script):
            raise CannotStart("give either a command (not empty) or a script", NOT_STARTABLE)
        self.engine_script = ""
        """The text that an engine (`launch: torchrun`) is to run: it stands among its command's words."""
        if self.argv[_LAUNCH_AT : _LAUNCH_AT + 1] == [ENGINE_PROGRAM]:
            how, *rest = self.argv[_ENGINE_AT : _ENGINE_AT + 2] or [""]
            self.engine_script = "".join(rest) if how == "--script" else ""
        self.own_names = frozenset(own)
        self.runtime: dict[str, Any] | None = request.get("runtime")
        self.cwd_is_own = bool(launch.get("workdir"))
        if not self.cwd.startswith("/"):
            raise _no_directory(self, "not an absolute path")
        self.output_path, self.error_path = (os.path.join(self.cwd, path) if path else "" for path in paths)
        self.env = {
            **request["env"],
            "BURSAR_ATTEMPT": request["attempt_id"],
            **own,
            **request.get("over", {}),
            MARKER_VARIABLE: self.marker,
        }
        self.steps_dir: str = "" if self.image else request["env"].get(STEPS_VARIABLE, "")
        if self.steps_dir:
            self.env[STEPS_VARIABLE] = self.steps_dir
            self.env["PATH"] = f"{self.env.get('PATH') or _DEFAULT_PATH}:{self.steps_dir}/bin"
            if "SLURM_JOB_ID" in own:
                self.env["PATH"] = f"{self.steps_dir}/slurm:{self.env['PATH']}"
                if self.env.get("BASH_ENV"):
                    self.env[OWN_BASH_ENV_VARIABLE] = self.env["BASH_ENV"]
                self.env["BASH_ENV"] = f"{self.steps_dir}/bash-env"
        if self.output_path:
            self.env[OUTPUT_VARIABLE] = self.output_path
        if self.error_path:
            self.env[ERROR_VARIABLE] = self.error_path
        self.checkpoint_dir = ""
        if own.get(CHECKPOINT_VARIABLE) == CHECKPOINT_PLACEHOLDER:
            self.checkpoint_dir = self.env[CHECKPOINT_VARIABLE] = request["checkpoint_dir"]
        self.scratch_names = [name for name, value in own.items() if value == scratch.PLACEHOLDER]
        self.take_names()

    def take_names(self) -> None:
        """Choose anew where it has what lies in places that every account may write to.

        Everybody is told of an attempt and its node before it starts, and could make what bears their names.
        Each has a name of its own: the first that is made tells nobody what the next one will be called.
        """
        self.progress_made = (-1, -1)
        """Its directory of progress, as it was made (`progressfile.identity`)."""
        self.progress_dir = ""
        if self.uid is not None or self.image:
            self.progress_dir = progressfile.directory_of_another(self.new_name())
        self.env[progressfile.VARIABLE] = f"{self.progress_dir or os.getcwd()}/{PROGRESS}"
        self.scratch_dir = scratch.path_of(self.new_name()) if self.image or self.scratch_names else ""
        self.env.update(dict.fromkeys(self.scratch_names, self.scratch_dir))
        self.secrets_dir = ""
        if self.secret_files:
            self.secrets_dir = self.env[secretfiles.VARIABLE] = secretfiles.path_of(self.new_name())
            self.env.update({name: f"{self.secrets_dir}/{name}" for name in self.secret_files})

    def new_name(self) -> str:
        """One of this member that nobody can foretell."""
        return f"{self.marker}.{os.urandom(NAME_BYTES).hex()}"

    def words(self, script: str) -> list[str]:
        """Its command; the text of an engine's is in the file `script`, as that of any script."""
        if not self.engine_script:
            return self.argv
        return [*self.argv[:_ENGINE_AT], "--script-file", script, *self.argv[_ENGINE_AT + 2 :]]


class JobCgroup:
    """The cgroup (v2), or one in each hierarchy (v1), around one member."""

    def __init__(self, paths: list[str], memory_bytes: int, cpu_milli: int) -> None:
        """Make them, with whatever limits the kernel has there; 0 is none. Raises `OSError`."""
        self.memory_limited = False
        self._paths: list[str] = []
        quota_us = cpu_milli * _CPU_PERIOD_US // 1000
        try:
            for path in paths:
                os.mkdir(path)
                self._paths.append(path)
                _limit(path, "pids.max", str(PIDS_MAX))
                if cpu_milli and not _limit(path, "cpu.max", f"{quota_us} {_CPU_PERIOD_US}"):
                    _limit(path, "cpu.cfs_quota_us", str(quota_us))
                for name in ("memory.max", "memory.limit_in_bytes") if memory_bytes else ():
                    self.memory_limited = _limit(path, name, str(memory_bytes)) or self.memory_limited
        except OSError:
            self.close()
            raise

    def enter(self) -> None:
        """Move the calling process in."""
        for path in self._paths:
            write(f"{path}/cgroup.procs", "0")

    def close(self) -> bool:
        """Remove them; True when the kernel killed something in them for want of memory."""
        killed = False
        for path in self._paths:
            for events in ("memory.events", "memory.oom_control"):
                try:
                    with open(f"{path}/{events}") as file:
                        killed = killed or any(
                            line.startswith("oom_kill ") and int(line.split()[1]) > 0 for line in file
                        )
                except OSError:
                    continue
            try:  # noqa: SIM105  contextlib is not loaded here
                os.rmdir(path)
            except OSError:
                pass
        return killed


def _limit(path: str, name: str, value: str) -> bool:
    """Set one limit; False where the kernel has none of this name. Raises `OSError`."""
    try:
        write(f"{path}/{name}", value)
    except FileNotFoundError:
        return False
    return True


class Host:
    """What is the same for every attempt of this launcher; looked up once, before any fork."""

    def __init__(self, cgroup_root: str | None = None) -> None:
        self.shell = "/bin/bash" if os.access("/bin/bash", os.X_OK) else "/bin/sh"
        self.cgroup_root = cgroup_root
        self.oom_protected = False

    def protect(self) -> None:
        """Lower our own standing with the OOM killer, where we may."""
        try:
            write("/proc/self/oom_score_adj", OOM_SCORE_SUPERVISOR)
            self.oom_protected = True
        except OSError:
            pass

    def job_cgroup(self, request: dict[str, Any]) -> JobCgroup | None:
        """A cgroup with the request's limits, or None where this machine gives us none."""
        if self.cgroup_root is None:
            return None
        member = f"{request['attempt_id']}.{request['rank']}"
        name = f"bursar-{marker_of(member, request.get('place', ''))}"
        try:
            paths = [f"{root}/{name}" for root in self.cgroup_root.split(os.pathsep)]
            memory_bytes = int(request.get("memory_limit_bytes") or 0)
            return JobCgroup(paths, memory_bytes, int(request.get("cpu_limit_milli") or 0))
        except OSError as problem:
            os.write(2, f"no cgroup for {name}: {problem!r}\n".encode())
            return None


def interpreter(script: str) -> list[str]:
    """The words of a `#!` line as the kernel reads it: a program, and all the rest as one argument.

    Empty: there is none, so it is shell text.
    """
    first = script.partition("\n")[0]
    return first[2:].strip(" \t").split(None, 1) if first.startswith("#!") else []


def script_of_another(name: str) -> str:
    """Where a script lies that runs as another user (`Job.new_name`)."""
    return f"{SCRIPTS_OF_OTHERS}/bursar-{name}"


def setup_of_another(name: str) -> str:
    """Where its setup lies."""
    return f"{SCRIPTS_OF_OTHERS}/bursar-{name}.{SETUP}"


def write_script(job: Job) -> str:
    """Put the script where the job's user, and nobody else, can read it; returns its absolute path. Raises
    `CannotStart`.

    What reads it gets the path as an argument: the text itself would be there for every account of the
    machine (`ps`), and a volume mounted `noexec` does not matter. Another user cannot come into the run
    directory (0700); for that user it is a private file in /tmp.
    """
    return _write_text(job, SCRIPT, job.script or job.engine_script, script_of_another)


def write_setup(job: Job) -> str:
    """The same of its setup."""
    return _write_text(job, SETUP, job.setup, setup_of_another)


def _write_text(job: Job, name: str, text: str, of_another: Callable[[str], str]) -> str:
    path = f"{os.getcwd()}/{name}"
    if job.uid is not None:
        path = of_another(job.new_name())
    try:
        for left in range(NAME_TRIES - 1 if job.uid is not None else 0, -1, -1):
            try:
                fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o700)
                break
            except FileExistsError:  # others see the names that it has by now
                if not left:
                    raise
                path = of_another(job.new_name())
        with open(fd, "wb") as file:
            file.write(text.encode("utf-8", "surrogateescape"))
            if job.uid is not None:
                os.fchown(fd, job.uid, -1 if job.gid is None else job.gid)
    except OSError as problem:
        told = f"cannot write the {name} to {path}: {problem.strerror}"
        raise CannotStart(told, disk=problem.errno in DISK_REFUSES) from None
    return path


def spawn(
    job: Job, argv: list[str], outputs: tuple[int, int], home_fd: int, host: Host, cgroup: JobCgroup | None
) -> int:
    """Start `argv` in its own session; returns its pid. `outputs`: to be its standard output and error.

    The caller's working directory is `home_fd` again afterwards. Raises `CannotStart`.
    """
    if cgroup is not None or job.uid is not None or job.gid is not None:
        return _fork_and_exec(job, argv, outputs, host, cgroup)
    enter(job)
    try:
        path = find_program(argv[0], job.env)
        if host.oom_protected:
            write("/proc/self/oom_score_adj", "0")
        return os.posix_spawn(
            path,
            argv,
            job.env,
            file_actions=[(os.POSIX_SPAWN_DUP2, outputs[0], 1), (os.POSIX_SPAWN_DUP2, outputs[1], 2)],
            setsid=True,
            setsigmask=(),
            setsigdef=SIGNALS,
        )
    except (OSError, ValueError) as problem:
        raise _explain(problem, argv[0]) from None
    finally:
        os.fchdir(home_fd)
        if host.oom_protected:
            host.protect()


def enter(job: Job) -> None:
    """Go into its working directory. Raises `CannotStart`."""
    try:
        os.chdir(job.cwd)
    except (OSError, ValueError) as problem:
        # What a ValueError says is Python's own, and not the same in each; a path can have but one.
        reason = problem.strerror if isinstance(problem, OSError) else "embedded null byte"
        raise _no_directory(job, f"{reason}") from None


def _no_directory(job: Job, reason: str) -> CannotStart:
    """A directory that the job named is its own fault, its account's home is the node's."""
    code = NOT_STARTABLE if job.cwd_is_own else None
    return CannotStart(f"working directory {shortened(job.cwd)!r}: {reason}", code)


def shortened(name: str) -> str:
    """A name of any length, as a message can bear it."""
    return name if len(name) <= _NAME_SHOWN_MAX else f"{name[:_NAME_SHOWN_MAX]}…"


def find_program(name: str, env: dict[str, str]) -> str:
    """The file to execute, from the job's own PATH. Raises `CannotStart` as a shell exits."""
    if "/" in name:
        return name
    seen_unusable = False
    for folder in env.get("PATH", _DEFAULT_PATH).split(":"):
        path = f"{folder or '.'}/{name}"
        if os.access(path, os.X_OK) and not os.path.isdir(path):
            return path
        seen_unusable = seen_unusable or os.path.isfile(path)
    if seen_unusable:
        raise CannotStart(f"not executable: {shortened(name)}", NOT_STARTABLE)
    raise CannotStart(f"no such command: {shortened(name)}", NOT_FOUND)


def of_interpreter(problem: CannotStart, script: str) -> CannotStart:
    """What is told where a script's `#!` line names a program that is not there: no command of the job's."""
    words = interpreter(script)
    if not words or problem.exit_code != NOT_FOUND:
        return problem
    return CannotStart(f"the interpreter {shortened(words[0])} of its first line is not there", NOT_FOUND)


def _explain(problem: OSError | ValueError, name: str) -> CannotStart:
    shown = shortened(name)
    if isinstance(problem, ValueError):
        return CannotStart(f"cannot start {shown!r}: {problem}", NOT_STARTABLE)
    if problem.errno == errno.ENOENT:
        if os.path.exists(name):
            return CannotStart(
                f"the interpreter that {shown} names in its first line does not exist", NOT_FOUND
            )
        return CannotStart(f"no such command: {shown}", NOT_FOUND)
    if problem.errno == errno.ENOEXEC:
        return CannotStart(f"{shown} is not a program of this machine and has no #! line", NOT_STARTABLE)
    if problem.errno in (errno.EACCES, errno.ENOTDIR, errno.EISDIR):
        return CannotStart(f"not executable: {shown}: {os.strerror(problem.errno)}", NOT_STARTABLE)
    if problem.errno == errno.E2BIG:
        return CannotStart("a word of the command or a variable is over 128 KiB; use a file", NOT_STARTABLE)
    code = None if problem.errno in _SHORTAGES else NOT_STARTABLE
    return CannotStart(f"cannot start {shown}: {os.strerror(problem.errno or 0)}", code)


def _fork_and_exec(
    job: Job, argv: list[str], outputs: tuple[int, int], host: Host, cgroup: JobCgroup | None
) -> int:
    """The slow way in, for another user or a cgroup. The child tells its failure through a pipe."""
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _become(job, argv, outputs, write_fd, host, cgroup)
    os.close(write_fd)
    try:
        told = os.read(read_fd, 4096).decode()
    finally:
        os.close(read_fd)
    if not told:
        return pid
    os.waitpid(pid, 0)
    code, _, message = told.partition(" ")
    raise CannotStart(message, int(code) if code != "-" else None)


def _become(
    job: Job, argv: list[str], outputs: tuple[int, int], write_fd: int, host: Host, cgroup: JobCgroup | None
) -> NoReturn:
    import signal

    try:
        os.setsid()
        os.dup2(outputs[0], 1)
        os.dup2(outputs[1], 2)
        if host.oom_protected:
            write("/proc/self/oom_score_adj", "0")
        if cgroup is not None:
            cgroup.enter()
        change_user(job.uid, job.gid)
        enter(job)
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        try:
            os.execve(find_program(argv[0], job.env), argv, job.env)
        except (OSError, ValueError) as problem:
            raise _explain(problem, argv[0]) from None
    except CannotStart as told:
        text = f"{'-' if told.exit_code is None else told.exit_code} {told.message}"
    except OSError as problem:
        text = f"- cannot prepare the process: {problem.strerror}"
    finally:
        # Reached only when exec failed: os.execve does not return.
        os.write(write_fd, text.encode()[:4000])
        os._exit(127)


def change_user(uid: int | None, gid: int | None) -> None:
    """Group first, then user: the other way round the right to change the group is gone."""
    if gid is not None:
        groups = [gid]
        if uid is not None:
            import pwd

            try:  # noqa: SIM105  contextlib is not loaded here
                groups = os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
            except KeyError:
                pass
        os.setgroups(groups)
        os.setresgid(gid, gid, gid)
    if uid is not None:
        if gid is None:
            raise CannotStart("a user id needs a group id with it; refused to keep the agent's group")
        os.setresuid(uid, uid, uid)


def write(path: str, text: str) -> None:
    """Write a file of the kernel. Raises `OSError`."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
