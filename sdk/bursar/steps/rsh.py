"""`bursar-rsh [options] HOST CMD...`: with which MPI launchers start their daemons elsewhere, not ssh.

Why     Open MPI (`plm_rsh_agent`) and hydra (`-launcher-exec`) ask for no more than a command on a host.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from bursar.steps.client import run
from bursar.steps.request import Request

_WITH_VALUE = ("-l", "-o", "-p", "-i", "-F")


def main(arguments: Sequence[str]) -> int:
    """Run one command on one node, through a shell there as ssh does; its exit code."""
    words = list(arguments)
    while words and words[0].startswith("-"):
        option = words.pop(0)
        if option in _WITH_VALUE and words:
            words.pop(0)
    if len(words) < 2:
        sys.stderr.write("bursar-rsh: error: needs a host and a command\n")
        return 2
    host = words[0].rpartition("@")[2]
    command = ["/bin/sh", "-c", " ".join(words[1:])]
    request = Request(command, program="bursar-rsh", node=[host], nodes=1, tasks=1)
    return run(request, os.environ)
