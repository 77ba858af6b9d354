"""Which container runtime works on this node, found by trying.

Owns    the trial of podman, docker, apptainer and enroot, what is kept of it, and what the node says of it.
Input   the setting, the programs on the PATH. Output: a runtime as `runner.runtimes` speaks to it.
Why     a program that is installed says little: its daemon is down, its cgroups are of another version, its
        namespaces are forbidden to whoever runs it. A job must not come here to find that out. So a container
        is really run, of nothing but directories of this machine; docker, which needs an image for that, is
        asked whether its daemon answers.

A trial may take a second, so what it found is kept until the machine starts again, a program changes, or the
agent is given other cgroups. That none works is not kept: somebody may be at it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

import bursar
from bursar.model.constraints import CONTAINER_GPUS, CONTAINERS
from bursar_agent.runner import runtimes
from bursar_agent.runner.asking import runtime_env

log = logging.getLogger(__name__)

AUTO, OFF = "auto", "off"
TRIAL_S: Final = 20.0
"""All trials together."""
CALL_S: Final = 8.0
"""One of them. A daemon that is down is refused at once; one that hangs is no runtime."""
_SAID_MAX: Final = 300
_FOLDERS: Final = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "etc")
_MADE: Final = ("proc", "sys", "dev", "tmp", "run")
_CDI: Final = ("/etc/cdi", "/var/run/cdi")
_IGNORED: Final = re.compile(r"ignored|not supported|discarded|cannot set", re.IGNORECASE)
"""In what a runtime warns of that runs a container without a limit."""
_LIMITS: Final = ("memory", "cpu", "pids")


class Found(msgspec.Struct, frozen=True):
    """What was found.

    Attributes:
        runtime: what the runner is given; None: nothing works.
        problems: why each of those that are installed does not.
    """

    runtime: Mapping[str, Any] | None = None
    problems: tuple[str, ...] = ()

    def labels(self, simulated: bool) -> dict[str, str]:
        """What the node says of itself, for placement. `simulated`: its devices do not exist."""
        if self.runtime is None:
            return {}
        found = {CONTAINERS: f"{self.runtime['kind']}-{self.runtime['version']}"}
        gpus = "simulated" if simulated else self.runtime["gpus"]
        return found | ({CONTAINER_GPUS: gpus} if gpus else {})


def find(setting: str, limited: bool, devices: bool, cache: Path | None = None) -> Found:
    """Try what is installed, in the order of preference, until one works. Blocking, `TRIAL_S` at most.

    Args:
        setting: auto, off, or the one to use.
        limited: members have a cgroup of their own, which holds their limits.
        devices: there are GPUs that exist.
        cache: where what was found is kept; default: a private file of this account in the temporary folder.
    """
    if setting == OFF:
        return Found()
    kinds = runtimes.KINDS if setting == AUTO else (setting,)
    programs = {kind: path for kind in kinds if (path := shutil.which(kind))}
    kept = cache or Path(tempfile.gettempdir()) / f"bursar-{os.geteuid()}.containers.json"
    key = _key(programs, limited, devices)
    known = _kept(kept, key)
    if known is not None:
        return Found(known)
    until, problems = time.monotonic() + TRIAL_S, []
    for kind, program in programs.items():
        runtime, problem = _try(kind, os.path.realpath(program), limited, devices, until)
        if runtime is not None:
            _keep(kept, key, runtime)
            return Found(runtime)
        problems.append(f"{kind}: {problem}")
        log.info("container runtime does not work", extra={"runtime": kind, "problem": problem})
    return Found(None, tuple(problems))


def _try(
    kind: str, program: str, limited: bool, devices: bool, until: float
) -> tuple[dict[str, Any] | None, str]:
    """The runtime if it works, or why not."""
    plain: dict[str, Any] = {
        "kind": kind, "program": program, "version": "", "globals": [], "create": [], "init": False,
        "holds": [], "cgroup": False, "rootless": os.geteuid() != 0, "gpus": "",
        "library": str(Path(bursar.__file__).resolve().parents[1]),
    }  # fmt: skip
    if kind == "docker":
        return _try_docker(plain, until)
    said, problem = _ask([program, "--version" if kind != "enroot" else "version"], until)
    if problem:
        return None, problem
    plain["version"] = _version(said)
    if kind == "podman":
        return _try_podman(plain, limited, devices, until)
    # Both run as the user, below the supervisor and in its cgroup; all they need is to make namespaces.
    if kind == "apptainer":
        _, problem = _try_apptainer(program, until)
        if problem:
            return None, problem
    return plain | {"cgroup": True, "gpus": "runtime" if devices else ""}, ""


def _try_docker(plain: dict[str, Any], until: float) -> tuple[dict[str, Any] | None, str]:
    sockets = ("/var/run/docker.sock", f"{runtime_env().get('XDG_RUNTIME_DIR', '')}/docker.sock")
    if not any(map(os.path.exists, sockets)):
        return None, f"its daemon does not run: there is no {sockets[0]}"
    said, problem = _ask([plain["program"], "info", "--format", "{{json .}}"], until)
    try:
        info = json.loads(said) if not problem else {}
    except ValueError:
        problem = "what it says of itself is not understood"
    if not problem and (not isinstance(info, dict) or not info.get("ServerVersion")):
        problem = "its daemon does not answer"
    if problem:
        return None, problem
    holds = [
        name for name, key in (("memory", "MemoryLimit"), ("cpu", "CpuCfsQuota"), ("pids", "PidsLimit"))
        if info.get(key) is True
    ]  # fmt: skip
    if info.get("SwapLimit") is True:
        holds.append("swap")
    gpus = "runtime" if "nvidia" in (info.get("Runtimes") or {}) else "cdi" if _cdi() else ""
    found = {"version": str(info["ServerVersion"])[:40], "init": True, "holds": holds, "gpus": gpus}
    rootless = any("rootless" in str(one) for one in info.get("SecurityOptions") or ())
    return plain | found | {"rootless": False, "root_is_user": rootless}, ""


def _try_podman(
    plain: dict[str, Any], limited: bool, devices: bool, until: float
) -> tuple[dict[str, Any] | None, str]:
    """Run one with what it shall be run with, at first with all, then with less."""
    del devices
    problem = "no trial was made"
    with tempfile.TemporaryDirectory(prefix="bursar-trial.") as folder:
        root = Path(folder) / "root"
        for name in (*_FOLDERS, *_MADE):
            (root / name).mkdir(parents=True)
        for variant in _variants(limited):
            runtime = plain | variant
            _, problem = _ask(_trial(runtime, root), until, held=bool(runtime["holds"]))
            if not problem:
                return runtime | {"gpus": _cdi()}, ""
            if time.monotonic() >= until:
                break
    return None, problem


def _variants(limited: bool) -> Iterator[dict[str, Any]]:
    """Ways to run it, the best first. In the cgroup of its member where there is one, or with limits of its
    own; with what looks after signals and orphans in it; with the other program below it.
    """
    inside = {"create": ["--cgroups=disabled"], "cgroup": True, "holds": []}
    own = [{"holds": [*_LIMITS, "swap"]}, {"holds": list(_LIMITS)}]
    ways: list[dict[str, Any]] = [inside, *own] if limited else [*own, inside]
    for way in (*ways, {"holds": []}):
        # runc makes none without a cgroup.
        below: Sequence[list[str]] = ([],) if way is inside else ([], ["--runtime=runc"])
        for words in below:
            yield way | {"globals": words, "init": True}
    yield {"globals": [], "init": False, "holds": []}


def _trial(runtime: dict[str, Any], root: Path) -> list[str]:
    """A container of directories of this machine, without an image, that ends at once."""
    wanted = runtimes.Wanted(
        name=f"bursar-trial-{os.getpid()}",
        member="trial",
        image=str(root),
        argv=["/bin/sh", "-c", "exit 0"],
        env_file=os.devnull,
        variables=[],
        mounts=[
            runtimes.Mount(f"/{name}", f"/{name}", True) for name in _FOLDERS if os.path.isdir(f"/{name}")
        ],
        workdir="/",
        user=f"{os.geteuid()}:{os.getegid()}",
        own_root=os.geteuid() == 0,
        memory_bytes=64 << 20,
        cpu_milli=1000,
        pids=64,
        limits=(("nofile", 1024), ("nproc", 1024)),
    )
    words = runtimes.create(runtime, wanted)
    # The same words as a job's, of a directory in place of an image, run and removed in one.
    at = words.index("create")
    words[at : at + 1] = ["run", "--rm"]
    where = words.index(str(root))
    words.insert(where, "--rootfs")
    never = words.index("--pull")
    del words[never : never + 2]
    return words


def _try_apptainer(program: str, until: float) -> tuple[str, str]:
    with tempfile.TemporaryDirectory(prefix="bursar-trial.") as folder:
        for name in (*_FOLDERS, *_MADE):
            Path(folder, name).mkdir()
        binds = [word for name in _FOLDERS if os.path.isdir(f"/{name}") for word in ("--bind", f"/{name}")]
        return _ask(
            [program, "--silent", "exec", "--no-home", *binds, folder, "/bin/sh", "-c", "exit 0"], until
        )


def _ask(argv: Sequence[str], until: float, held: bool = False) -> tuple[str, str]:
    """What a program says, or why it says nothing. `held`: not if it warns that it ignores a limit."""
    left_s = min(CALL_S, until - time.monotonic())
    if left_s <= 0:
        return "", "no time was left to try it"
    try:
        asked = subprocess.run(
            argv, env=runtime_env(), cwd="/", stdin=subprocess.DEVNULL, capture_output=True, timeout=left_s
        )
    except subprocess.TimeoutExpired:
        return "", f"it did not answer within {left_s:.0f} s"
    except OSError as problem:
        return "", problem.strerror or str(problem)
    if asked.returncode != 0:
        said = (asked.stderr or asked.stdout).decode("utf-8", "replace")
        return "", runtimes.last_line(said, _SAID_MAX) or f"it ended with {asked.returncode}"
    warned = asked.stderr.decode("utf-8", "replace")
    if held and _IGNORED.search(warned):
        return "", runtimes.last_line(warned, _SAID_MAX)
    return asked.stdout.decode("utf-8", "replace"), ""


def _cdi() -> str:
    """`cdi` where somebody has described the devices of this machine for containers."""
    for folder in _CDI:
        try:
            if any("nvidia" in name for name in os.listdir(folder)):
                return "cdi"
        except OSError:
            continue
    return ""


def _version(said: str) -> str:
    """The number in `podman version 4.3.1`."""
    words = [word.strip(",") for word in said.split()]
    return next((word[:40] for word in words if word[:1].isdigit()), "unknown")


def _key(programs: Mapping[str, str], limited: bool, devices: bool) -> str:
    """What must be as it was for what was found to hold."""
    parts = [sys.executable, bursar.__version__, bursar.__file__, str(limited), str(devices), _cdi()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        for kind, path in sorted(programs.items()):
            found = os.stat(path)
            parts.append(f"{kind} {path} {found.st_mtime_ns} {found.st_ino}")
        for below in ("crun", "runc"):
            path = shutil.which(below) or ""
            parts.append(f"{below} {os.stat(path).st_mtime_ns}" if path else below)
    except OSError:
        return ""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _kept(path: Path, key: str) -> dict[str, Any] | None:
    """What was found before; None where it is not there, not ours, or of something else."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            found = os.fstat(fd)
            if found.st_uid != os.geteuid() or found.st_mode & 0o022:
                return None
            kept = json.loads(file.read(1 << 16))
        runtime = kept["runtime"] if key and kept["key"] == key else None
        return runtime if isinstance(runtime, dict) and runtime.get("kind") in runtimes.KINDS else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _keep(path: Path, key: str, runtime: Mapping[str, Any]) -> None:
    try:
        fd, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")
        with open(fd, "w") as file:
            json.dump({"key": key, "runtime": runtime}, file)
        os.replace(name, path)
    except OSError as problem:
        log.info("trial of containers not kept", extra={"file": str(path), "problem": problem.strerror})
