"""What a shell script reads and runs, found without running it.

Owns    the lexical rules of bash: quotes, comments, here-documents, expansions, arithmetic, case patterns.
Input   text. Output: variables read (and whether the script itself minds that they may be unset),
        commands, and names that the script sets or defines itself.
Why     `# srun`, `'$SLURM_X'` in a string and `${SLURM_X:-0}` must not be taken for what they are not, or
        scripts that run elsewhere would be refused here.
Limits  it does not know what a variable holds: a command in a variable is not seen, nor is one in a file that
        is sourced. `trap`, `eval` and `bash -c` run words in single quotes, which are read as scripts too.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

SHELLS: Final = ("sh", "bash", "dash", "ksh", "zsh", "ash")
_PREFIXES: Final = frozenset((
    "exec", "time", "nohup", "command", "env", "timeout", "nice", "stdbuf", "numactl", "builtin", "xargs",
    "sudo", "ionice", "taskset", "setsid", "unbuffer",
))  # fmt: skip
_KEYWORDS: Final = frozenset(
    ("then", "do", "else", "elif", "if", "while", "until", "!", "{", "}", "fi", "done")
)
_DECLARE: Final = frozenset(("export", "declare", "local", "readonly", "typeset"))
_OF_BASH: Final = frozenset((
    "[[", "source", "declare", "typeset", "mapfile", "readarray", "shopt", "pushd", "popd", "let", "select",
))  # fmt: skip
"""Commands that a plain sh need not know."""
_LOOK_UP: Final = frozenset(("which", "type", "hash"))
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_ASSIGNS = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?:\[[^\]]*\])?\+?=", re.ASCII)
_FORGIVING = re.compile(r":?[-=+?]")
_SIGNS: Final = ("&&", "||", "|&", ";;", "|", "&", ";")
_ENDS_WORD = frozenset(" \t\n;|&<>()")
_DEPTH_MAX: Final = 60
"""Substitutions within substitutions; a script that has more is read no further inwards."""


class Read(NamedTuple):
    """A variable that is read. `forgiving`: by words that hold when it is unset, such as `${X:-0}`."""

    name: str
    offset: int
    forgiving: bool


class Command(NamedTuple):
    """A command: its words, each `$` where it is not literal, and where it stands.

    Attributes:
        then: the sign behind it: `|`, `&`, `&&`, `||`, `;`; empty for the end of a line.
        captured: what it prints becomes words of another one, as in `$( … )`.
        end: where it ends, and `then` stands.
        may_not_run: it stands in an `if`, a `case`, a function or a group, or behind `&&` or `||`.
        places: where each of its words begins.
    """

    words: tuple[str, ...]
    offset: int
    then: str = ""
    captured: bool = False
    may_not_run: bool = False
    end: int = 0
    places: tuple[int, ...] = ()

    def words_of(self, name: str) -> tuple[str, ...] | None:
        """Words for the program `name`, where this command runs it, or a prefix of it such as `time`."""
        words = self.words
        if words[0] == name:
            return words[1:]
        if words[0] in _PREFIXES and words[1:2] not in (("-v",), ("-V",)) and name in words:
            return words[words.index(name) + 1 :]
        return None


class _Word(NamedTuple):
    text: str
    offset: int
    single: bool
    """All of it stood in single quotes."""


class Found:
    """What a script reads, runs and sets, in the order of its text.

    Attributes:
        known: name: from which offset on the script itself has set it, or asked whether it is set.
        has: likewise, for commands: defined as a function, or looked for.
        documents: from where to where the text of each here-document goes.
        of_bash: what a plain sh need not know, and where it stands.
        sources: what gives each variable its values: the name of the one that it copies whole (`X=$Y`), or
            nothing for all else.
        groups: where `&` puts a whole group, loop or subshell into the background.
        demanded: variables without which the script itself ends: `${X:?}`.
    """

    def __init__(self) -> None:
        self.reads: list[Read] = []
        self.commands: list[Command] = []
        self.known: dict[str, int] = {}
        self.has: dict[str, int] = {}
        self.documents: list[tuple[int, int]] = []
        self.of_bash: list[tuple[int, str]] = []
        self.sources: dict[str, set[str]] = {}
        self.demanded: set[str] = set()
        self.groups: list[int] = []

    def trusting(self) -> list[Read]:
        """The reads that take a variable to be set, without its having been set or asked for before."""
        end = float("inf")
        return [r for r in self.reads if not r.forgiving and self.known.get(r.name, end) > r.offset]

    def runs(self, name: str) -> int | None:
        """Where the command `name` is run first as a program of the machine; None if it is not."""
        since = self.has.get(name, float("inf"))
        for command in self.commands:
            if command.words_of(name) is not None and command.offset < since:
                return command.offset
        return None


def scan(text: str) -> Found:
    """Read a script. Never fails: what cannot be understood is passed over."""
    found = Found()
    _Reader(text, found).code()
    return found


class _Reader:
    def __init__(self, text: str, found: Found, base: int = 0, depth: int = 0) -> None:
        self._text = text
        self._found = found
        self._base = base
        self._depth = depth
        self._at = 0
        self._bodies: list[tuple[str, bool, bool]] = []
        self._words: list[_Word] = []
        self._first_read = 0
        self._cases = 0
        self._captured = False
        self._nested = 0
        self._ticks = False
        """Within backticks the next one closes them, also in the middle of a word."""

    # -------------------------------------------------------------- commands

    def code(self, stop: str = "") -> None:
        """Commands up to `stop`, which is passed over."""
        outer = self._words, self._first_read, self._cases, self._ticks
        self._begin()
        self._cases, self._ticks = 0, stop == "`"
        self._depth += 1
        text = self._text
        while self._at < len(text):
            char = text[self._at]
            if char == stop and not (char == ")" and self._cases):
                self._at += 1
                break
            self._one(char)
        self._end_command()
        self._depth -= 1
        self._words, self._first_read, self._cases, self._ticks = outer

    def _one(self, char: str) -> None:
        text, at = self._text, self._at
        if char in " \t":
            self._at += 1
        elif char == "\n":
            self._end_command()
            self._at += 1
            self._read_bodies()
        elif text.startswith("\\\n", at):
            self._at += 2
        elif char == "#":
            end = text.find("\n", at)
            self._at = end if end >= 0 else len(text)
        elif self._in_test() and char in "&|<>()":
            self._at += 1
        elif text.startswith("&>", at) or char in "<>":
            self._redirect()
        elif char in ";|&":
            sign = next(one for one in _SIGNS if text.startswith(one, at))
            if sign == "&" and not self._words and not self._captured:
                self._found.groups.append(at + self._base)
            self._end_command(sign)
            self._at += len(sign)
        elif char == "(":
            self._bracket()
        elif char == ")":
            self._begin()  # it ends a pattern of `case`
            self._at += 1
        else:
            self._words.append(self._word())
            self._keyword()

    def _of_bash(self, what: str) -> None:
        self._found.of_bash.append((self._at + self._base, what))

    def _in_test(self) -> bool:
        return bool(self._words) and self._words[0].text == "[[" and self._words[-1].text != "]]"

    def _bracket(self) -> None:
        if not self._words and self._text.startswith("((", self._at):
            self._at += 2
            self._arithmetic()
        elif len(self._words) == 1 and re.compile(r"\(\s*\)").match(self._text, self._at):
            self._define(self._words[0])
            self._at = self._text.index(")", self._at) + 1
            self._begin()
        elif self._depth > _DEPTH_MAX:
            self._at += 1
        else:
            self._at += 1
            self.code(")")

    def _define(self, word: _Word) -> None:
        self._found.has.setdefault(word.text, 0)  # a function may stand below its first use in another

    def _keyword(self) -> None:
        if len(self._words) > 3:
            return
        words = [word.text for word in self._words]
        first = words[0]
        if len(words) == 1 and first in _KEYWORDS:
            self._nested = max(self._nested + (first in ("if", "{")) - (first in ("fi", "}")), 0)
            self._begin()
        elif first == "esac" and len(words) == 1:
            self._cases, self._nested = max(self._cases - 1, 0), max(self._nested - 1, 0)
            self._begin()
        elif first == "case" and words[-1] == "in" and len(words) == 3:
            self._cases += 1
            self._nested += 1
            self._begin()
        elif first in ("for", "select") and len(words) == 2:
            self._set(words[1], self._words[1].offset)
        elif first == "function" and len(words) == 2:
            self._found.of_bash.append((self._words[0].offset + self._base, "function"))
            self._define(self._words[1])
            self._begin()

    def _begin(self) -> None:
        self._words = []
        self._first_read = len(self._found.reads)

    def _end_command(self, then: str = "") -> None:
        words = self._words
        first_read = self._first_read
        first = 0
        while first < len(words) and _ASSIGNS.match(words[first].text):
            self._assigned(words[first])
            first += 1
        words = words[first:]
        self._begin()
        if not words:
            return
        texts = tuple(word.text for word in words)
        behind = self._found.commands[-1].then if self._found.commands else ""
        maybe = self._nested > 0 or behind in ("&&", "||")
        begin, end = words[0].offset + self._base, self._at + self._base
        places = tuple(word.offset + self._base for word in words)
        self._found.commands.append(Command(texts, begin, then, self._captured, maybe, end, places))
        if texts[0] in _OF_BASH:
            self._found.of_bash.append((words[0].offset + self._base, texts[0]))
        self._effects(texts, words)
        if texts[0] in ("[", "[[", "test"):
            self._tested(texts, first_read)
        self._inner_scripts(words)

    def _effects(self, texts: tuple[str, ...], words: list[_Word]) -> None:
        """Names that a command sets, or looks for."""
        first = texts[0]
        if first in _DECLARE or first == "let":
            for word in words[1:]:
                if _ASSIGNS.match(word.text):
                    self._assigned(word)
        elif first in ("read", "mapfile", "readarray", "getopts"):
            for word in words[1:]:
                self._set(word.text, word.offset)
        elif first == "printf" and texts[1:2] == ("-v",) and len(words) > 2:
            self._set(texts[2], words[2].offset)
        elif first in _LOOK_UP or (first == "command" and texts[1:2] in (("-v",), ("-V",))):
            for word in words[1:]:
                self._found.has.setdefault(word.text, word.offset + self._base)

    def _assigned(self, word: _Word) -> None:
        match = _ASSIGNS.match(word.text)
        if match is not None:
            # Not before its own value is read: `X=$X:more` reads an X that may not be there.
            copied = self._copied(word, match) if word.text[match.end() :] in ("$", "$/") else ""
            self._set(match.group(1), word.offset + len(word.text), copied)

    def _copied(self, word: _Word, match: re.Match[str]) -> str:
        """The variable whose value another one takes whole."""
        at = word.offset + match.end()
        at += self._text[at : at + 1] == '"'
        at += self._base
        for read in reversed(self._found.reads):
            if read.offset <= at:
                return read.name if read.offset == at and not read.forgiving else ""
        return ""

    def _set(self, name: str, offset: int, copied: str = "") -> None:
        self._found.sources.setdefault(name, set()).add(copied)
        known = self._found.known
        known[name] = min(known.get(name, offset + self._base), offset + self._base)

    def _tested(self, texts: tuple[str, ...], first_read: int) -> None:
        """`[ -n "$X" ]`, `[ "$X" = "" ]`, `[[ $X ]]`: it asks whether X is set."""
        operands = [text for text in texts[1:] if text not in ("]", "]]", "!")]
        if not ({"-n", "-z", "-v", ""} & set(operands) or len(operands) == 1 or "x" in operands):
            return
        reads = self._found.reads
        for place in range(first_read, len(reads)):
            reads[place] = reads[place]._replace(forgiving=True)
            self._set(reads[place].name, reads[place].offset - self._base)
        if "-v" in operands[:-1]:
            self._set(operands[operands.index("-v") + 1], 0)

    def _inner_scripts(self, words: list[_Word]) -> None:
        texts = [word.text for word in words]
        code = words[1:] if texts[0] in ("trap", "eval") else []
        for place, text in enumerate(texts[:-1]):
            shell = place and texts[place - 1].rpartition("/")[2] in SHELLS
            if shell and re.fullmatch(r"-[a-z]*c", text):
                code = [words[place + 1]]
        for word in code:
            if word.single and self._depth <= _DEPTH_MAX:
                # The text begins behind the quote.
                _Reader(word.text, self._found, self._base + word.offset + 1, self._depth + 1).code()

    # -------------------------------------------------------------- words

    def _word(self) -> _Word:
        text, start = self._text, self._at
        parts: list[str] = []
        while self._at < len(text) and text[self._at] not in _ENDS_WORD:
            char = text[self._at]
            if char == "`" and self._ticks:
                break
            if char == "'":
                end = text.find("'", self._at + 1)
                end = end if end >= 0 else len(text)
                parts.append(text[self._at + 1 : end])
                self._at = end + 1
            elif char == '"':
                parts.append(self._quoted())
            elif char == "\\":
                parts.append(text[self._at + 1 : self._at + 2].strip("\n"))
                self._at += 2
            elif char in "$`":
                parts.append("$")
                self._expansion()
            else:
                parts.append(char)
                self._at += 1
        whole = "".join(parts)
        if text.startswith("(", self._at) and self._depth <= _DEPTH_MAX and _ASSIGNS.fullmatch(whole):
            self._of_bash("an array")
            self._at += 1
            self._depth += 1
            self._list()
            self._depth -= 1
        raw = text[start : self._at]
        single = raw[:1] == "'" and raw.find("'", 1) == len(raw) - 1
        return _Word(whole, start, single)

    def _list(self) -> None:
        """The elements of `X=( ... )`."""
        while self._at < len(self._text) and self._text[self._at] != ")":
            char = self._text[self._at]
            if char == "`" and self._ticks:
                return
            if char in " \t\n;&|<>(":
                self._at += 1
            elif char == "#":
                end = self._text.find("\n", self._at)
                self._at = end if end >= 0 else len(self._text)
            else:
                self._word()
        self._at += 1

    def _quoted(self) -> str:
        """A string in double quotes; `$` for each expansion in it."""
        self._at += 1
        return self._until('"')

    def _until(self, stop: str, end: int = -1) -> str:
        text, parts = self._text, []
        last = len(text) if end < 0 else min(end, len(text))
        while self._at < last:
            char = text[self._at]
            if char == stop:
                self._at += 1
                break
            if char == "\\":
                self._at += 2
            elif char in "$`":
                parts.append("$")
                self._expansion()
            elif char == '"':
                parts.append(self._quoted())
            else:
                parts.append(char)
                self._at += 1
        return "".join(parts)

    # -------------------------------------------------------------- expansions

    def _expansion(self) -> None:
        text, at = self._text, self._at
        if self._depth > _DEPTH_MAX:
            self._at += 1
        elif text[at] == "`":
            self._at += 1
            self._capture("`")
        elif text.startswith("$((", at):
            self._at += 3
            self._depth += 1
            self._arithmetic()
            self._depth -= 1
        elif text.startswith("$(", at):
            self._at += 2
            self._capture(")")
        elif text.startswith("${", at):
            self._brace()
        elif text.startswith("$'", at):
            match = re.compile(r"\$'(?:[^'\\]|\\.)*'?", re.DOTALL).match(text, at)
            assert match is not None
            self._at = match.end()
        else:
            match = _NAME.match(text, at + 1)
            self._at = at + 1
            if match is not None:
                self._read(match.group(), at, False)
                self._at = match.end()

    def _capture(self, stop: str) -> None:
        outer, self._captured = self._captured, True
        self.code(stop)
        self._captured = outer

    def _brace(self) -> None:
        text, start = self._text, self._at
        self._at += 2
        if text[self._at : self._at + 1] in ("#", "!"):
            self._at += 1
        match = _NAME.match(text, self._at)
        if match is not None:
            self._at = match.end()
            operator = _FORGIVING.match(text, self._at)
            self._read(match.group(), start, operator is not None)
            if operator is not None:
                self._at = operator.end()
                if "=" in operator.group():
                    self._set(match.group(), start)
                elif "?" in operator.group():
                    self._found.demanded.add(match.group())
        self._depth += 1
        self._until("}")
        self._depth -= 1

    def _arithmetic(self) -> None:
        """`X * (2 + 3))`: bare names are variables; one that is unset counts as 0, in silence."""
        text, depth = self._text, 0
        while self._at < len(text):
            char = text[self._at]
            match = _NAME.match(text, self._at)
            if char == "$":
                self._expansion()
            elif match is not None:
                after = re.compile(r"\s*=(?!=)").match(text, match.end())
                if after is not None:
                    self._set(match.group(), match.start())
                else:
                    self._read(match.group(), self._at, False)
                self._at = match.end()
            elif char.isdigit():
                number = re.compile(r"[0-9A-Za-z#_]+").match(text, self._at)
                self._at = number.end() if number is not None else self._at + 1
            elif char == ")" and depth == 0:
                self._at += 2 if text.startswith("))", self._at) else 1
                return
            else:
                depth += (char == "(") - (char == ")")
                self._at += 1

    def _read(self, name: str, offset: int, forgiving: bool) -> None:
        self._found.reads.append(Read(name, offset + self._base, forgiving))

    # -------------------------------------------------------------- redirections

    def _redirect(self) -> None:
        text, at = self._text, self._at
        match = re.compile(r"<<(-?)\s*(?!<)").match(text, at)
        if text.startswith(("<(", ">("), at) and self._depth <= _DEPTH_MAX:
            self._of_bash(f"{text[at : at + 2]}...)")
            self._at += 2
            self._capture(")")
        elif text.startswith("<<<", at):
            self._of_bash("<<<")
            self._at += 3
        elif match is not None:
            self._at = match.end()
            start = self._at
            word = self._word()
            plain = text[start : self._at] == word.text
            self._bodies.append((word.text, match.group(1) == "-", plain))
        else:
            self._at += 2 if text[at + 1 : at + 2] in ("&", ">") else 1

    def _read_bodies(self) -> None:
        """The here-documents whose commands stood on the line above."""
        for mark, tabs, expands in self._bodies:
            start, end = self._at, self._at
            while end < len(self._text):
                stop = self._text.find("\n", end)
                stop = stop if stop >= 0 else len(self._text)
                line = self._text[end:stop]
                if (line.lstrip("\t") if tabs else line) == mark:
                    break
                end = stop + 1
            else:
                stop = len(self._text)
            self._found.documents.append((start + self._base, end + self._base))
            if expands:
                self._at = start
                while self._at < end and self._at < len(self._text):
                    self._until("", end)
            self._at = min(stop + 1, len(self._text))
        self._bodies = []
