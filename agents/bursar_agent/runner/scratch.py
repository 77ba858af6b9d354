"""The private directory for temporary files of one member, there from its start to its end.

Owns    where it is, and that nothing of it stays. Input: the member's name.
Why     scripts end with `rm -rf $SLURM_TMPDIR/*`; where the variable is empty, that is `rm -rf /*`. It lies
        where the machine keeps temporary files, not beside our records, for it may become large.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

PLACEHOLDER = "@scratch"
"""The daemon writes this where only the node can know the path."""


def path_of(member: str) -> str:
    """Where the directory of a member is. Agent, launcher and supervisor have one environment."""
    return f"{os.environ.get('TMPDIR') or '/tmp'}/bursar-{member}.scratch"


def make(path: str, uid: int | None, gid: int | None) -> None:
    """Make it, for its user alone. Raises `OSError`, also when it is there: then somebody else made it."""
    os.mkdir(path, 0o700)
    if uid is not None:
        os.chown(path, uid, -1 if gid is None else gid)


def remove(path: str) -> None:
    """Remove it with all that is in it; what cannot be removed stays, and is said on our standard error."""
    try:
        os.rmdir(path)
        return
    except FileNotFoundError:
        return
    except OSError:
        pass
    import shutil

    shutil.rmtree(path, onerror=_again)


def _again(remove_one: Callable[..., Any], path: str, problem: Any) -> None:
    """A folder that its own user may not write into (Go's module cache) is opened, and tried again."""
    if os.geteuid() != 0 and isinstance(problem[1], PermissionError):
        # Never as root: it needs no permission, and a name may have become a link to somebody's file.
        try:
            os.chmod(os.path.dirname(path), 0o700)
            if os.path.isdir(path) and not os.path.islink(path):
                os.chmod(path, 0o700)
                remove(path)
            else:
                os.unlink(path)
            return
        except OSError as again:
            problem = (None, again)
    if not isinstance(problem[1], FileNotFoundError):
        os.write(2, f"{path} stays: {problem[1]}\n".encode())
