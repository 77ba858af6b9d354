"""What the body of a script needs that is not there: commands and variables of Slurm and of other systems.

Owns    the table of commands. Input: the script, and the job it became.
Why     a script whose `srun` does not exist goes on to its last line and succeeds, with nothing done. So what
        cannot run is refused with its line; what only may be missing on a node is said.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from bursar.errors import InvalidRequest
from bursar.jobfile import shell, variables
from bursar.jobfile.exported import OF_EVERY_JOB
from bursar.jobfile.programs import place_programs
from bursar.jobfile.site import SiteNode, with_modules
from bursar.jobfile.slurm import is_slurm_script
from bursar.jobfile.texts import SHOWN_MAX, Body, check_text, place_of, speaks_shell
from bursar.model import JobSpec
from bursar.steps import modules, programs, srun
from bursar.yamlfile import Faults, nearest

REFUSED: Final[Mapping[str, str]] = {
    "sbcast": "copy to a directory that all nodes share",
    "salloc": "a job cannot ask for another one to wait in; submit one job for each",
}
"""Commands that cannot run here and matter: the script is refused."""
OF_SLURM: Final = ("srun", "scontrol", "sbatch", "scancel", "squeue", "sinfo", "sacct")
"""Commands that jobs whose scripts have `#SBATCH` lines find."""
_WITHOUT_LINES = "only scripts with #SBATCH lines find it; add one, such as #SBATCH --job-name=NAME"
_WATCHES = "is Slurm's and not provided; the line fails, and the script goes on as after any failure"
_OF_A_SITE = "runs only where the node has it"
NOTED: Final[Mapping[str, str]] = {
    **dict.fromkeys(("sstat", "sprio", "sshare", "seff", "sacctmgr"), _WATCHES),
    **dict.fromkeys(("aprun", "jsrun", "ibrun", "qsub", "qstat", "bsub"), _OF_A_SITE),
}
"""Commands that are said by line."""
MODULES: Final = (
    "the job asks for a node that has it; where none has, or the shell is no bash, it is refused; with "
    "`|| true` behind it, it is noted"
)
"""What becomes of a script with `#SBATCH` lines that runs one of `modules.COMMANDS`."""

_PLAIN = re.compile(r"#!\s*(?:/usr)?(?:/bin/sh|/bin/env sh|/bin/dash)\b")
_HOOKS: Final = (".", "source", "eval", "module", "ml", "conda_setup")
_UNHOOKED: Final = (
    "conda activate works in a script only below `source .../etc/profile.d/conda.sh` or "
    '`eval "$(conda shell.bash hook)"`'
)
_PYTHON_READ = re.compile(r"environ\[\s*[\"'](SLURMD?_\w+)[\"']\s*\]", re.ASCII)
_PROFILE = re.compile(r"(?:^/etc/|/\.)(?:(?:bash_)?profile|environment)$")
_LOGIN = re.compile(r"#!.*\s-(?:-login|[a-z]*l)")
_SLURM_NAME = re.compile(r"SLURMD?_[A-Z]")


def check_body(
    content: str, spec: JobSpec, faults: Faults, environ: Mapping[str, str] | None = None
) -> list[tuple[int, str]]:
    """Refuse what cannot run, by line; returns notes by line. `environ`: of the shell it comes from."""
    first = content.partition("\n")[0]
    if not speaks_shell(first):
        reads = ((match.group(1), match.start()) for match in _PYTHON_READ.finditer(content))
        _check_reads(content, list(reads), spec, faults)
        return []
    found = shell.scan(content)
    trusting = [(read.name, read.offset) for read in found.trusting()]
    _check_reads(content, trusting, spec, faults)
    body = Body(content, found, spec, environ or {}, tmpdir=is_slurm_script(content), script=True)
    said = check_text(body, faults)
    refused = dict(REFUSED)
    if not is_slurm_script(content):
        refused |= dict.fromkeys(OF_SLURM, _WITHOUT_LINES)
    for name, sentence in refused.items():
        offset = found.runs(name)
        if offset is not None:
            faults.add_at(*place_of(content, offset), f"{name} cannot run: {sentence}")
    if "srun" not in refused and "srun" not in found.has:
        _check_steps(content, found, faults)
    left_behind = _left_behind(content, found, spec, environ or {}) if is_slurm_script(content) else ()
    return [*_notes(content, found, spec), *left_behind, *said]


def place_modules(
    content: str, spec: JobSpec, nodes: Sequence[SiteNode], faults: Faults
) -> tuple[JobSpec, list[tuple[int, str]]]:
    """The job where `module` is, if its script runs that; with what is said of it by line."""
    first = content.partition("\n")[0]
    if not speaks_shell(first) or not any(name in content for name in modules.COMMANDS):
        return spec, []
    found = shell.scan(content)
    runs = [pair for name in modules.COMMANDS for pair in _needing(content, found, name)]
    if not runs:
        return spec, []
    offset, name = min(runs)
    place = place_of(content, offset)
    sourced = [found.runs(word) for word in (".", "source")]
    if "bash" not in first and first.startswith("#!") and not any(at is not None for at in sourced):
        faults.add_at(*place, f"{name} cannot run: it is a function of bash; begin with #!/bin/bash")
        return spec, []
    try:
        spec, said = with_modules(spec, nodes)
    except InvalidRequest as problem:
        faults.add_at(*place, f"{name} cannot run: {problem.message}")
        return spec, []
    return spec, [(place[0], f"{name} {said}")]


def place_environment(
    content: str, spec: JobSpec, nodes: Sequence[SiteNode] | None, faults: Faults
) -> tuple[JobSpec, list[tuple[int, str]]]:
    """The job where programs are that its script runs; with what is said of them by line."""
    first = content.partition("\n")[0]
    if not speaks_shell(first) or not any(name in content for name in programs.NAMES):
        return spec, []
    login = _LOGIN.match(content) is not None
    spec, notes, wrong = place_programs(shell.scan(content), spec, nodes, login)
    for offset, sentence in wrong:
        faults.add_at(*place_of(content, offset), sentence)
    return spec, [(place_of(content, offset)[0], sentence) for offset, sentence in notes]


def _needing(content: str, found: shell.Found, name: str) -> Iterator[tuple[int, str]]:
    """Where a command is run by a script that does not say what to do without it, as `|| true` does."""
    since = found.has.get(name, len(content))
    for command in found.commands:
        rest = content[command.offset :].partition("\n")[0]
        if command.words_of(name) is not None and command.offset < since and "||" not in rest:
            yield command.offset, name


def _check_steps(content: str, found: shell.Found, faults: Faults) -> None:
    """Refuse what `srun` will refuse: a script goes on after it, to an end that looks well."""
    for command in found.commands:
        words = command.words_of("srun")
        if words is None or len(faults.found) >= SHOWN_MAX or not words:
            continue
        why = srun.refusal_of(words)
        if why:
            faults.add_at(*place_of(content, command.offset), f"srun cannot do this: {why}")


def _notes(content: str, found: shell.Found, spec: JobSpec) -> Iterator[tuple[int, str]]:
    # Where modules were looked for, it has been said.
    other = () if modules.LABEL in dict(spec.constraints) else modules.COMMANDS
    for name, sentence in {**NOTED, **dict.fromkeys(other, _OF_A_SITE)}.items():
        offset = found.runs(name)
        if offset is not None:
            yield place_of(content, offset)[0], f"{name} {sentence}"
    if (unhooked := _unhooked(content, found)) is not None:
        yield place_of(content, unhooked)[0], _UNHOOKED
    if found.of_bash and _PLAIN.match(content):
        offset, what = min(found.of_bash)
        more = f" ({len(found.of_bash) - 1} more below)" if found.of_bash[1:] else ""
        yield (
            place_of(content, offset)[0],
            f"{what} is bash's, which the sh of a node need not know; begin with #!/bin/bash{more}",
        )
    if is_slurm_script(content) and content.startswith("#!") and "bash" not in content.partition("\n")[0]:
        yield from _profiles(content, found)


def _unhooked(content: str, found: shell.Found) -> int | None:
    """Where an environment of conda is activated in a shell that has not been told how."""
    ready = [one.offset for one in found.commands if one.words[0] in _HOOKS]
    since = min(
        [*ready, *([0] if _LOGIN.match(content) or "conda" in found.has else [])], default=len(content)
    )
    for one in found.commands:
        if one.words[:2] in (("conda", "activate"), ("mamba", "activate")) and one.offset < since:
            return one.offset
    return None


def _profiles(content: str, found: shell.Found) -> Iterator[tuple[int, str]]:
    """A bash puts Slurm's commands back where a profile has set PATH anew; no other shell can be told to."""
    read = [(0, "-l")] if _LOGIN.match(content) else []
    read += [
        (command.offset, command.words[1])
        for command in found.commands
        if command.words[0] in (".", "source") and command.words[1:2] and _PROFILE.search(command.words[1])
    ]
    since, what = min(read, default=(len(content), ""))
    used = [name for name in OF_SLURM if (found.runs(name) or 0) > since]
    if used:
        yield (
            place_of(content, since)[0],
            (
                f"{what} may set PATH anew, and a shell that is no bash then finds no {used[0]}; begin with "
                "#!/bin/bash"
            ),
        )


def _left_behind(
    content: str, found: shell.Found, spec: JobSpec, environ: Mapping[str, str]
) -> Iterator[tuple[int, str]]:
    """Variables that the script takes from the shell of whoever submits, which Slurm copies by default."""
    seen = {name for name, _ in spec.env} | OF_EVERY_JOB
    for read in found.trusting():
        name = read.name
        if name in environ and name not in seen and not name.startswith(("SLURM", "BURSAR", "BASH", "LC_")):
            seen.add(name)
            yield place_of(content, read.offset)[0], f"${name} of your shell is not copied; give --env {name}"


def _check_reads(content: str, reads: list[tuple[str, int]], spec: JobSpec, faults: Faults) -> None:
    seen = {name for name, _ in spec.env}
    for name, offset in reads:
        if name in seen or _SLURM_NAME.match(name) is None or len(faults.found) >= SHOWN_MAX:
            continue
        seen.add(name)
        if is_slurm_script(content):
            why = variables.missing(name, spec)
            known = variables.BY_NAME.get(name)
            if known is not None and known.when == variables.STEPS and shell.scan(content).runs("srun"):
                continue  # where it is read is not known: within what srun starts it is there
        else:
            why = "is set only for scripts with #SBATCH lines; add one, such as #SBATCH --job-name=NAME"
        if why is not None:
            near = None if name in variables.BY_NAME else _nearest_set(name, spec)
            line, column = place_of(content, offset)
            tail = f"; if it may be missing write ${{{name}:-}}"
            faults.add_at(
                line, column, f"${name} {why}{tail}" + (f" (did you mean ${near}?)" if near else "")
            )


def _nearest_set(name: str, spec: JobSpec) -> str | None:
    """The variable that the job finds and that may have been meant: `SLURM_` is no likeness, all begin so."""
    known = {one.partition("_")[2]: one for one in variables.BY_NAME if variables.missing(one, spec) is None}
    near = nearest(name.partition("_")[2], known)
    return known[near] if near else None
