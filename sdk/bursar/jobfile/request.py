"""One file as a job, whichever form it has: a job file or a script; of other systems a word what to do.

Input   the text, its name, what stands above it. Output: the job, and sentences its author should hear.
Why     the CLI and the SDK take the same files, and say the same of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bursar.errors import InvalidRequest
from bursar.jobfile.document import of_utc, parse_job, unexpanded
from bursar.model import JobSpec

if TYPE_CHECKING:
    from bursar.jobfile.flags import RunFlags
    from bursar.jobfile.script import Caller


def job_of_file(
    text: str, source: str, base_dir: str, flags: RunFlags | None = None
) -> tuple[JobSpec, list[str]]:
    """A job file. Raises `InvalidRequest`; for a file of another system, with one sentence in place of all
    its wrong keys.
    """
    try:
        spec = parse_job(text, source, base_dir, flags)
    except InvalidRequest:
        _refuse_others(text, source)
        raise
    said: list[str] = []
    if spec.script or spec.setup:
        from bursar.jobfile.grammar import notes_of_file
        from bursar.jobfile.texts import notes_of_texts

        said += notes_of_file(text, source, {"run": spec.script, "setup": spec.setup})
        said += notes_of_texts(text, source, spec)
    return spec, [*unexpanded(text, source), *of_utc(text, source, spec), *said]


def job_of_script(
    text: str,
    source: str,
    base_dir: str,
    arguments: Sequence[str],
    flags: RunFlags | None,
    caller: Caller,
) -> tuple[JobSpec, list[str]]:
    """A script with directives, and the words that it is given. Raises `InvalidRequest`."""
    from bursar.jobfile.grammar import notes_of_script
    from bursar.jobfile.script import parse_script  # a job file need not pay for Slurm's tables
    from bursar.jobfile.slurm import is_slurm_script

    spec, notices = parse_script(text, source, base_dir, tuple(arguments), flags=flags, caller=caller)
    sentences = [str(notice) for notice in notices] + notes_of_script(text, source)
    if is_slurm_script(spec.script) and caller.exported is None:
        sentences.append(
            f"{source}: your shell's variables are not copied, as with --export=NONE; name them with --env"
        )
    return spec, sentences


def _refuse_others(text: str, source: str) -> None:
    from bursar.jobfile.convert import recognise

    if text.lstrip().startswith("{") and all(key in text for key in ('"nbformat"', '"cells"')):
        raise InvalidRequest(
            f"{source}: this is a notebook: `bursar run -- jupyter nbconvert --to notebook --execute"
            f" {source}` runs it; to work in one: `bursar notebook`"
        )
    kind = recognise(text)
    if kind is not None:
        raise InvalidRequest(
            f"{source}: this looks like {kind}: `bursar convert {source}` makes a job file of it, such as "
            "{name: train, resources: {gpus: 1}, run: python train.py}"
        )
