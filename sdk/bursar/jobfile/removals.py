"""What a script would remove from the wrong place, since a variable that nothing sets is an empty word.

Input   the script, and the variables that its job has. Output: faults and notes by place.
Why     `rm -rf $SCRATCH/*` is `rm -rf /*` where there is no SCRATCH, and `cd $SCRATCH; rm -rf *` empties the
        home directory. Sites set such names by themselves (`$SCRATCH`, `$LOCAL_SCRATCH`, `$JOBSCRATCH`), and
        other systems theirs (`$PBS_JOBDIR`): a script that ran there for years is dangerous here.
Rule    refused where the script itself can tell: nothing in it sets the variable, asks for it or reads
        another file that may set it. With such a file (`source`, `module`, a login shell, an image) it is
        said. `set -u`, `${X:?}`, `${X:-/tmp/x}` and `[ -n "$X" ]` are what guards it.
Limits  a word that is wholly the variable (`rm -rf $X`) removes nothing where that is empty. Variables that
        copy others whole (`X=$SCRATCH`) are followed; what a loop takes from a pattern is not.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Collection, Iterator
from typing import Final, NamedTuple

from bursar.jobfile import shell
from bursar.jobfile.exported import OF_EVERY_JOB
from bursar.model import JobSpec

_OF_A_SHELL: Final = frozenset((
    "BASH", "BASHPID", "BASH_SOURCE", "BASH_LINENO", "BASH_REMATCH", "BASH_VERSION", "DIRSTACK",
    "EPOCHREALTIME", "EPOCHSECONDS", "EUID", "FUNCNAME", "HOSTTYPE", "IFS", "LINENO",
    "MACHTYPE", "OPTARG", "OPTIND", "OSTYPE", "PIPESTATUS", "PPID", "RANDOM",
    "SECONDS", "SRANDOM", "UID",
))  # fmt: skip
_OWN: Final = ("BURSAR_", "SLURM", "OMPI_", "PMI", "CONDA_")
"""Ours, those that are held against their own table, and those that launchers set."""
_HOOKS: Final = frozenset((".", "source", "eval", "module", "ml", "spack"))
"""Commands that may set variables whose names are not here to be read."""
_DECLARE: Final = frozenset(("export", "declare", "typeset", "readonly"))
_ELSEWHERE: Final = frozenset(("srun", "ssh", "pdsh", "mpirun", "mpiexec"))
_COPIES_MAX: Final = 5
_READS_MAX: Final = 20
"""Variables of one test that are looked at."""
_RECURSIVE = re.compile(r"-[a-zA-Z]*[rR][a-zA-Z]*|--recursive")
_EMPTY_DEFAULT = re.compile(r"\$\{\w+:?-\}", re.ASCII)
_LOGIN = re.compile(r"#!.*\s-(?:-login|[a-z]*l)")
_UNSET_ENDS = re.compile(r"-[a-z]*u[a-z]*")
_ERROR_ENDS = re.compile(r"-[a-z]*e[a-z]*")


class Removal(NamedTuple):
    """`name`: the variable. `certain`: nothing that is not here to be read may set it."""

    offset: int
    name: str
    certain: bool
    sentence: str


def given_to(spec: JobSpec) -> frozenset[str]:
    """Names of the variables that a job is given by whoever submits it, and the one that reads files."""
    return frozenset({name for name, _ in spec.env} | set(spec.secrets))


def removals(text: str, found: shell.Found, given: Collection[str], *, image: bool = False) -> list[Removal]:
    """What is wrong with a script's removals, one for each variable. `given`: what its job has."""
    first = text.partition("\n")[0]
    if _stops_at_unset(first, found):
        return []
    seen: dict[str, Removal] = {}
    for one in _Reader(text, found, given, image or _LOGIN.match(first) is not None).all():
        seen.setdefault(one.name, one)
    return list(seen.values())


def _stops_at_unset(first: str, found: shell.Found) -> bool:
    words = [word for one in found.commands if one.words[0] == "set" for word in one.words[1:]]
    words += first.split()[1:] if first.startswith("#!") else []
    return any(word == "nounset" or _UNSET_ENDS.fullmatch(word) for word in words)


class _Reader:
    def __init__(self, text: str, found: shell.Found, given: Collection[str], hooked: bool) -> None:
        self._text, self._found, self._hooked = text, found, hooked
        # Only scripts with `#SBATCH` lines have a TMPDIR for certain; `given` has it there.
        self._given = _OF_A_SHELL | (OF_EVERY_JOB - {"TMPDIR"}) | frozenset(given) | found.demanded
        self._reads = {read.offset: read for read in found.reads}
        self._hooks = [one.offset for one in found.commands if _may_set(one)]
        self._guards = frozenset(self._guarded())
        self._known_empty: dict[str, bool] = {}
        self._stops = any(
            word == "errexit" or _ERROR_ENDS.fullmatch(word)
            for one in found.commands
            if one.words[0] == "set"
            for word in one.words[1:]
        )

    def all(self) -> Iterator[Removal]:
        lost: tuple[int, str, str] | None = None
        for one in sorted(self._found.commands, key=lambda one: one.offset):
            if one.words[0] in ("cd", "pushd", "popd"):
                lost = self._after_cd(one, lost)
                continue
            for word, place in _removed(one):
                name = self._begins(word, place)
                if name and re.match(r"[/*?\[]", word[1:]):
                    yield self._removal(one, place, name, f"{_what(one)} would begin at {_left(word)}")
                elif lost is not None and word[:1] not in ("/", "$", "~", "\\"):
                    offset, name, where = lost
                    yield self._removal(one, offset, name, f"{_what(one)} below would run in {where}")

    def _after_cd(self, one: shell.Command, lost: tuple[int, str, str] | None) -> tuple[int, str, str] | None:
        words = [
            pair
            for pair in zip(one.words[1:], one.places[1:], strict=True)
            if pair[0] not in ("-P", "-L", "--")
        ]
        if not words:
            return None
        word, place = words[0]
        if word[:1] == "$":
            name = self._begins(word, place)
            rest = word[1:].rstrip("/")
            if not name or (rest and (self._stops or one.then in ("&&", "||"))):
                return None  # there is no such directory, and the script stops
            quoted = self._text[place : place + 1] == '"'
            plain = "the directory that it is in" if quoted else "the home directory"
            where = "the wrong directory" if rest else "/" if word[1:] else plain
            return place, name, where
        return None if word[:1] in ("/", "~", "-") or one.words[0] == "popd" else lost

    def _begins(self, word: str, place: int) -> str:
        """The variable that begins a word, if it is empty."""
        if word[:1] != "$":
            return ""
        place += self._text[place : place + 1] == '"'
        read = self._reads.get(place)
        if read is None or (read.forgiving and _EMPTY_DEFAULT.match(self._text, place) is None):
            return ""
        return read.name if self._empty(read.name) else ""

    def _empty(self, name: str, depth: int = 0) -> bool:
        if name in self._given or name in self._guards or depth > _COPIES_MAX or name.startswith(_OWN):
            return False
        if name not in self._known_empty:
            self._known_empty[name] = True  # of one that copies itself, or the two of a ring
            sources = self._found.sources.get(name, set())
            self._known_empty[name] = all(one != "" and self._empty(one, depth + 1) for one in sources)
        return self._known_empty[name]

    def _guarded(self) -> Iterator[str]:
        """Variables of which the script asks whether they are there, `[ -d "$X" ]` among others."""
        offsets = sorted(self._reads)
        for one in self._found.commands:
            if one.words[0] not in ("[", "[[", "test", "case"):
                continue
            first = bisect_left(offsets, one.offset)
            for offset in offsets[first : first + _READS_MAX]:
                quoted = self._text[offset - 1 : offset] == '"'
                if offset <= one.end and (quoted or one.words[0] not in ("[", "test")):
                    yield self._reads[offset].name

    def _removal(self, one: shell.Command, offset: int, name: str, would: str) -> Removal:
        late = one.may_not_run  # in a function, which may run at any time
        certain = not self._hooked and not any(hook < offset or late for hook in self._hooks)
        if certain:
            sentence = f"nothing sets ${name}, and {would}; set it above, or give it with --env {name}=DIR"
        else:
            sentence = (
                f"if nothing that this script reads sets ${name}, {would}; write ${{{name}:?}} to be safe"
            )
        return Removal(offset, name, certain, sentence)


def _may_set(one: shell.Command) -> bool:
    words = one.words
    return words[0] in _HOOKS or (words[0] in _DECLARE and any("=" not in w and "$" in w for w in words[1:]))


def _removed(one: shell.Command) -> Iterator[tuple[str, int]]:
    """Words that name what a command removes with all below it, or changes so; each with its place."""
    for name in ("rm", "find", "rsync", "chmod", "chown"):
        words = one.words_of(name)
        if words is None and one.words[0] in _ELSEWHERE and name in one.words:
            words = one.words[one.words.index(name) + 1 :]
        if words is None:
            continue
        places = one.places[len(one.places) - len(words) :]
        pairs = list(zip(words, places, strict=True))
        plain = [pair for pair in pairs if not pair[0].startswith("-")]
        if name == "find":
            deletes = "-delete" in words or ("rm" in words and not {"-exec", "-execdir"}.isdisjoint(words))
            yield from plain[:1] if deletes else ()
        elif name == "rsync":
            yield from plain[-1:] if any(word.startswith("--del") for word in words) else ()
        elif any(_RECURSIVE.fullmatch(word) for word in words):
            yield from plain if name == "rm" else plain[1:]


def _what(one: shell.Command) -> str:
    words = [word for word in one.words if "$" not in word][:3]
    names = [word for word in words if word in ("rm", "find", "rsync", "chmod", "chown")]
    return f"`{names[0] if names else one.words[0]}`"


def _left(word: str) -> str:
    """What is left of a word without its variable."""
    return f"`{word[1:][:40]}`"
