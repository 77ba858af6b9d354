"""Slurm's commands by name, each loaded alone.

Why     scripts call them again and again: what one needs, another does not pay for.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from bursar.steps import names

_OF_SLURM: Final = ("srun", "scontrol", "sbatch", "scancel", "squeue", "sinfo", "sacct", "salloc")


def main(name: str, arguments: Sequence[str]) -> int:
    """Run one of them; its exit code."""
    if list(arguments) in (["--version"], ["-V"]) and name in _OF_SLURM:
        sys.stdout.write(names.VERSION)
        return 0
    if name == "srun":
        from bursar.steps import srun

        return srun.main(arguments)
    if name == "salloc":
        from bursar.steps import login

        return login.salloc(arguments)
    if name == "bursar-rsh":
        from bursar.steps import rsh

        return rsh.main(arguments)
    if name == names.LAUNCH:
        from bursar.steps import engines

        return engines.main(arguments)
    if name == "scontrol":
        from bursar.steps import scontrol

        return scontrol.main(arguments)
    from bursar.steps import queue

    return queue.main(name, arguments)
