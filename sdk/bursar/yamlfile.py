"""YAML files written by people, read strictly: every fault found at once, each with its place.

Owns    the way from text to a tree of `Node`s with marks, and from a node to a typed value.
Input   the text or bytes of one file and a name for it (`source`). No file is opened here.
Why     YAML 1.1 turns `no` into False, `12:30:45` into 45045 and `010` into 8, and a loader that
        stops at the first fault makes people mend a file ten times. So scalars stay raw strings,
        the reader that knows what it wants gives them a type, and faults are collected, not raised.

How to use it, in four lines:

    faults = Faults("job.yaml")
    for root in load_yaml(text, faults):
        fields = Fields(root, faults, known=("name", "time_limit"))
        name, limit_us = fields.string("name", required=True), fields.duration("time_limit")
    raise_if_any(faults, error=InvalidRequest)

A reader returns None for what is absent or wrong; what is wrong has been reported by then. So a
caller reads everything first, raises once, and only then relies on the values.
Refused for every file: more than 64 kB, bytes that are not UTF-8, control characters, anchors,
aliases, tags, merge keys, directives, duplicate keys, keys that are not scalars, deep nesting.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Final, NoReturn, TypeVar

import yaml

from bursar.clock import DAY_US, Instant, parse_duration, parse_instant
from bursar.errors import Fault, InvalidRequest, NotBuilt
from bursar.money import NANOS_MAX, Money, format_nanos, parse_money
from bursar.projects import problem_of
from bursar.resources import parse_size

BYTES_MAX: Final = 64 * 1024
"""The largest file that is read; people write these, programs do not."""
DEPTH_MAX: Final = 20
"""The deepest nesting; the deepest document of the contract has 6 levels."""
TEXT_MAX: Final = 4096
"""The longest single string, unless the reader asks for more."""
LINES_MAX: Final = 100
"""Faults written into one message; `faults` of the error always holds all of them."""
YEAR_US: Final = 365 * DAY_US
"""A year of money arithmetic: 8760 hours."""

T = TypeVar("T")

_NULLS = frozenset(("", "~", "null", "Null", "NULL"))
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
_INT = re.compile(r"[+-]?(?:0|[1-9][0-9]{0,17})", re.ASCII)
_DECIMAL = re.compile(r"[+-]?[0-9]{1,12}(?:\.[0-9]{1,9})?", re.ASCII)
_PERCENT = re.compile(r"([+-]?[0-9]{1,6}(?:\.[0-9]{1,6})?)\s*%", re.ASCII)
_MONEY_PER = re.compile(r"([^/]+)/\s*(.*)", re.DOTALL)
_YEARS = re.compile(r"([0-9]{1,4}(?:\.[0-9]{1,3})?)\s*y(?:ears?)?", re.ASCII)


# ------------------------------------------------------------------ the tree


class Node:
    """One value of the file and where it stands.

    Attributes:
        kind: `scalar`, `mapping` or `sequence`.
        text: the raw text of a scalar, without quotes.
        quoted: was the scalar quoted (or a block)? A quoted `null` is the word, not nothing.
        entries: of a mapping, in file order.
        items: of a sequence.
        line, column: 1-based place of the value; key_line, key_column: of its key.
    """

    __slots__ = (
        "column", "entries", "items", "key", "key_column", "key_line", "kind", "line", "parent",
        "quoted", "text",
    )  # fmt: skip

    def __init__(self, kind: str, line: int, column: int, parent: Node | None) -> None:
        """An empty node; the builder fills it."""
        self.kind = kind
        self.line = line
        self.column = column
        self.parent = parent
        self.key: str | int | None = None
        self.key_line = line
        self.key_column = column
        self.text = ""
        self.quoted = False
        self.entries: dict[str, Node] = {}
        self.items: list[Node] = []

    @property
    def path(self) -> str:
        """Field path such as `spec.prices[3].price`; empty for the document itself."""
        parts: list[str] = []
        node: Node | None = self
        while node is not None and node.key is not None:
            key = node.key
            parts.append(f"[{key}]" if isinstance(key, int) else f".{_one_line(key)}")
            node = node.parent
        return "".join(reversed(parts)).removeprefix(".")

    @property
    def is_null(self) -> bool:
        """Is this an empty value (nothing, `~` or `null` without quotes)?"""
        return self.kind == "scalar" and not self.quoted and self.text in _NULLS


class Faults:
    """What is wrong with one file, collected while it is read."""

    def __init__(self, source: str) -> None:
        """`source` names the file in every fault."""
        self.source = source
        self.found: list[Fault] = []
        self.paths: list[str] = []
        """Of the values that have a fault, so that one is not reported for a second reason."""
        self._unread: set[tuple[int, int]] = set()

    def __bool__(self) -> bool:
        """Is anything wrong?"""
        return bool(self.found)

    def add(self, node: Node, message: str, *, field: str = "", nearest: str | None = None) -> None:
        """Report `message` at a value; `field` extends the value's path (a missing key)."""
        path = ".".join(part for part in (node.path, field) if part)
        self.paths.append(path)
        if (node.line, node.column) in self._unread:
            return
        self.found.append(Fault(self.source, node.line, node.column, path, _hint(message, nearest), nearest))

    def add_key(self, node: Node, message: str, *, nearest: str | None = None) -> None:
        """Report `message` at the key that holds `node`."""
        text = _hint(message, nearest)
        self.paths.append(node.path)
        place = (node.key_line, node.key_column)
        if place in self._unread:
            return
        self.found.append(Fault(self.source, *place, node.path, text, nearest))

    def add_at(self, line: int, column: int, message: str) -> None:
        """Report `message` at a bare place, where there is no tree yet."""
        self.found.append(Fault(self.source, line, column, "", message, None))

    def leave_unread(self, line: int, column: int) -> None:
        """The value at a place is refused for how it is written: nothing true can be said of it besides."""
        self._unread.add((line, column))

    def not_built(self, node: Node, what: str, *, instead: str = "") -> None:
        """Refuse something the contract names and this version does not do. Never ignore it."""
        remedy = f"; {instead}" if instead else ""
        self.refuse(node, f"{what} is part of the contract, not built yet{remedy}")

    def refuse(self, node: Node, message: str) -> None:
        """Report what is not built, in the words of whoever knows."""
        self.paths.append(node.path)
        self.found.append(Fault(self.source, node.line, node.column, node.path, message, None, True))


def raise_if_any(*collected: Faults, error: type[InvalidRequest]) -> None:
    """Raise all faults as one error, in file order; `error.faults` holds them.

    When each of them is only "not built yet", the error is `NotBuilt` instead of `error`.
    """
    if any(collected):
        _raise(collected, error)


def _raise(collected: Sequence[Faults], error: type[InvalidRequest]) -> NoReturn:
    faults = [f for c in collected for f in sorted(c.found, key=lambda f: (f.line, f.column))]
    lines = [str(fault) for fault in faults[:LINES_MAX]]
    if len(faults) > LINES_MAX:
        lines.append(f"... and {len(faults) - LINES_MAX} more")
    kind = NotBuilt if all(fault.not_built for fault in faults) else error
    failure = kind("\n".join(lines), {"faults": str(len(faults))})
    failure.faults = tuple(faults)
    raise failure


def _at(content: str, line: int, column: int) -> str:
    """The character at a place, both from 1; empty past the end."""
    text = "".join(content.split("\n")[line - 1 : line])
    return text[column - 1 : column]


def load_yaml(text: str | bytes, faults: Faults) -> list[Node]:
    """The documents of one file (`---` separates them; empty ones are left out).

    Args:
        text: the whole file. Bytes must be UTF-8; a byte order mark is skipped.
        faults: takes what is wrong; `faults.source` names the file.

    Returns:
        The roots. After a syntax fault only the documents before it.
    """
    content = _decode(text, faults)
    if content is None:
        return []
    builder = _Builder(faults)
    try:
        # Asked for here, since a command without a file never needs YAML.
        for event in yaml.parse(content, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            builder.take(event)
            if builder.stopped:
                break
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        problem = " ".join(part for part in (error.context, error.problem) if part)
        tab = "; indent with blanks, not with tabs" if _at(content, *place) == "\t" else ""
        faults.add_at(*place, f"this is not YAML: {problem}{tab}")
    except yaml.YAMLError as error:
        faults.add_at(1, 1, f"this is not YAML: {' '.join(str(error).split())}")
    return builder.roots[: builder.complete]


def decode_text(text: str | bytes, faults: Faults) -> str | None:
    """The content of a file that is not YAML (a script) under the same rules; None when refused."""
    return _decode(text, faults)


def _decode(text: str | bytes, faults: Faults) -> str | None:
    size = len(text) if isinstance(text, bytes) else len(text.encode(errors="surrogatepass"))
    if size > BYTES_MAX:
        faults.add_at(1, 1, f"the file has {size} bytes; at most {BYTES_MAX} (64 kB) are read")
        return None
    if isinstance(text, bytes):
        try:
            content = text.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = text.count(b"\n", 0, error.start) + 1
            column = error.start - (text.rfind(b"\n", 0, error.start) + 1) + 1
            faults.add_at(line, column, "the file is not UTF-8 text; save it as UTF-8")
            return None
    else:
        content = text.removeprefix("\ufeff")
    bad = _CONTROL.search(content)
    if bad is None:
        return content
    start = bad.start()
    column = start - (content.rfind("\n", 0, start) + 1) + 1
    faults.add_at(
        content.count("\n", 0, start) + 1,
        column,
        f"the file holds the control character U+{ord(bad.group()):04X}; it must be plain text",
    )
    return None


class _Builder:
    """Turns parser events into nodes. Works on events so that a file cannot expand or nest far."""

    def __init__(self, faults: Faults) -> None:
        self.roots: list[Node] = []
        self.complete = 0
        self.stopped = False
        self._faults = faults
        self._open: list[Node] = []
        self._keys: list[tuple[str, int, int] | None] = []
        self._skip = 0

    def take(self, event: yaml.Event) -> None:
        """Fold one event in."""
        mark = event.start_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        if isinstance(event, yaml.ScalarEvent):
            self._scalar(event, line, column)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._start(event, line, column)
        elif isinstance(event, yaml.CollectionEndEvent):
            if self._skip:
                self._skip -= 1
            else:
                self._open.pop()
                self._keys.pop()
        elif isinstance(event, yaml.AliasEvent):
            merges = bool(self._keys) and self._keys[-1] is not None and self._keys[-1][0] == "<<"
            if self._skip or not merges:  # a merge has its own fault
                self._refuse(line, column, "aliases (*name) are not read")
            self._faults.leave_unread(line, column)
            if not self._skip:
                self._place(Node("scalar", line, column, None))
        elif isinstance(event, yaml.DocumentEndEvent):
            self.complete = len(self.roots)
        elif isinstance(event, yaml.DocumentStartEvent) and (event.version or event.tags):
            self._refuse(line, column, "directives (%YAML, %TAG) are not read")

    def _refuse(self, line: int, column: int, what: str) -> None:
        self._faults.add_at(line, column, f"{what}; write the value out")

    def _decorations(
        self, event: yaml.ScalarEvent | yaml.CollectionStartEvent, line: int, column: int
    ) -> None:
        if event.anchor is not None:
            self._refuse(line, column, f"anchors (&{_one_line(event.anchor)}) are not read")
        if event.tag is not None:
            self._refuse(line, column, f"tags ({_one_line(event.tag)}) are not read")
        if event.tag is not None or (isinstance(event, yaml.ScalarEvent) and not event.value):
            self._faults.leave_unread(line, column)

    def _scalar(self, event: yaml.ScalarEvent, line: int, column: int) -> None:
        if event.anchor is not None or event.tag is not None:
            self._decorations(event, line, column)
        if self._skip:
            return
        if self._open and self._open[-1].kind == "mapping" and self._keys[-1] is None:
            self._keys[-1] = (event.value, line, column)
            return
        node = Node("scalar", line, column, None)
        node.text = event.value
        # The C parser says '' or None for plain; anything else is quoted or a block.
        node.quoted = bool(event.style)
        if not self._open and not node.quoted and not node.text:
            return  # an empty document
        self._place(node)

    def _start(self, event: yaml.CollectionStartEvent, line: int, column: int) -> None:
        self._decorations(event, line, column)
        if self._skip:
            self._skip += 1
            return
        if len(self._open) >= DEPTH_MAX:
            self._faults.add_at(line, column, f"nested deeper than {DEPTH_MAX} levels")
            self.stopped = True
            return
        if self._open and self._open[-1].kind == "mapping" and self._keys[-1] is None:
            self._faults.add_at(line, column, "a key must be a plain word, not a list or mapping")
            self._keys[-1] = ("?", line, column)
            self._skip = 1
            return
        kind = "mapping" if isinstance(event, yaml.MappingStartEvent) else "sequence"
        node = Node(kind, line, column, None)
        self._place(node)
        self._open.append(node)
        self._keys.append(None)

    def _place(self, node: Node) -> None:
        if not self._open:
            self.roots.append(node)
            return
        holder = self._open[-1]
        node.parent = holder
        if holder.kind == "sequence":
            node.key = len(holder.items)
            holder.items.append(node)
            return
        pending = self._keys[-1]
        if pending is None:  # an alias as a key; reported already
            self._keys[-1] = ("?", node.line, node.column)
            return
        self._keys[-1] = None
        name, node.key_line, node.key_column = pending
        node.key = name
        if name == "<<":
            self._refuse(node.key_line, node.key_column, "merge keys (<<) are not read")
            self._faults.leave_unread(holder.line, holder.column)
        elif name in holder.entries:
            first = holder.entries[name].key_line
            message = f"the key {_shown(name)} is given twice, first on line {first}"
            self._faults.add_key(node, message)
        else:
            holder.entries[name] = node


# ------------------------------------------------------------------ names


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice most like `word` (a typing slip away), or None."""
    table = {choice.lower().replace("-", "_"): choice for choice in choices}
    close = difflib.get_close_matches(word.lower().replace("-", "_"), table, n=1, cutoff=0.6)
    return table[close[0]] if close else None


def _hint(message: str, near: str | None) -> str:
    return f"{message}; did you mean {near!r}?" if near else message


def _one_line(text: str) -> str:
    """The text itself when it is short and plain, otherwise quoted and cut."""
    return text if len(text) <= 60 and text.isprintable() else _shown(text)


def _shown(text: str) -> str:
    """The text in quotes, cut so that one fault stays one readable line."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


# ------------------------------------------------------------------ typed readers of one node


def read_text(node: Node, faults: Faults) -> str | None:
    """The raw text of a scalar, surrounding blanks kept; refuses lists, mappings, nothing."""
    if node.kind != "scalar":
        faults.add(node, f"expected one value, found a {node.kind}")
        return None
    if node.is_null:
        faults.add(node, "has no value; give one or leave the key out")
        return None
    return node.text


def read_string(
    node: Node,
    faults: Faults,
    *,
    pattern: str | None = None,
    expected: str = "",
    length_max: int = TEXT_MAX,
    multiline: bool = False,
) -> str | None:
    """A string. `pattern` must match all of it, and `expected` says in words what that means."""
    text = read_text(node, faults)
    if text is None:
        return None
    if len(text) > length_max:
        faults.add(node, f"has {len(text)} characters; at most {length_max}")
        return None
    if _CONTROL.search(text) or (not multiline and ("\n" in text or "\r" in text)):
        faults.add(node, f"{_shown(text)} holds a line break or control character")
        return None
    if pattern is not None and re.fullmatch(pattern, text) is None:
        faults.add(node, f"{_shown(text)} is not {expected or 'of the form ' + pattern}")
        return None
    return text


def read_enum(node: Node, faults: Faults, choices: Sequence[str], later: Sequence[str] = ()) -> str | None:
    """One of `choices`, spelled exactly, or of `later`: words that are known, and refused by the caller; no
    message offers them.
    """
    text = read_text(node, faults)
    if text is None or text in choices or text in later:
        return text
    listed = ", ".join(choices)
    near = nearest(text, choices)
    faults.add(node, f"{_shown(text)} is not one of {listed}", nearest=near)
    return None


def read_bool(node: Node, faults: Faults) -> bool | None:
    """`true` or `false`; `yes`, `on` and the like are refused rather than guessed."""
    text = read_text(node, faults)
    if text is None:
        return None
    if text in ("true", "false"):
        return text == "true"
    faults.add(node, f"{_shown(text)} is not true or false")
    return None


def read_int(
    node: Node, faults: Faults, *, minimum: int | None = None, maximum: int | None = None
) -> int | None:
    """A decimal integer: no leading zeros, no underscores, no exponent."""
    text = read_text(node, faults)
    if text is None:
        return None
    if _INT.fullmatch(text) is None:
        digits = text.removeprefix("-").removeprefix("+")
        long = digits.isascii() and digits.isdecimal() and not digits.startswith("0")
        what = "has more digits than any number here" if long else "is not a whole number, such as 8"
        faults.add(node, f"{_shown(text)} {what}")
        return None
    return _bounded(node, faults, int(text), minimum, maximum)


def read_decimal(
    node: Node, faults: Faults, *, minimum: Decimal | None = None, maximum: Decimal | None = None
) -> Decimal | None:
    """A decimal number with at most 9 places, exactly; no exponent, no `.inf`."""
    text = read_text(node, faults)
    if text is None:
        return None
    if _DECIMAL.fullmatch(text) is None:
        faults.add(node, f"{_shown(text)} is not a number, such as 0.6")
        return None
    return _bounded(node, faults, Decimal(text), minimum, maximum)


N = TypeVar("N", int, Decimal)


def _bounded(
    node: Node, faults: Faults, value: N, minimum: N | None, maximum: N | None, unit: str = ""
) -> N | None:
    if minimum is not None and value < minimum:
        faults.add(node, f"is {value}{unit}; at least {minimum}{unit} is needed")
        return None
    if maximum is not None and value > maximum:
        faults.add(node, f"is {value}{unit}; at most {maximum}{unit} is allowed")
        return None
    return value


def read_money(node: Node, faults: Faults, *, positive: bool = False) -> Money | None:
    """`500 USD`. With `positive`, zero is refused too; a negative amount always is."""
    return _money(node, faults, positive, None)


def read_money_per(node: Node, faults: Faults, unit: str, *, positive: bool = False) -> Money | None:
    """Money per `unit`, as in `55.04 USD/h` (unit `h`) or `184.06 USD/kW-month`."""
    return _money(node, faults, positive, unit)


def _money(node: Node, faults: Faults, positive: bool, unit: str | None) -> Money | None:
    text = read_text(node, faults)
    if text is None:
        return None
    amount = text
    if unit is not None:
        match = _MONEY_PER.fullmatch(text)
        if match is None or match.group(2).strip() != unit:
            faults.add(node, f"{_shown(text)} is not money per {unit}, such as 12.50 USD/{unit}")
            return None
        amount = match.group(1)
    if len(amount) > 60:
        faults.add(node, f"{_shown(text)} is not an amount of money, such as 500 USD")
        return None
    value = _parsed(node, faults, parse_money, amount)
    if value is None:
        return None
    if value.nanos < 0 or (positive and value.nanos == 0):
        faults.add(node, f"{_shown(text)} must be {'more than 0' if positive else '0 or more'}")
        return None
    if unit is not None and value.nanos > NANOS_MAX:
        faults.add(node, f"{_shown(text)} is out of range: a rate is at most {format_nanos(NANOS_MAX, 0)}")
        return None
    return value


def read_duration(node: Node, faults: Faults, *, years: bool = False) -> int | None:
    """`90s`, `15m`, `24h`, `7d`, `1h30m` in microseconds; with `years` also `5y` (of 365 days)."""
    text = read_text(node, faults)
    if text is None:
        return None
    if len(text) > 40:
        faults.add(node, f"{_shown(text)} is not a duration; write it as 90s, 15m, 24h or 7d")
        return None
    match = _YEARS.fullmatch(text) if years else None
    if match is not None:
        return int(Decimal(match.group(1)) * YEAR_US)
    if years and text.isdecimal():
        faults.add(node, f"{_shown(text)} has no unit; write years as {text}y")
        return None
    value = _parsed(node, faults, parse_duration, text)
    if value is not None and value > 1000 * YEAR_US:
        faults.add(node, f"{_shown(text)} is longer than a thousand years")
        return None
    return value


def read_percent(
    node: Node,
    faults: Faults,
    *,
    per: str = "",
    minimum: Decimal | None = None,
    maximum: Decimal | None = None,
) -> Decimal | None:
    """`10%` as the ratio 0.1; with `per="y"` it is written `5%/y`. Bounds are in percent."""
    text = read_text(node, faults)
    if text is None:
        return None
    tail = f"/{per}" if per else ""
    match = _PERCENT.fullmatch(text.removesuffix(tail)) if text.endswith(tail) else None
    if match is None:
        faults.add(node, f"{_shown(text)} is not a percentage, such as 10%{tail}")
        return None
    value = _bounded(node, faults, Decimal(match.group(1)), minimum, maximum, f"%{tail}")
    return None if value is None else value / 100


def read_size(node: Node, faults: Faults) -> int | None:
    """`80GB` (10^9) or `80GiB` (2^30) in bytes."""
    text = read_text(node, faults)
    if text is not None and len(text) > 40:
        faults.add(node, f"{_shown(text)} is not a size; write it as 80GB or 64GiB")
        return None
    return None if text is None else _parsed(node, faults, parse_size, text)


def read_project(node: Node, faults: Faults) -> str | None:
    """A project path such as `nlp/finetune`, in lower case however it is written.

    Case is folded because a budget on `vision` must not be dodged by submitting to `Vision`.
    """
    text = read_text(node, faults)
    if text is None:
        return None
    problem = problem_of(text)
    if problem:
        faults.add(node, f"{_shown(text)} is not a project path: {problem}; write nlp/finetune")
        return None
    return text.lower()


def read_instant(node: Node, faults: Faults) -> Instant | None:
    """RFC 3339, `2026-10-01T08:00:00Z`, or a date (midnight UTC)."""
    text = read_text(node, faults)
    if text is not None and len(text) > 40:
        faults.add(node, f"{_shown(text)} is not a time; write it as 2026-10-01T08:00:00Z")
        return None
    return None if text is None else _parsed(node, faults, parse_instant, text)


def _parsed(node: Node, faults: Faults, parse: Callable[[str], T], text: str) -> T | None:
    try:
        return parse(text)
    except InvalidRequest as error:
        faults.add(node, error.message)
        return None


def read_items(node: Node, faults: Faults, *, items_max: int = 10_000) -> list[Node]:
    """The elements of a list; empty (and reported) when it is not one."""
    if node.kind != "sequence":
        faults.add(node, "expected a list")
        return []
    if len(node.items) > items_max:
        faults.add(node, f"has {len(node.items)} elements; at most {items_max}")
        return []
    return node.items


def read_entries(node: Node, faults: Faults) -> dict[str, Node]:
    """The entries of a mapping with free keys (labels, env); empty and reported otherwise."""
    if node.kind != "mapping":
        faults.add(node, "expected a mapping (key: value)")
        return {}
    return node.entries


# ------------------------------------------------------------------ typed readers of a mapping


class Fields:
    """A mapping with a fixed set of keys. Unknown keys are reported at once, when it is made.

    Every reader takes `required`: absent then is a fault. Each returns None for absent or wrong.
    """

    def __init__(
        self, node: Node, faults: Faults, known: Sequence[str], *, listed: Sequence[str] | None = None
    ) -> None:
        """Report what is not in `known`, or that `node` is no mapping at all. `listed`: those of them that
        help whoever wrote another key; all when not given.
        """
        self.node = node
        self.faults = faults
        self._entries = read_entries(node, faults)
        for key, child in self._entries.items():
            if key not in known:
                near = nearest(key, known)
                rest = "" if near else f"; known here: {', '.join(known if listed is None else listed)}"
                faults.add_key(child, f"unknown key {_shown(key)}{rest}", nearest=near)

    def __contains__(self, key: str) -> bool:
        """Is the key there, whatever its value?"""
        return key in self._entries

    def get(self, key: str, *, required: bool = False) -> Node | None:
        """The value's node, for a caller with a form of its own."""
        node = self._entries.get(key)
        # A mapping that is none was reported when it was found: not again per key.
        if node is None and required and self.node.kind == "mapping":
            self.faults.add(self.node, f"the key {key!r} is missing", field=key)
        return node

    def string(
        self,
        key: str,
        *,
        required: bool = False,
        pattern: str | None = None,
        expected: str = "",
        length_max: int = TEXT_MAX,
        multiline: bool = False,
    ) -> str | None:
        """A string; see `read_string`."""
        node = self.get(key, required=required)
        if node is None:
            return None
        return read_string(
            node,
            self.faults,
            pattern=pattern,
            expected=expected,
            length_max=length_max,
            multiline=multiline,
        )

    def enum(self, key: str, choices: Sequence[str], *, required: bool = False) -> str | None:
        """One of `choices`."""
        node = self.get(key, required=required)
        return None if node is None else read_enum(node, self.faults, choices)

    def boolean(self, key: str, *, required: bool = False) -> bool | None:
        """`true` or `false`."""
        node = self.get(key, required=required)
        return None if node is None else read_bool(node, self.faults)

    def integer(
        self,
        key: str,
        *,
        required: bool = False,
        minimum: int | None = None,
        maximum: int | None = None,
    ) -> int | None:
        """A whole number."""
        node = self.get(key, required=required)
        if node is None:
            return None
        return read_int(node, self.faults, minimum=minimum, maximum=maximum)

    def decimal(
        self,
        key: str,
        *,
        required: bool = False,
        minimum: Decimal | None = None,
        maximum: Decimal | None = None,
    ) -> Decimal | None:
        """A decimal number, exactly."""
        node = self.get(key, required=required)
        if node is None:
            return None
        return read_decimal(node, self.faults, minimum=minimum, maximum=maximum)

    def money(self, key: str, *, required: bool = False, positive: bool = False) -> Money | None:
        """`500 USD`."""
        node = self.get(key, required=required)
        return None if node is None else read_money(node, self.faults, positive=positive)

    def money_per(
        self, key: str, unit: str, *, required: bool = False, positive: bool = False
    ) -> Money | None:
        """`40 USD/h` for unit `h`."""
        node = self.get(key, required=required)
        return None if node is None else read_money_per(node, self.faults, unit, positive=positive)

    def duration(self, key: str, *, required: bool = False, years: bool = False) -> int | None:
        """Microseconds."""
        node = self.get(key, required=required)
        return None if node is None else read_duration(node, self.faults, years=years)

    def percent(
        self,
        key: str,
        *,
        required: bool = False,
        per: str = "",
        minimum: Decimal | None = None,
        maximum: Decimal | None = None,
    ) -> Decimal | None:
        """A ratio; bounds are in percent."""
        node = self.get(key, required=required)
        if node is None:
            return None
        return read_percent(node, self.faults, per=per, minimum=minimum, maximum=maximum)

    def size(self, key: str, *, required: bool = False) -> int | None:
        """Bytes."""
        node = self.get(key, required=required)
        return None if node is None else read_size(node, self.faults)

    def instant(self, key: str, *, required: bool = False) -> Instant | None:
        """An instant."""
        node = self.get(key, required=required)
        return None if node is None else read_instant(node, self.faults)

    def items(self, key: str, *, required: bool = False) -> list[Node]:
        """The elements of a list; empty when absent or wrong."""
        node = self.get(key, required=required)
        return [] if node is None else read_items(node, self.faults)

    def entries(self, key: str, *, required: bool = False) -> dict[str, Node]:
        """The entries of a mapping with free keys; empty when absent or wrong."""
        node = self.get(key, required=required)
        return {} if node is None else read_entries(node, self.faults)

    def fields(self, key: str, known: Sequence[str], *, required: bool = False) -> Fields | None:
        """A mapping inside this one, with its own known keys."""
        node = self.get(key, required=required)
        return None if node is None else Fields(node, self.faults, known)
