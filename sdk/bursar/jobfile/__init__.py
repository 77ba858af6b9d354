"""What a user writes to ask for a job: the job file, a script with directives, the flags of `run`.

Owns    the one validation of a request made by hand. All three forms become the same node tree, so
        a wrong GPU count reads the same in `job.yaml`, in `#SBATCH` and in `--gpus`.
Input   text and flags, never files or the environment: the caller opens, this room reads. `grammar` alone
        asks a shell, which reads a script and does not run it.
Why     a mistake must be found before money is held, with its place and the right name beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bursar.jobfile.document import parse_job

if TYPE_CHECKING:
    from bursar.jobfile.flags import RunFlags, spec_from_flags
    from bursar.jobfile.render import spec_to_yaml
    from bursar.jobfile.script import Caller, Notice, parse_script

__all__ = [
    "Caller",
    "Notice",
    "RunFlags",
    "looks_like_script",
    "parse_job",
    "parse_script",
    "spec_from_flags",
    "spec_to_yaml",
]

_ROOMS = {
    "RunFlags": "flags",
    "spec_from_flags": "flags",
    "spec_to_yaml": "render",
    "Caller": "script",
    "Notice": "script",
    "parse_script": "script",
}


def looks_like_script(text: str | bytes) -> bool:
    """Is this a script and not a job file: a `#!` line, or a directive before the first command?"""
    content = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    content = content.removeprefix("\ufeff")
    if content.startswith("#!"):
        return True
    if "#BURSAR" not in content and "#SBATCH" not in content:
        return False
    from bursar.jobfile.script import has_directives

    return has_directives(content)


def __getattr__(name: str) -> Any:
    """Load the other two forms on first use: reading one job file must not pay for Slurm's tables."""
    if name not in _ROOMS:
        raise AttributeError(f"module 'bursar.jobfile' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"bursar.jobfile.{_ROOMS[name]}"), name)
