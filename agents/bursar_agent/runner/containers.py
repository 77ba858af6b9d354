"""A member that runs in a container: its image fetched, its container made, run and removed.

Owns    the process that stands where a job's own would: it asks the runtime, one command after another, and
        ends as the container's first process did. Input: the job, and what a container is to be made of.
Why     a runtime's client says 125 to 127 for faults of its own and of the job alike; whoever makes, starts
        and looks one after the other knows which it was. It is a process of its own, so that a runtime that
        hangs holds up the job alone: its supervisor goes on minding limits and stops, and kills it.
Rule    the container's processes are below the supervisor, as all of a job's are; docker's, which are not,
        are found by the number of their first.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from typing import Any, NoReturn

from bursar_agent.runner import runtimes, scratch, secretfiles, spawning, tree
from bursar_agent.runner.asking import (
    CALL_S,
    Failed,
    account_of,
    call,
    groups_of,
    quoted,
    runtime_env,
    stat_as,
    write_private,
)
from bursar_agent.runner.images import Images
from bursar_agent.runner.layout import CONTAINER, MARKER_VARIABLE, write_atomically
from bursar_agent.runner.oomwatch import OomWatch
from bursar_agent.runner.runtimes import Mount, Wanted

REMOVE_S = 30.0
_SAID_MAX = 1 << 16
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SETUP_FAILED = ".bursar-setup-failed"
NAME = re.compile(r"bursar-[a-zA-Z0-9_.-]{1,200}")
HIDDEN = f"{runtimes.TOP}/env"
FILES_MAX = 1 << 20
SHM_BYTES = 1 << 34
"""At most so much of /dev/shm, which is memory, and counted as that."""

NO_RUNTIME = (
    "no container runtime works on this node; install podman there (`apt-get install podman`), and start its"
    " agent again"
)


class Seen:
    """A member's container as its record tells: for the supervisor, in whose current directory that is."""

    def __init__(self) -> None:
        self._record = read_record() or {}

    @property
    def out_of_memory(self) -> bool:
        """The kernel killed something in it for want of memory."""
        return self._record.get("out_of_memory") is True

    @property
    def digest(self) -> str:
        """Of its image; empty: not known."""
        found = self._record.get("digest")
        return found if isinstance(found, str) and runtimes.DIGEST.fullmatch(found) else ""

    @property
    def pull_us(self) -> int:
        """Until its image was there."""
        found = self._record.get("pull_us")
        return found if type(found) is int else 0

    def outside(self) -> list[int]:
        """Processes of it that are not below the supervisor: docker's, by the number of their first."""
        pid = self._record.get("init_pid")
        if type(pid) is not int or pid <= 1 or not tree.inner_pid(pid):
            return []
        return [pid, *tree.descendants(pid)]

    def tell(self, report: dict[str, Any]) -> bool:
        """Say in the report why it did not run; False: it did, and ended as the report has it."""
        problem = self._record.get("problem")
        if isinstance(problem, dict):
            report["end_cause"] = str(problem.get("cause") or "start_failed")
            report["exit_code"] = problem.get("exit_code")
            report["message"] = str(problem.get("message") or "")
            return True
        if self._record.get("setup_failed") and report["exit_code"] != 0:
            report["phase"] = "setup"
            report["end_cause"] = "failed"
            report["message"] = "setup failed; the run text was not started"
            return True
        return False

    def remove(self) -> None:
        """End and remove what is still there of it: whoever ran it was killed."""
        if self._record and not self._record.get("removed"):
            problem = remove(self._record)
            if problem:
                os.write(2, f"{self._record.get('name')}: {problem}\n".encode())


def spawn(
    job: spawning.Job,
    request: dict[str, Any],
    outputs: tuple[int, int],
    home_fd: int,
    host: spawning.Host,
    cgroup: spawning.JobCgroup | None,
) -> int:
    """Start the process that runs the container, in its own session; returns its pid."""
    pid = os.fork()
    if pid == 0:
        _become(job, request, outputs, home_fd, host, cgroup)
    return pid


def read_record(dir_fd: int | None = None) -> dict[str, Any] | None:
    """What is written of a member's container; None: it has none."""
    try:
        fd = os.open(CONTAINER, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=dir_fd)
    except OSError:
        return None
    try:
        found = json.loads(os.read(fd, _SAID_MAX))
    except (OSError, ValueError, RecursionError):
        return None
    finally:
        os.close(fd)
    return found if isinstance(found, dict) else None


def remove(record: dict[str, Any]) -> str:
    """End and remove the container of a record; what went wrong, in words. Blocking, `REMOVE_S` at most."""
    name, runtime = record.get("name"), record.get("runtime")
    if not isinstance(name, str) or not isinstance(runtime, dict) or not NAME.fullmatch(name):
        return ""
    private = record.get("private", f"{name}.container")  # of older releases there is none
    if isinstance(private, str) and NAME.fullmatch(private):
        scratch.remove(private_of(private))
    if runtime.get("kind") not in runtimes.OCI:
        return ""
    try:
        code, said = call(runtimes.remove(runtime, name), runtime_env(), REMOVE_S)
    except (Failed, KeyError, TypeError) as problem:
        return str(problem)
    missing = "no such container" in said.lower() or "no container with" in said.lower()
    return "" if code == 0 or missing else runtimes.last_line(said)


def private_of(name: str) -> str:
    """Where credentials and variables of a container lie while it is made, in memory alone.

    `name`: as its record has it, with a part that nobody can foretell.
    """
    return f"{secretfiles.MEMORY}/{name}"


def _become(
    job: spawning.Job,
    request: dict[str, Any],
    outputs: tuple[int, int],
    home_fd: int,
    host: spawning.Host,
    cgroup: spawning.JobCgroup | None,
) -> NoReturn:
    code = 125
    try:
        os.setsid()
        os.dup2(outputs[0], 1)
        os.dup2(outputs[1], 2)
        if host.oom_protected:
            spawning.write("/proc/self/oom_score_adj", "0")
        if cgroup is not None:
            cgroup.enter()
        for number in spawning.SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        code = Member(job, request, home_fd, cgroup is not None).run()
    except BaseException as problem:
        os.write(2, f"[bursar: container: {problem!r}]\n".encode())
    finally:
        os._exit(code)


class Member:
    """One member's container, from the pull to its removal; `run` gives the exit code."""

    def __init__(self, job: spawning.Job, request: dict[str, Any], home_fd: int, limited: bool) -> None:
        assert job.runtime is not None
        self._job = job
        self._request = request
        self._home_fd = home_fd
        self._limited = limited
        self._runtime = job.runtime
        self._image = runtimes.full_name(job.image)
        self._name = runtimes.container_name(job.marker)
        private = f"{self._name}.{os.urandom(spawning.NAME_BYTES).hex()}.container"
        self._private = private_of(private)
        self._path = ""
        self._images = Images(job, request, home_fd, self._private)
        self._record: dict[str, Any] = {
            "name": self._name, "private": private, "runtime": self._runtime,
            "image": self._image, "digest": "", "pull_us": 0,
            "began": False, "init_pid": 0, "out_of_memory": False, "setup_failed": False, "problem": None,
        }  # fmt: skip

    def run(self) -> int:
        """From the pull to the end; the container's exit code, or what stands in for one."""
        self._keep()
        try:
            self._make_private()
            made = self._fetch()
            code = self._run_oci(made) if self._runtime["kind"] in runtimes.OCI else self._run_alone(made)
        except Failed as problem:
            code = 125 if problem.exit_code is None else problem.exit_code
            self._record["problem"] = {
                "message": problem.message,
                "cause": problem.cause,
                "exit_code": problem.exit_code,
            }
        self._record["setup_failed"] = os.path.lexists(f"{self._job.scratch_dir}/{SETUP_FAILED}")
        self._keep()
        stays = remove(self._record)
        if stays:
            os.write(2, f"[bursar: container {self._name} is not removed: {stays}]\n".encode())
        else:
            self._record["removed"] = True
            self._keep()
        return code

    def _keep(self) -> None:
        write_atomically(CONTAINER, json.dumps(self._record).encode(), self._home_fd)

    def _make_private(self) -> None:
        scratch.remove(self._private)
        try:
            os.mkdir(self._private, 0o700)
            if self._job.uid is not None and self._runtime["kind"] not in runtimes.OCI:
                os.chown(self._private, self._job.uid, -1 if self._job.gid is None else self._job.gid)
        except OSError as problem:
            raise Failed(f"directory {self._private}: {problem.strerror}") from None

    def _fetch(self) -> str:
        """Have the image here; what a container is made of."""
        before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        try:
            image = self._images.fetch()
        finally:
            self._record["pull_us"] = (time.clock_gettime_ns(time.CLOCK_BOOTTIME) - before) // 1000
        self._record["digest"] = image.digest
        self._path = image.path
        self._keep()
        return image.made_of

    # --- a runtime that keeps containers ----------------------------------------------------------

    def _run_oci(self, image: str) -> int:
        runtime, name, env = self._runtime, self._name, runtime_env()
        wanted = self._wanted(image)
        found = self._found_as_the_user(wanted)
        self._ask(runtimes.create(runtime, wanted), env)
        os.unlink(wanted.env_file)
        pid = 0
        if runtime["kind"] == "podman":
            self._ask(runtimes.init(runtime, name), env)
            pid = self._pid(env)
            self._same_mounts(pid, found)
            self._has_program(pid, wanted)
        code, out_of_memory = self._attached(runtimes.start(runtime, name), env, pid)
        state = self._state(env)
        began = not str(state.get("StartedAt") or "0001").startswith("0001")
        self._record["began"] = began
        self._record["out_of_memory"] = out_of_memory or state.get("OOMKilled") is True
        if not began:
            said = str(state.get("Error") or "") or f"{runtime['kind']} start ended with {code}"
            own = {spawning.NOT_FOUND: "exec: not found", spawning.NOT_STARTABLE: "exec: permission denied"}
            raise self._not_started(own.get(code, said))
        ended = state.get("ExitCode")
        return ended & 0xFF if type(ended) is int else code

    def _attached(self, argv: list[str], env: dict[str, str], pid: int) -> tuple[int, bool]:
        """Have it run; its output goes where ours does. The exit code of the runtime's client, and whether
        the kernel killed something in it for want of memory.
        """
        try:
            running = subprocess.Popen(argv, env=env | self._mark(), stdin=subprocess.DEVNULL, cwd="/")
        except OSError as problem:
            raise Failed(f"{argv[0]}: {problem.strerror}") from None
        if not pid:
            # Docker's containers are below its daemon: their first process leads to all of them.
            pid = self._pid(env)
            self._record["init_pid"] = pid
            self._keep()
        watch, pidfd = OomWatch(pid), os.pidfd_open(running.pid)
        watch.wait(pidfd)
        watch.close()
        return running.wait(), watch.seen

    def _pid(self, env: dict[str, str]) -> int:
        """Of its first process; 0: it has none."""
        pid = self._state(env).get("Pid")
        return pid if type(pid) is int else 0

    def _mark(self) -> dict[str, str]:
        return {MARKER_VARIABLE: self._job.marker}

    def _state(self, env: dict[str, str]) -> dict[str, Any]:
        code, said = call(runtimes.state(self._runtime, self._name), env, CALL_S)
        try:
            found = json.loads(said)[0]["State"] if code == 0 else {}
        except (ValueError, LookupError, TypeError):
            found = {}
        return found if isinstance(found, dict) else {}

    def _ask(self, argv: list[str], env: dict[str, str]) -> None:
        code, said = call(argv, env | self._mark(), CALL_S)
        if code != 0:
            raise self._not_started(said)

    def _not_started(self, said: str) -> Failed:
        """The runtime would not: for want of the job's command, or for a fault of the node."""
        text, job = runtimes.last_line(said), self._job
        low = text.lower()
        plain = job.argv and not job.setup
        name = spawning.shortened(job.argv[0] if plain else "/bin/sh")
        if "exec" in low and ("not found" in low or "no such file" in low):
            return Failed(f"no such command: {name} (in image {self._image})", "failed", 127)
        if "exec" in low and "permission denied" in low:
            return Failed(f"not executable: {name} (in image {self._image})", "failed", 126)
        return Failed(f"container: {text}")

    # --- what it is made of -----------------------------------------------------------------------

    def _wanted(self, image: str) -> Wanted:
        job, request = self._job, self._request
        env, hidden = self._environment()
        env_file = f"{self._private}/env"
        write_private(env_file, "".join(f"{name}={value}\n" for name, value in env.items()))
        mounts = self._mounts()
        if hidden:
            text = "".join(f"export {name}={quoted(value)}\n" for name, value in hidden.items())
            write_private(f"{self._private}/hidden", text, job.uid, job.gid)
            mounts.append(Mount(f"{self._private}/hidden", HIDDEN, True))
        rootless = bool(self._runtime.get("rootless"))
        uid = os.geteuid() if job.uid is None else job.uid
        gid = os.getegid() if job.gid is None else job.gid
        memory = int(request.get("memory_limit_bytes") or 0)
        return Wanted(
            name=self._name,
            member=job.marker,
            image=image,
            argv=argv_of(job, HIDDEN if hidden else "", "" if env.get("PATH") else steps_path(job)),
            env_file=env_file,
            variables=list(env),
            mounts=mounts,
            workdir=job.cwd,
            # A daemon that is the user's own takes its root for that user.
            user="0:0" if self._runtime.get("root_is_user") else f"{uid}:{gid}",
            groups=() if rootless else tuple(groups_of(uid, gid)),
            own_root=uid == 0 and not rootless,
            memory_bytes=0 if self._limited else memory,
            cpu_milli=0 if self._limited else int(request.get("cpu_limit_milli") or 0),
            pids=0 if self._limited else spawning.PIDS_MAX,
            gpus=tuple(request.get("gpus") or ()),
            shared_ipc="CUDA_MPS_PIPE_DIRECTORY" in job.env,
            shm_bytes=min(memory or SHM_BYTES, SHM_BYTES),
            limits=_ulimits(),
        )

    def _environment(self) -> tuple[dict[str, str], dict[str, str]]:
        """The variables of the container, and those among them that reach no disk or have several lines."""
        job = self._job
        env = {
            name: value
            for name, value in job.env.items()
            if (name in job.own_names or name not in spawning.OF_THE_HOST)
            and (name != spawning.STEPS_VARIABLE or job.steps_dir)
        }
        # What apptainer and enroot make of an image sets its own, which nobody can ask for before.
        alone = self._runtime["kind"] not in runtimes.OCI
        path = env.get("PATH", "") if "PATH" in job.own_names else "" if alone else self._path or _PATH
        env.update(container_paths(job, path))
        if self._request.get("gpus") and "CUDA_MPS_PIPE_DIRECTORY" not in env:
            # Only its own devices are there, and they are counted from 0.
            env["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, range(len(self._request["gpus"]))))
        secret = {one.partition(":")[0] for one in env.get("BURSAR_SECRET_NAMES", "").split(",")}
        hidden = {
            name: value
            for name, value in env.items()
            if (name in secret and name not in job.secret_files) or "\n" in value or "\r" in value
        }
        # What a shell cannot export (an exported function of bash, say) cannot come by a file of one.
        plain = {name: value for name, value in env.items() if name not in hidden and _is_line(name, value)}
        return plain, {name: value for name, value in hidden.items() if name.isidentifier()}

    def _mounts(self) -> list[Mount]:
        job = self._job
        mounts = [Mount(job.scratch_dir, runtimes.PRIVATE_TMP)]
        if job.cwd != "/":
            mounts.append(Mount(job.cwd, job.cwd))
        mounts += [
            Mount(path, path) for path in (job.checkpoint_dir, job.progress_dir) if path and path != job.cwd
        ]
        if job.secrets_dir:
            mounts.append(Mount(job.secrets_dir, job.secrets_dir, True))
        if job.steps_dir:
            mounts.append(Mount(job.steps_dir, runtimes.STEPS))
            mounts.append(Mount(f"{self._runtime['library']}/bursar", f"{runtimes.LIB}/bursar", True))
        if job.setup:
            mounts.append(Mount(spawning.write_setup(job), runtimes.SETUP, True))
        if not job.argv or job.engine_script:
            mounts.append(Mount(spawning.write_script(job), runtimes.SCRIPT, True))
        if "CUDA_MPS_PIPE_DIRECTORY" in job.env:
            pipes = job.env["CUDA_MPS_PIPE_DIRECTORY"]
            mounts.append(Mount(pipes, pipes))
        mounts += [parse_mount(text) for text in job.mounts]
        for mount in mounts:
            if "," in mount.source + mount.target or '"' in mount.source + mount.target:
                shown = spawning.shortened(mount.source)
                raise Failed(f"mount of {shown!r}: a path with a comma cannot be mounted", "failed", 126)
            self._make_room(mount)
        return mounts

    def _make_room(self, mount: Mount) -> None:
        """In its private /tmp a place for what is mounted below; a runtime would make one not ours."""
        below = mount.target.removeprefix(f"{runtimes.PRIVATE_TMP}/")
        if below != mount.target and os.path.isdir(mount.source):
            try:
                os.makedirs(f"{self._job.scratch_dir}/{below}", exist_ok=True)
            except OSError as problem:
                raise Failed(f"mount at {mount.target!r}: {problem.strerror}") from None

    def _found_as_the_user(self, wanted: Wanted) -> dict[str, tuple[int, int]]:
        """What the job itself named must be within its account's reach: by target, which file it is.

        A runtime that is root would mount what that account cannot come to. Raises `Failed`.
        """
        job = self._job
        named = [Mount(job.cwd, job.cwd)] if job.cwd != "/" else []
        named += [parse_mount(text) for text in job.mounts]
        found = {}
        for mount in named:
            seen = stat_as(mount.source, job)
            if isinstance(seen, str):
                if mount.source == job.cwd:
                    raise Failed(
                        f"working directory {spawning.shortened(job.cwd)!r}: {seen}",
                        "failed" if job.cwd_is_own else "start_failed",
                        126 if job.cwd_is_own else None,
                    )
                raise Failed(f"mount of {spawning.shortened(mount.source)!r}: {seen}", "failed", 126)
            found[mount.target] = seen
        return found

    def _has_program(self, pid: int, wanted: Wanted) -> None:
        """Say that the command is not there before what starts it says so in its own words. Raises `Failed`.

        A link of the image may lead anywhere, so that there is one is enough.
        """
        root, name = f"/proc/{pid}/root", wanted.argv[0]
        try:
            os.stat(f"{root}/")
        except OSError:
            return  # it is another account's: whoever starts it will say
        if "/" in name:
            places = [os.path.join(wanted.workdir, name)]
        else:
            path = self._environment()[0].get("PATH", "")
            places = [os.path.join(wanted.workdir, folder, name) for folder in path.split(":")]
        if not any(os.path.lexists(root + place) for place in places):
            raise self._not_started("exec: not found")

    def _same_mounts(self, pid: int, found: dict[str, tuple[int, int]]) -> None:
        """A path can be made to lead elsewhere between our look and the runtime's: look again from inside,
        while nothing of the job runs yet. Raises `Failed`.
        """
        if self._job.uid is None:
            return
        for target, seen in found.items():
            try:
                now = os.stat(f"/proc/{pid}/root{target}")
            except OSError as problem:
                raise Failed(f"mount of {target!r} cannot be seen: {problem.strerror}") from None
            if (now.st_dev, now.st_ino) != seen:
                raise Failed(f"mount of {target!r} led elsewhere when it was mounted", "failed", 126)

    # --- a runtime that runs as the user ----------------------------------------------------------

    def _run_alone(self, image: str) -> int:
        job, runtime = self._job, self._runtime
        wanted = self._wanted(image)
        plain = {name: value for name, value in self._environment()[0].items() if value or name != "PATH"}
        self._found_as_the_user(wanted)
        if runtime["kind"] == "enroot":
            program = runtimes.base(runtime)
            code, said = call(
                [*program, "create", "--force", "--name", self._name, image],
                self._images.user_env({}), CALL_S, job,
            )  # fmt: skip
            if code != 0:
                raise Failed(f"container: {runtimes.last_line(said)}")
            argv, env = runtimes.run_enroot(runtime, wanted), self._images.user_env(plain)
        else:
            named = {f"APPTAINERENV_{name}": value for name, value in plain.items()}
            argv, env = runtimes.run_apptainer(runtime, wanted), self._images.user_env(named)
        try:
            running = subprocess.Popen(
                argv, env=env | self._mark(), stdin=subprocess.DEVNULL, cwd="/", **account_of(job)
            )
        except OSError as problem:
            raise Failed(f"{argv[0]}: {problem.strerror}") from None
        code = running.wait()
        self._record["began"] = True
        if runtime["kind"] == "enroot":
            call([*runtimes.base(runtime), "remove", "--force", self._name], env, CALL_S, job)
        return 128 - code if code < 0 else code


def steps_path(job: spawning.Job) -> str:
    """Where a container has the programs for steps; empty: nowhere."""
    return f"{runtimes.STEPS}/container/bin" if job.steps_dir else ""


def argv_of(job: spawning.Job, hidden_file: str, more_path: str = "") -> list[str]:
    """The words that a container starts with: the command as it is, or a shell that reads what it must first.

    Setup and run are one container, since what the setup installs is in it. A bash where the image has one.
    """
    lines, words = [], []
    if hidden_file:
        lines.append(f". {quoted(hidden_file)} || exit 126")
    if more_path:
        lines.append(f"PATH=$PATH:{more_path}; export PATH")
    program = [] if job.argv else spawning.interpreter(job.script)
    text = not job.argv and not program
    if job.setup or text:
        lines.append("b=sh; if command -v bash >/dev/null 2>&1; then b=bash; fi")
    if job.setup:
        failed = f"{runtimes.PRIVATE_TMP}/{SETUP_FAILED}"
        lines.append(f'"$b" {runtimes.SETUP} || {{ c=$?; : >{failed}; exit "$c"; }}')
    if text:
        lines.append(f'exec "$b" {runtimes.SCRIPT} "$@"')
        words += job.arguments
    else:
        words += job.words(runtimes.SCRIPT) or [*program, runtimes.SCRIPT, *job.arguments]
        if not lines:
            return words
        lines.append('exec "$@"')
    return ["/bin/sh", "-c", "\n".join(lines), "sh", *words]


def container_paths(job: spawning.Job, path: str) -> dict[str, str]:
    """The variables that name a place, with where that is in the container."""
    found = {"TMPDIR": runtimes.PRIVATE_TMP}
    for name, value in job.env.items():
        if value == job.scratch_dir:
            found[name] = runtimes.PRIVATE_TMP
    home = job.env.get("HOME", "/")
    targets = [job.cwd, *(parse_mount(text).target for text in job.mounts)]
    if home == "/" or not any(home == one or home.startswith(one.rstrip("/") + "/") for one in targets):
        found["HOME"] = job.env["HOME"] if "HOME" in job.own_names else runtimes.PRIVATE_TMP
    if job.steps_dir:
        steps = f"{runtimes.STEPS}/container"
        found[spawning.STEPS_VARIABLE] = steps
        path = path and f"{path}:{steps}/bin"
        if "SLURM_JOB_ID" in job.own_names:
            path = path and f"{steps}/slurm:{path}"
            found["BASH_ENV"] = f"{steps}/bash-env"
    found["PATH"] = path
    return found


def parse_mount(text: str) -> Mount:
    """`/on/the/node:/in/the/container[:ro]`; `bursar.model.check` has seen it."""
    source, _, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    return Mount(source, target or source, mode == "ro")


def _is_line(name: str, value: str) -> bool:
    """Can it stand in a file of variables?"""
    return bool(name) and not any(c in name for c in "#=\n\r*") and name.strip() == name and "\0" not in value


def _ulimits() -> tuple[tuple[str, int], ...]:
    """Ours, which a runtime would otherwise raise beyond what we may; podman has no more processes itself."""
    import resource

    found = []
    for name, number, most in (
        ("nofile", resource.RLIMIT_NOFILE, FILES_MAX),
        ("nproc", resource.RLIMIT_NPROC, spawning.PIDS_MAX),
    ):
        hard = resource.getrlimit(number)[1]
        found.append((name, most if hard == resource.RLIM_INFINITY else min(hard, most)))
    return tuple(found)
