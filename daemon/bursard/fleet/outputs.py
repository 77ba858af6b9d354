"""The files that a member's output goes to: what the job asked for, with its names and numbers in place.

Why     numbers, names of nodes and how often it was tried are known here; a node opens what it is told.
"""

from __future__ import annotations

from collections.abc import Mapping

from bursar.model import NO_FILES, OutputFiles
from bursar.steps import patterns
from bursard.state import AttemptRecord, JobRecord

_NOWHERE = "/dev/null"
"""The log alone has what goes there."""


def output_files(
    job: JobRecord, attempt: AttemptRecord, rank: int, node: str, env: Mapping[str, str]
) -> OutputFiles:
    """Files of the member `rank`, on the node of that name, with that environment.

    Without a word of how a file is opened the first attempt empties it and later ones append, so that a job
    that was preempted keeps what it has said.
    """
    spec = job.spec
    if not spec.output_file and not spec.error_file:
        return NO_FILES
    words = patterns.words_of(env, node=node, index=rank, rank=rank, user=job.user, name=spec.name)
    output, error = (patterns.fill(pattern, words) for pattern in (spec.output_file, spec.error_file))
    output = "" if output == _NOWHERE else output
    if not output and error in ("", _NOWHERE):
        return NO_FILES
    appends = spec.open_mode == "append" or (not spec.open_mode and attempt.number > 1)
    return OutputFiles(output=output, error=error, append=appends)
