"""The private directory for temporary files of one member, there from its start to its end.

Owns    where it is, and that nothing of it stays. Input: the member's name.
Why     scripts end with `rm -rf $SLURM_TMPDIR/*`; where the variable is empty, that is `rm -rf /*`. It lies
        where the machine keeps temporary files, not beside our records, for it may become large.
"""

from __future__ import annotations

import os

PLACEHOLDER = "@scratch"
"""The daemon writes this where only the node can know the path."""


def place() -> str:
    """Where this machine keeps temporary files. Agent, launcher and supervisor have one environment."""
    return os.environ.get("TMPDIR") or "/tmp"


def path_of(name: str) -> str:
    """Where the directory of a member is (`spawning.Job.new_name`)."""
    return f"{place()}/bursar-{name}.scratch"


def make(path: str, uid: int | None, gid: int | None) -> None:
    """Make it, for its user alone. Raises `OSError`, also when it is there: then somebody else made it."""
    os.mkdir(path, 0o700)
    if uid is not None:
        os.chown(path, uid, -1 if gid is None else gid)


def remove(path: str) -> None:
    """Remove it with all that is in it; what cannot be removed stays, and is said on our standard error.

    Directories become ours and open first, each through a descriptor that nobody can exchange: the agent's
    unit is root without the right to pass by modes, and some programs shut their own (Go's module cache).
    They are emptied one at a time and what is below them is moved up, so that no depth is too much.
    """
    parent, _, name = path.rpartition("/")
    try:
        parent_fd = os.open(parent or "/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as problem:
        _say_stays(path, problem)
        return
    try:
        _remove_tree(name, parent_fd)
    except FileNotFoundError:
        pass
    except NotADirectoryError:
        _try_unlink(name, parent_fd, path)
    except OSError as problem:
        _say_stays(path, problem)
    finally:
        os.close(parent_fd)


def _remove_tree(name: str, parent_fd: int) -> None:
    top = _take(name, parent_fd)
    try:
        waiting = os.listdir(top)
        used, number = set(waiting), 0
        while waiting:
            one = waiting.pop()
            if _try_unlink(one, top):
                continue
            try:
                inner_fd = _take(one, top)
                try:
                    for inner in os.listdir(inner_fd):
                        if _try_unlink(inner, inner_fd):
                            continue
                        os.close(
                            _take(inner, inner_fd)
                        )  # who moves a directory must be able to write into it
                        while (free := f"moved.{number}") in used:
                            number += 1
                        number += 1
                        os.rename(inner, free, src_dir_fd=inner_fd, dst_dir_fd=top)
                        waiting.append(free)
                finally:
                    os.close(inner_fd)
                os.rmdir(one, dir_fd=top)
            except OSError as problem:
                _say_stays(one, problem)
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=parent_fd)


def _take(name: str, parent_fd: int) -> int:
    """Open a directory that is nobody's but ours from here on. Raises `OSError`, also for a link."""
    found = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)
    try:
        here = f"/proc/self/fd/{found}"
        status = os.fstat(found)
        if status.st_uid != os.geteuid():
            os.chown(here, os.geteuid(), -1)
        if status.st_mode & 0o777 != 0o700:
            os.chmod(here, 0o700)
        return os.open(here, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(found)


def _try_unlink(name: str, folder_fd: int, path: str = "") -> bool:
    """Remove what is no directory; False for one."""
    try:
        os.unlink(name, dir_fd=folder_fd)
    except FileNotFoundError:
        pass
    except IsADirectoryError:
        return False
    except OSError as problem:
        _say_stays(path or name, problem)
    return True


def _say_stays(path: str, problem: OSError) -> None:
    os.write(2, f"{path} stays: {problem}\n".encode("utf-8", "surrogateescape"))


def remove_file(path: str) -> None:
    """Remove a file that lies outside our directory; one that its owner has removed is as good."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as problem:
        _say_stays(path, problem)
