"""What a job that is submitted from within another one has from its environment, as with `--export=ALL`.

Input   the environment of `sbatch` in a job. Output: variables for the new job, and its secrets, by name.
Why     Slurm copies all of it, and scripts that submit themselves again rely on that. The shell of a person
        is not copied: what works from there must work from anywhere else.
Limits  what no job may have in its `env` (a function, control characters, 16 kB) is left out.
Rule    a secret's value goes nowhere. The new job has the secret itself, by name; a variable that holds its
        value is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from bursar.model.check import variable
from bursar.steps import names

_OWN: Final = re.compile(r"(?:SLURMD?|SBATCH|PMIX?|OMPI|BASH)_|CUDA_VISIBLE_DEVICES$|CUDA_DEVICE_ORDER$")
OF_EVERY_JOB: Final = names.OF_THE_NODE | {
    "HOME", "HOSTNAME", "LANG", "LOGNAME", "MASTER_ADDR", "MASTER_PORT", "NNODES", "OLDPWD", "PATH", "PWD",
    "SHELL", "SHLVL", "TERM", "USER", "WORLD_SIZE", "_",
}  # fmt: skip
"""Variables that a job has a value of its own for."""
_OF_A_TASK: Final = frozenset({"RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK"})


class Exported(NamedTuple):
    """Variables by name; secrets as `--secret` has them: `NAME` or `NAME:file`."""

    env: Mapping[str, str]
    secrets: tuple[str, ...]


def exported(environ: Mapping[str, str]) -> Exported | None:
    """What a job has to give; None where this is no job's `sbatch`."""
    if names.SUBMITTED_AS not in environ or names.MEMBER not in environ:
        return None
    secrets = tuple(word for word in environ.get(names.SECRETS_GIVEN, "").split(",") if word)
    secret = {word.partition(":")[0] for word in secrets}
    values = [environ[name] for name in secret if environ.get(name)]
    kept_back = OF_EVERY_JOB | _OF_A_TASK | secret
    found = {
        name: value
        for name, value in environ.items()
        if not any(variable(name, value))
        and _OWN.match(name) is None
        and name not in kept_back
        and not any(kept in value for kept in values)
    }
    path = _path(environ)
    return Exported(found | ({"PATH": path} if path else {}), secrets)


def _path(environ: Mapping[str, str]) -> str:
    """Where programs are looked for, but for those that this node gives its jobs."""
    own = environ.get(names.DIRECTORY, "")
    parts = environ.get("PATH", "").split(":")
    return ":".join(part for part in parts if not (own and part.startswith(f"{own}/")))
