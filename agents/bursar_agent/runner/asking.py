"""Commands of container runtimes, asked one at a time, and files that are for their eyes alone.

Owns    the call with its deadline, what a runtime finds in its environment, whose account it runs as.
Why     a runtime that hangs must hold up nobody for ever, and none must find anything of a job's in its
        environment: with root's rights, a variable such as `LD_PRELOAD` would be a way to them.
"""

from __future__ import annotations

import os
import signal
import subprocess
from typing import Any

from bursar_agent.runner import spawning, tree

CALL_S = 120.0
"""A command of a runtime that makes or looks at something takes no longer, or its node is at fault."""
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Failed(Exception):
    """The container does not run; what the exit report says of it."""

    def __init__(self, message: str, cause: str = "start_failed", exit_code: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.cause = cause
        self.exit_code = exit_code


def runtime_env() -> dict[str, str]:
    """What a runtime finds in its environment: nothing of a job's."""
    import pwd

    env = {"PATH": _PATH, "HOME": "/"}
    try:  # noqa: SIM105  contextlib is not loaded here
        env["HOME"] = pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        pass
    run = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
    if os.path.isdir(run):
        env["XDG_RUNTIME_DIR"] = run
    return env


def call(
    argv: list[str], env: dict[str, str], timeout_s: float, job: spawning.Job | None = None
) -> tuple[int, str]:
    """Ask a runtime; its exit code and what it said. `job`: as its account. Raises `Failed`."""
    account = {} if job is None else account_of(job)
    try:
        asked = subprocess.Popen(
            argv, env=env, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, **account,
        )  # fmt: skip
    except OSError as problem:
        raise Failed(f"{argv[0]}: {problem.strerror}") from None
    try:
        out, err = asked.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        tree.send([asked.pid, *tree.descendants(asked.pid)], signal.SIGKILL)
        asked.wait()
        words = " ".join(argv[:3])
        raise Failed(f"container: `{words}` did not end within {timeout_s:g} s") from None
    said = out if asked.returncode == 0 else err or out
    return asked.returncode, said.decode("utf-8", "replace")


def account_of(job: spawning.Job) -> dict[str, Any]:
    """Words for `subprocess`: the account of a job; the caller's own where it has none."""
    if job.uid is None:
        return {}
    gid = os.getegid() if job.gid is None else job.gid
    return {"user": job.uid, "group": gid, "extra_groups": groups_of(job.uid, gid)}


def groups_of(uid: int, gid: int) -> list[int]:
    """Groups of an account beside its own."""
    if uid == os.geteuid():
        return [one for one in os.getgroups() if one != gid]
    import pwd

    try:
        return [one for one in os.getgrouplist(pwd.getpwuid(uid).pw_name, gid) if one != gid]
    except KeyError:
        return []


def stat_as(path: str, job: spawning.Job) -> tuple[int, int] | str:
    """Which file a path leads its job's account to, or why to none."""
    if job.uid is None:
        try:
            found = os.stat(path)
        except (OSError, ValueError) as problem:
            return getattr(problem, "strerror", None) or "embedded null byte"
        return found.st_dev, found.st_ino
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        said = "?"
        try:
            spawning.change_user(job.uid, job.gid)
            found = os.stat(path)
            said = f"{found.st_dev} {found.st_ino}"
        except OSError as problem:
            said = f"-{problem.strerror}"
        finally:
            os.write(write_fd, said.encode()[:1000])
            os._exit(0)
    os.close(write_fd)
    try:
        said = os.read(read_fd, 1000).decode()
    finally:
        os.close(read_fd)
        os.waitpid(pid, 0)
    if not said or not said[0].isdigit():
        return said[1:] or "cannot be looked at"
    device, _, number = said.partition(" ")
    return int(device), int(number)


def write_private(path: str, text: str, uid: int | None = None, gid: int | None = None) -> None:
    """Write a file that its account alone reads. Raises `OSError`."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(fd, "wb") as file:
        file.write(text.encode("utf-8", "surrogateescape"))
        if uid is not None:
            os.fchown(fd, uid, -1 if gid is None else gid)


def quoted(text: str) -> str:
    """As a shell reads it back."""
    return "'" + text.replace("'", "'\\''") + "'"
