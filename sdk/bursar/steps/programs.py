"""Programs of environments and launchers that scripts call, and which of them a node has.

Owns    their names, and the labels by which an agent tells which it finds on its own PATH: that of its jobs
        too, unless their scripts set another. An agent that was built before a label tells nothing of what is
        in it.
Why     a script whose `conda` or `apptainer` is not there goes on to its last line. Where nodes tell what
        they have it is placed on one that has it, or refused before it starts.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Final

LABEL: Final = "programs"
"""Of each node: `(conda)(ssh)`; an operator who knows better sets it in the agent's `labels`."""
LABEL_OF_TOOLS: Final = "tools"
"""The same of what makes environments and carries data: `(uv)(poetry)`."""
TOOLS: Final = (
    "aws", "azcopy", "ffmpeg", "gcloud", "gsutil", "hatch", "ncu", "nsys", "nvcc", "pdm", "pipenv", "pixi",
    "poetry", "rclone", "rye", "s5cmd", "uv", "uvx",
)  # fmt: skip
ENVIRONMENTS: Final = (
    "Rscript", "apptainer", "conda", "docker", "enroot", "julia", "mamba", "matlab", "micromamba", "nextflow",
    "parallel", "pdsh", "podman", "singularity", "snakemake", "spack", "ssh",
)  # fmt: skip
NAMES: Final = (*ENVIRONMENTS, *TOOLS)
LABELS: Final = {LABEL: ENVIRONMENTS, LABEL_OF_TOOLS: TOOLS}


def label_of(env: Mapping[str, str]) -> dict[str, str]:
    """What the node says of itself: those that are on this PATH."""
    folders = [folder for folder in env.get("PATH", os.defpath).split(":") if folder.startswith("/")]
    return {
        label: value_of(name for name in names if any(_runs(f"{folder}/{name}") for folder in folders))
        for label, names in LABELS.items()
    }


def label_for(name: str) -> str:
    """The label that tells of a program."""
    return LABEL if name in ENVIRONMENTS else LABEL_OF_TOOLS


def value_of(names: Iterable[str]) -> str:
    """The label's value; of none `()`."""
    return "".join(f"({name})" for name in names) or "()"


def has(value: str, name: str) -> bool:
    """Does a node whose label has this value have the program?"""
    return f"({name})" in value


def pattern_of(names: Iterable[str]) -> str:
    """What a job asks for that needs all of these."""
    wanted = set(names)
    return "*" + "".join(f"({name})*" for name in NAMES if name in wanted)


def _runs(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)
