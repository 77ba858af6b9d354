"""A shell script as a job: `#BURSAR` and `#SBATCH` lines, then what bash runs.

Owns    finding the directives, splitting them into options, and what of a script is said aloud.
Input   the text of the script, its name, the caller's directory, the arguments given after it.
Why     people have thousands of these scripts; one that runs as it is, with a list of what was not
        honoured, is worth more than a translation guide.
Rule    as in Slurm, directives stand before the first command. `#BURSAR` wins over `#SBATCH`.
"""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from bursar.errors import InvalidRequest
from bursar.jobfile.document import read_job
from bursar.jobfile.flags import PAIRS, PATHS, FlagFaults, FlagNode, Place, Tree, job_name_from
from bursar.jobfile.slurm import (
    BARE,
    NOTICED,
    NOTICED_BARE,
    SET_VARIABLES,
    SHORT,
    VALUED,
    Option,
    SlurmOptions,
    is_slurm_script,
)
from bursar.model import JobSpec
from bursar.model.check import quote
from bursar.yamlfile import decode_text, nearest, raise_if_any

FAULTS_MAX: Final = 100
"""After that many wrong directives the rest is not read; the file is something else."""
SHELLS: Final = ("sh", "bash", "dash", "ksh", "zsh", "ash")

_DIRECTIVE = re.compile(r"#(BURSAR|SBATCH)(?:\s+(.*))?")
_LEADING = re.compile(r"\s*(?:#.*)?")
_SRUN = re.compile(r"^[ \t]*(?:exec[ \t]+|time[ \t]+)*srun\b", re.MULTILINE)
_SLURM_VARIABLE = re.compile(r"\$\{?(SLURM_[A-Z_]+)")
_TWINS: Final = {
    "SLURM_JOB_ID": "BURSAR_JOB_NUMBER",
    "SLURM_JOBID": "BURSAR_JOB_NUMBER",
    "SLURM_ARRAY_TASK_ID": "BURSAR_ARRAY_INDEX",
    "SLURM_NNODES": "BURSAR_NODES",
    "SLURM_JOB_NUM_NODES": "BURSAR_NODES",
    "SLURM_NODEID": "BURSAR_NODE_RANK",
    "SLURM_PROCID": "BURSAR_NODE_RANK",
    "SLURM_JOB_NODELIST": "BURSAR_NODE_ADDRESSES",
    "SLURM_NODELIST": "BURSAR_NODE_ADDRESSES",
    "SLURM_GPUS_ON_NODE": "BURSAR_GPUS",
}
_BURSAR_FLAGS: Final = (*PATHS, *PAIRS, "after", "secret", "spot")


class Notice(NamedTuple):
    """Something the script says that is not honoured, or not in the way its author may expect."""

    file: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}"


@dataclass(frozen=True, slots=True)
class _Directive:
    kind: str
    line: int
    text: str
    """What follows the word."""
    whole: str


def has_directives(content: str) -> bool:
    """Is there a directive before the first command?"""
    return any(True for _ in _directives(content))


def parse_script(
    text: str | bytes, source: str, base_dir: str, args: Sequence[str] = ()
) -> tuple[JobSpec, tuple[Notice, ...]]:
    """Read one script with directives.

    Args:
        text: the whole script; it becomes `script` as it is, the `#!` line included.
        source: its name, for messages and as the job's name when none is given.
        base_dir: absolute directory of the caller: the working directory unless one is given.
        args: become `$1`, `$2`, … of the script.

    Returns:
        The job, and what could not be honoured, by line.

    Raises:
        InvalidRequest: `faults` lists all that is wrong.
    """
    faults = FlagFaults(source)
    content = decode_text(text, faults)
    notices: list[Notice] = []
    spec = JobSpec()
    if content is not None:
        _check_text(content, faults)
        tree = Tree(faults)
        notes = _apply_directives(content, tree, faults)
        if ("name",) not in tree and (name := _name_of(source)):
            tree.put(("name",), name, Place("--name", 1, 1))
        tree.put(("run",), _with_args(content, args, faults), Place("script", 1, 1))
        notices = [Notice(source, line, message) for line, message in (*notes, *_body_notes(content))]
        if not (faults and faults.found[-1].field == "script"):
            spec = read_job(tree.root, faults, base_dir)
    raise_if_any(faults, error=InvalidRequest)
    return spec, tuple(sorted(notices, key=lambda notice: notice.line))


def _check_text(content: str, faults: FlagFaults) -> None:
    carriage = content.find("\r")
    if carriage >= 0:
        line = content.count("\n", 0, carriage) + 1
        faults.add_at(line, 1, "the script has DOS line ends; save it with Unix line ends (dos2unix)")
    elif all(_LEADING.fullmatch(line) for line in content.split("\n")):
        faults.add_at(1, 1, "the script has no commands")


def _name_of(source: str) -> str:
    return "" if source.startswith(("-", "<")) else job_name_from(posixpath.basename(source))


# ------------------------------------------------------------------ directives


def _directives(content: str) -> Iterator[_Directive]:
    """The directives before the first command."""
    for number, line in enumerate(content.split("\n"), 1):
        if _LEADING.fullmatch(line) is None:
            return
        match = _DIRECTIVE.fullmatch(line)
        if match is not None:
            yield _Directive(match.group(1), number, match.group(2) or "", line)


def _apply_directives(content: str, tree: Tree, faults: FlagFaults) -> list[tuple[int, str]]:
    """Put all directives into the tree, `#SBATCH` first; returns notes by line."""
    slurm: list[Option] = []
    own: list[Option] = []
    last = 0
    for directive in _directives(content):
        last = directive.line
        if len(faults.found) > FAULTS_MAX:
            break
        words = _words(directive, faults)
        if directive.kind == "SBATCH":
            slurm += _slurm_options(words, directive, faults)
        else:
            own += _bursar_options(words, directive, faults)
    notes = SlurmOptions(slurm, tree, faults).convert()
    fresh: set[str] = set()
    for option in own:
        if option.name == "after" and "after" not in fresh:
            tree.root.entries.pop("depends_on", None)
        fresh.add(option.name)
        tree.apply(option.name, option.value, option.place)
    return [*notes, *_late_notes(content, last)]


def _late_notes(content: str, last: int) -> Iterator[tuple[int, str]]:
    late = [
        number
        for number, line in enumerate(content.split("\n"), 1)
        if number > last and _DIRECTIVE.fullmatch(line)
    ]
    if late:
        more = f" (nor are {len(late) - 1} more below)" if len(late) > 1 else ""
        yield late[0], f"stands after the first command and is not read, as in Slurm{more}"


def _words(directive: _Directive, faults: FlagFaults) -> list[str]:
    try:
        return shlex.split(directive.text, comments=True)
    except ValueError as error:
        faults.add_at(directive.line, 1, f"#{directive.kind}: {str(error).lower()}; close the quotes")
        return []


def _place(directive: _Directive, word: str, flag: str) -> Place:
    return Place(flag, directive.line, max(directive.whole.find(word), 0) + 1)


def _unknown(place: Place, known: Sequence[str], faults: FlagFaults, kind: str) -> None:
    near = nearest(place.flag.lstrip("-")[:60], known)
    message = f"{quote(place.flag)} is not a flag of #{kind} that is known here"
    faults.add(FlagNode("scalar", place), message, nearest=f"--{near}" if near else None)


def _bursar_options(words: list[str], directive: _Directive, faults: FlagFaults) -> Iterator[Option]:
    known = [name.replace("_", "-") for name in _BURSAR_FLAGS]
    queue = list(reversed(words))
    while queue:
        word = queue.pop()
        flag, mark, value = word.partition("=")
        place = _place(directive, word, flag)
        name = flag.removeprefix("--").replace("-", "_")
        if not flag.startswith("--") or name not in _BURSAR_FLAGS or "_" in flag:
            if not word.startswith("-"):
                _stray(place, word, faults)
                return
            _unknown(place, known, faults, "BURSAR")
            return
        if name == "spot":
            if mark:
                faults.add(FlagNode("scalar", place), "takes no value")
        elif not mark:
            if not queue:
                faults.add(FlagNode("scalar", place), "has no value")
                return
            value = queue.pop()
        yield Option(name, value, place)


def _stray(place: Place, word: str, faults: FlagFaults) -> None:
    faults.add(FlagNode("scalar", place), f"{quote(word)} is not a flag; quote values that hold spaces")


def _slurm_options(words: list[str], directive: _Directive, faults: FlagFaults) -> Iterator[Option]:
    queue = list(reversed(words))
    while queue:
        word = queue.pop()
        split = _split_slurm(word)
        place = _place(directive, word, split[0])
        if not word.startswith("-"):
            _stray(place, word, faults)
            return
        flag, value = split
        name = SHORT.get(flag.removeprefix("-"), "") if not flag.startswith("--") else flag[2:]
        if name in BARE or name in NOTICED_BARE:
            yield Option(name, value or "", place)
            continue
        if name not in VALUED and name not in NOTICED:
            _unknown(place, (*VALUED, *BARE, *NOTICED, *NOTICED_BARE), faults, "SBATCH")
            return
        if value is None:
            if not queue:
                faults.add(FlagNode("scalar", place), "has no value")
                return
            value = queue.pop()
        yield Option(name, value, place)


def _split_slurm(word: str) -> tuple[str, str | None]:
    """`--opt=value`, `--opt`, `-N4`, `-N` as flag and value."""
    if word.startswith("--"):
        flag, mark, value = word.partition("=")
        return flag, value if mark else None
    return word[:2], word[2:] or None


# ------------------------------------------------------------------ the body


def _with_args(content: str, args: Sequence[str], faults: FlagFaults) -> str:
    """The script with its arguments set, so that `$1` is what was typed after the file name."""
    if not args:
        return content
    first, _, rest = content.partition("\n")
    if first.startswith("#!") and _interpreter(first) not in SHELLS:
        faults.add_at(1, 1, f"arguments can be given to shell scripts only, not to {_interpreter(first)}")
        return content
    line = f"set -- {shlex.join(args)}"
    return f"{first}\n{line}\n{rest}" if first.startswith("#!") else f"{line}\n{content}"


def _interpreter(shebang: str) -> str:
    words = shebang[2:].split()
    names = [posixpath.basename(word) for word in words if not word.startswith("-") and "=" not in word]
    if names and names[0] == "env":
        names = names[1:]
    return names[0] if names else "nothing"


def _body_notes(content: str) -> Iterator[tuple[int, str]]:
    """What a Slurm script uses that is not there: `srun`, and variables under Slurm's names."""
    match = _SRUN.search(content)
    if match is not None:
        line = content.count("\n", 0, match.end()) + 1
        yield line, "srun is not provided: the script itself runs once on every node of the job"
    seen: set[str] = set()
    for match in _SLURM_VARIABLE.finditer(content):
        name = match.group(1)
        if name in seen or (name in SET_VARIABLES and is_slurm_script(content)):
            continue
        seen.add(name)
        twin = f"; use ${_TWINS[name]}" if name in _TWINS else ""
        yield content.count("\n", 0, match.start()) + 1, f"${name} is not set by bursar{twin}"
        if len(seen) >= 20:
            return
