"""The private files of one member that hold secrets, there from its start to its end, in memory alone.

Owns    where they are, their modes and owner. Input: the member's name, the contents by name.
Why     many programs want a path, and a secret must never reach a disk: blocks of a removed file stay
        readable. So the directory lies on the machine's tmpfs, and a node that has none starts no such job.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from bursar_agent.runner import scratch

MEMORY = "/dev/shm"
VARIABLE = "BURSAR_SECRETS_DIR"


def path_of(name: str) -> str:
    """Where the directory of a member is (`spawning.Job.new_name`)."""
    return f"{MEMORY}/bursar-{name}.secrets"


def make(path: str, files: Mapping[str, str], uid: int | None, gid: int | None) -> None:
    """Make the directory (0700) and its files (0600), for their user alone.

    Raises `OSError`, also when the directory is there: then somebody else made it, and it stays as it is.
    """
    os.mkdir(path, 0o700)
    owner = (-1 if uid is None else uid, -1 if gid is None else gid)
    try:
        for name, content in files.items():
            fd = os.open(f"{path}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(fd, "wb") as file:
                file.write(content.encode("utf-8", "surrogateescape"))
                os.fchmod(fd, 0o600)
                os.fchown(fd, *owner)
        os.chown(path, *owner)
    except OSError:
        remove(path)
        raise


def remove(path: str) -> None:
    """Remove it with all that is in it."""
    scratch.remove(path)


def is_memory(mounts: str = "/proc/self/mounts") -> bool:
    """Is there a tmpfs where the files would be? Whatever else is there may write them to a disk."""
    try:
        with open(mounts) as file:
            kinds = [line.split()[2] for line in file if line.split()[1] == MEMORY]
    except (OSError, IndexError):
        return False
    return bool(kinds) and kinds[-1] in ("tmpfs", "ramfs")
