"""A shell script as a job: `#BURSAR` and `#SBATCH` lines, then what bash runs.

Owns    finding the directives, splitting them into options, and what of a script is said aloud.
Input   the text of the script, its name, the caller's directory, the arguments given after it.
Why     people have thousands of these scripts; one that runs as it is, with a list of what was not
        honoured, is worth more than a translation guide.
Rule    as in Slurm, directives stand before the first command. `#BURSAR` wins over `#SBATCH`.
"""

from __future__ import annotations

import itertools
import posixpath
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

import msgspec

from bursar.clock import SECOND_US, assumed_utc, format_instant, parse_moment
from bursar.errors import InvalidRequest
from bursar.jobfile import commands, options, shell
from bursar.jobfile.document import read_job
from bursar.jobfile.exported import Exported
from bursar.jobfile.flags import (
    PAIRS,
    PATHS,
    SWITCHES,
    FlagFaults,
    FlagNode,
    Place,
    RunFlags,
    Tree,
    apply_flags,
    job_name_from,
)
from bursar.jobfile.others import foreign_lines
from bursar.jobfile.site import Site
from bursar.jobfile.slurm import SlurmOptions, is_slurm_script
from bursar.jobfile.slurm_sizes import Option
from bursar.model import JobSpec
from bursar.model.check import quote
from bursar.steps.names import SBATCH_WORDS, SCRIPT_FILE, SUBMITTED_AS
from bursar.yamlfile import decode_text, nearest, raise_if_any

FAULTS_MAX: Final = 100
"""After that many wrong directives the rest is not read; the file is something else."""

_DIRECTIVE = re.compile(r"#(BURSAR|SBATCH)(?=[\s-]|$)\s*(.*)")
"""The blank may be left out: Slurm compares the first seven characters alone."""
_LEADING = re.compile(r"\s*(?:#.*)?")
_BURSAR_FLAGS: Final = (*PATHS, *PAIRS, *SWITCHES, "after", "secret", "mount", "retry_on")
_IS_OF_SLURM: Final = "#SBATCH\n"
"""Below a script without directives that `sbatch` submitted, which finds Slurm's names so; no line moves."""
_HET = re.compile(r"(?:hetjob|packjob)\b")


class Caller(NamedTuple):
    """What a script may mean without saying it: the shell it is submitted from.

    Attributes:
        environ: its variables. now: moment and time zone. host: name of the machine.
        site: that it is submitted to, as far as the script may speak of it; None: not known.
        exported: what the job that submits it gives it; None: a person does.
    """

    environ: Mapping[str, str]
    now: datetime
    host: str
    site: Site | None = None
    exported: Exported | None = None


class Notice(NamedTuple):
    """Something the script says that is not honoured, or not in the way its author may expect."""

    file: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}" if self.line else f"{self.file}: {self.message}"


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
    text: str | bytes,
    source: str,
    base_dir: str,
    args: Sequence[str] = (),
    *,
    flags: RunFlags | None = None,
    caller: Caller | None = None,
) -> tuple[JobSpec, tuple[Notice, ...]]:
    """Read one script with directives.

    Args:
        text: the whole script; it becomes `script` as it is, the `#!` line included.
        source: its name, for messages and as the job's name when none is given.
        base_dir: absolute directory of the caller: the working directory unless one is given.
        args: become `$1`, `$2`, … of the script.
        flags: stand above the directives.
        caller: for `--export=NAME` and `--begin=now+1hour`, which mean something of the caller's.

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
        slurm, notes = _apply_directives(content, tree, faults, caller)
        _refuse_foreign(content, faults)
        if slurm is not None and not is_slurm_script(content):
            content += "\n" * (not content.endswith("\n")) + _IS_OF_SLURM
        if ("name",) not in tree and (name := _name_of(source)):
            tree.put(("name",), name, Place("--name", 1, 1))
        if flags is not None:
            apply_flags(tree, flags)
        tree.put(("run",), content, Place("script", 1, 1))
        if args:
            tree.put_words(("arguments",), tuple(args), Place("arguments", 1, 1))
        if slurm is not None:
            _finish_slurm(slurm, tree)
        if not (faults and faults.found[-1].field == "script"):
            spec = read_job(tree.root, faults, base_dir)
        if slurm is not None and not faults:
            said = len(slurm.notes)
            spec = slurm.settle(spec)
            notes += slurm.notes[said:]
            spec = _with_words(spec, slurm, source, base_dir, caller)
        if not faults:
            environ, site = (caller.environ, caller.site) if caller is not None else (None, None)
            if slurm is not None and site is not None and site.nodes is not None:
                spec, said_too = commands.place_modules(content, spec, site.nodes, faults)
                notes += said_too
            if slurm is not None and not faults:
                nodes = site.nodes if site is not None else None
                spec, said_too = commands.place_environment(content, spec, nodes, faults)
                notes += said_too
            notes += commands.check_body(content, spec, faults, environ)
        notices = [Notice(source, line, message) for line, message in notes]
    raise_if_any(faults, error=InvalidRequest)
    return spec, tuple(sorted(notices, key=lambda notice: notice.line))


def _finish_slurm(slurm: SlurmOptions, tree: Tree) -> None:
    """What only makes sense once the flags are known too."""
    if ("launch",) not in tree:
        tree.put(("launch",), "once", Place("--launch", 1, 1))
    listed = tree.root.entries.get("secrets")
    own = [one.entries["name"] if one.kind == "mapping" else one for one in listed.items] if listed else []
    for word in slurm.inherits:
        if word.partition(":")[0] not in [name.text for name in own]:
            tree.apply("secret", word, Place("--export", 1, 1))
    option = slurm.singleton
    if option is None:
        return
    name = tree.root.entries.get("name")
    if name is None:
        slurm.fault(option, "waits for jobs of the same name, and this one has none; give --job-name")
    else:
        tree.depend(name.text, "singleton", option.place)


def _with_words(
    spec: JobSpec, slurm: SlurmOptions, source: str, base_dir: str, caller: Caller | None
) -> JobSpec:
    """Slurm's variables that only the submission knows; what the job's own environment says stands above."""
    words = dict(slurm.words)
    if spec.max_nodes and slurm.tasks_per_node > 1:  # how many there are in all is known with each attempt
        words["SLURM_NTASKS_PER_NODE"] = str(slurm.tasks_per_node)
    elif slurm.tasks or slurm.tasks_per_node > 1:
        fits = spec.nodes <= slurm.tasks <= slurm.tasks_per_node * spec.nodes
        words["SLURM_NTASKS"] = str(slurm.tasks if fits else slurm.tasks_per_node * spec.nodes)
        words["SLURM_NTASKS_PER_NODE"] = str(slurm.tasks_per_node)
    if base_dir and spec.workdir != base_dir:
        words["SLURM_SUBMIT_DIR"] = base_dir
    if caller is not None and caller.host:
        words["SLURM_SUBMIT_HOST"] = caller.host
    if caller is not None and _name_of(source):
        words[SCRIPT_FILE] = caller.environ.get(SUBMITTED_AS) or posixpath.join(base_dir, source)
    return msgspec.structs.replace(spec, env=tuple(sorted((words | dict(spec.env)).items())))


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
            yield _Directive(match.group(1), number, match.group(2), line)


def _apply_directives(
    content: str, tree: Tree, faults: FlagFaults, caller: Caller | None
) -> tuple[SlurmOptions | None, list[tuple[int, str]]]:
    """Put all directives into the tree, `#SBATCH` first.

    Returns:
        What `#SBATCH` lines said, None without one; and notes by line.
    """
    slurm: list[Option] = []
    own: list[Option] = []
    zones: list[tuple[int, str]] = []
    last, speaks_slurm = 0, False
    for directive in _directives(content):
        last = directive.line
        if len(faults.found) > FAULTS_MAX:
            break
        words = _words(directive, faults)
        if directive.kind == "SBATCH":
            speaks_slurm = True
            slurm += _slurm_options(words, directive, faults)
        else:
            for option in _bursar_options(words, directive, faults):
                option, sentence = _from_now(option, caller)
                own.append(option)
                zones += [(directive.line, sentence)] if sentence else []
    if caller is not None and SBATCH_WORDS in caller.environ:
        speaks_slurm = True
        typed = caller.environ[SBATCH_WORDS]
        slurm += _slurm_options(shlex.split(typed), _Directive("SBATCH", 0, typed, typed), faults)
    known = (caller.environ, caller.now, caller.site, caller.exported) if caller is not None else ()
    converter = SlurmOptions(slurm, tree, faults, *known)
    notes = converter.convert() + zones
    fresh: set[str] = set()
    for option in own:
        if option.name == "after" and "after" not in fresh:
            tree.root.entries.pop("depends_on", None)
            converter.singleton = None
        fresh.add(option.name)
        tree.apply(option.name, option.value, option.place)
    return (converter if speaks_slurm else None), [*notes, *_late_notes(content, last)]


def _late_notes(content: str, last: int) -> Iterator[tuple[int, str]]:
    late = [
        number
        for number, line in enumerate(content.split("\n"), 1)
        if number > last and _DIRECTIVE.fullmatch(line)
    ]
    written = _document_lines(content) if late else frozenset()
    inner = [number for number in late if number in written]
    own = [number for number in late if number not in inner]
    yield from _late_note(own, "stands after the first command and is not read, as in Slurm")
    yield from _late_note(inner, "is of the script that this here-document writes, and is not read here")


def _late_note(lines: list[int], message: str) -> Iterator[tuple[int, str]]:
    more = len(lines) - 1
    if lines:
        yield lines[0], message + (f" (nor {'is' if more == 1 else 'are'} {more} more below)" if more else "")


def _document_lines(content: str) -> frozenset[int]:
    """Numbers of the lines that are text of here-documents."""
    spans = shell.scan(content).documents
    lines = (range(content.count("\n", 0, at) + 1, content.count("\n", 0, end) + 1) for at, end in spans)
    return frozenset(number for span in lines for number in span)


def _refuse_foreign(content: str, faults: FlagFaults) -> None:
    """A script of another system, which asks for what would not be heard. One that has directives of ours or
    of Slurm is also for us: there those others are comments.
    """
    if has_directives(content):
        return
    head = itertools.takewhile(lambda one: _LEADING.fullmatch(one[1]), enumerate(content.split("\n"), 1))
    for line, sentence in itertools.islice(foreign_lines(head), FAULTS_MAX):
        faults.add_at(line, 1, sentence)


def _words(directive: _Directive, faults: FlagFaults) -> list[str]:
    try:
        return shlex.split(directive.text, comments=True)
    except ValueError as error:
        faults.add_at(directive.line, 1, f"#{directive.kind}: {str(error).lower()}; close the quotes")
        return []


def _place(directive: _Directive, word: str, flag: str) -> Place:
    column = max(directive.whole.find(word), 0) + 1 if directive.line else 0
    return Place(flag, directive.line, column)


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
                _stray(directive, word, faults)
                return
            _unknown(place, known, faults, "BURSAR")
            return
        if name in SWITCHES:
            if mark:
                faults.add(FlagNode("scalar", place), "takes no value")
        elif not mark:
            if not queue:
                faults.add(FlagNode("scalar", place), "has no value")
                return
            value = queue.pop()
        yield Option(name, value, place)


def _from_now(option: Option, caller: Caller | None) -> tuple[Option, str]:
    """A deadline such as `now+3h` is of the moment of the submit; what is none is told of as it stands.

    With what its author should hear of its zone.
    """
    if option.name not in ("deadline", "begin_after") or caller is None:
        return option, ""
    try:
        at = parse_moment(option.value, int(caller.now.timestamp()) * SECOND_US, ahead=True)
    except InvalidRequest:
        return option, ""
    said = assumed_utc(option.value, at)
    sentence = f"{option.place.flag}: {said}" if said else ""
    return Option(option.name, format_instant(at), option.place), sentence


_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212"
"""What editors make of hyphens."""


def _stray(directive: _Directive, word: str, faults: FlagFaults) -> None:
    at = re.search(rf"(?<!\S){re.escape(word)}(?!\S)", directive.whole)
    message = f'{quote(word)} is not a flag; quote a value that holds spaces, as in --job-name="my job"'
    if word[0] in _DASHES:
        plain = "--" + word.lstrip(_DASHES + "-")
        message = f"{quote(word)} begins with a long dash, which an editor put there; write {plain}"
    faults.add_at(directive.line, at.start() + 1 if at else 1, message)


def _slurm_options(words: list[str], directive: _Directive, faults: FlagFaults) -> Iterator[Option]:
    if _HET.match(directive.text) or ":" in words:
        place = _place(directive, words[0] if words else "", "#SBATCH")
        message = (
            "jobs of unequal parts are not supported; submit one job for each, with --dependency=after:ID"
        )
        faults.add(FlagNode("scalar", place), message)
        return
    queue = list(reversed(words))
    while queue:
        word = queue.pop()
        split = _split_slurm(word)
        place = _place(directive, word, split[0])
        if not word.startswith("-"):
            _stray(directive, word, faults)
            return
        flag, value = split
        found = options.find(flag.lstrip("-")) if flag.startswith("--") or len(flag) == 2 else []
        if len(found) != 1:
            _not_one(place, found, faults)
            return
        known = found[0]
        if known.value == "yes" and value is None:
            if not queue:
                faults.add(FlagNode("scalar", place), "has no value")
                return
            value = queue.pop()
        yield Option(known.name, value or "", place)


def _not_one(place: Place, found: Sequence[options.SlurmOption], faults: FlagFaults) -> None:
    if found:
        listed = ", ".join(f"--{option.name}" for option in found)
        faults.add(FlagNode("scalar", place), f"may be {listed}; write it whole")
    else:
        _unknown(place, options.OFFERED, faults, "SBATCH")


def _split_slurm(word: str) -> tuple[str, str | None]:
    """`--opt=value`, `--opt`, `-N4`, `-N` as flag and value."""
    if word.startswith("--"):
        flag, mark, value = word.partition("=")
        return flag, value if mark else None
    return word[:2], word[2:] or None
