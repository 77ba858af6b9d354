"""Becoming a user, then a program: `python become.py UID GID PROGRAM [WORD...]`.

Owns    nothing; it replaces itself.
Why     a process that runs gRPC must not fork to change its user, and this file is run as it is, by a clean
        interpreter that imports none of ours.
"""

from __future__ import annotations

import os
import pwd
import sys


def main(words: list[str]) -> None:
    """Groups first, then the user: the other way round the right to change groups is gone."""
    uid, gid = int(words[0]), int(words[1])
    try:
        groups = os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
    except KeyError:
        groups = [gid]
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    os.execvp(words[2], words[2:])


if __name__ == "__main__":
    main(sys.argv[1:])
