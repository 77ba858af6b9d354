"""Tables of text: aligned, fitted to a terminal, whole when piped.

Owns    widths. A column may shrink or go when a terminal is too narrow; into a pipe everything goes.
Why     loading a terminal toolkit costs more processor time than most commands; this needs none of it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Final, NamedTuple

GAP: Final = 2
SHRINK_MIN: Final = 8
"""A shrinking column keeps at least so many cells, unless it says another number."""

BREAKS: Final = "-_/.:+,"
"""Marks within a word behind which it is rather broken than elsewhere."""
NOTHING: Final = ("", "-")
"""What a cell without a value says."""


class Head(NamedTuple):
    """How one column behaves.

    Attributes:
        right: numbers line up at their end.
        shrink: may be cut with `…` on a terminal. Never set for ids.
        drop: on a terminal too narrow even so, columns with the highest `drop` go first; 0 stays.
        least: cells that a shrinking column keeps: all of them where its text is short.
        wrap: shrinks too, but is never cut: its text goes on in further lines below. It keeps no more
            than its longest word needs, or `SHRINK_MIN`.
        easy: cells that a soft column keeps while there are others that go before it does.
        whole: wraps, and its words are names: one is broken only where no further column could go.
    """

    title: str
    right: bool = False
    shrink: bool = False
    drop: int = 0
    least: int = SHRINK_MIN
    wrap: bool = False
    whole: bool = False
    easy: int = 0

    @property
    def soft(self) -> bool:
        """May be narrower than its text."""
        return self.shrink or self.wrap or self.whole


def cells(text: str) -> int:
    """Terminal cells that `text` takes: wide characters two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )


def fit(text: str, width: int) -> str:
    """`text` in at most `width` cells, cut with `…` if it must be."""
    if cells(text) <= width:
        return text
    kept, used = "", 0
    for char in text:
        used += cells(char)
        if used > width - 1:
            break
        kept += char
    return kept + "…"


def layout(
    heads: Sequence[Head], rows: Sequence[Sequence[str]], width: int | None
) -> tuple[list[int], list[int]]:
    """Which columns are shown, and how wide each is. `width` None: all, as wide as they need.

    Where not all fit, those that say nothing in any row go first.
    """
    natural = [max([cells(head.title), *(cells(row[i]) for row in rows)]) for i, head in enumerate(heads)]
    kept = [_kept(head, natural[i], [row[i] for row in rows]) for i, head in enumerate(heads)]
    shown = list(range(len(heads)))
    if width is None:
        return shown, natural
    while True:
        fixed = sum(natural[i] for i in shown if not heads[i].soft) + GAP * (len(shown) - 1)
        soft = [i for i in shown if heads[i].soft]
        empty = [i for i in shown if rows and all(row[i] in NOTHING for row in rows)]
        victims = empty[-1:] or [i for i in shown if heads[i].drop]
        first = max((heads[i].drop for i in victims), default=0)
        eases = {i: min(natural[i], heads[i].easy) if heads[i].drop < first else 0 for i in soft}
        least = sum(max(kept[i], eases[i]) for i in soft)
        if fixed + least <= width or not victims or len(shown) == 1:
            break
        shown.remove(max(victims, key=lambda i: (heads[i].drop, i)))
    widths, least = list(natural), sum(kept[i] for i in soft)
    if fixed + least > width:
        kept = [min(kept[i], head.least) if head.whole else kept[i] for i, head in enumerate(heads)]
        least = sum(kept[i] for i in soft)
    room = max(width - fixed, least)
    eased = [max(kept[i], min(natural[i], head.easy)) for i, head in enumerate(heads)]
    if sum(eased[i] for i in soft) <= room:
        kept = eased
    while sum(widths[i] for i in soft) > room:
        # From the widest of those that still have more than their least.
        widest = max(soft, key=lambda i: (widths[i] > kept[i], widths[i]))
        widths[widest] -= 1
    return shown, widths


def _kept(head: Head, natural: int, texts: Sequence[str]) -> int:
    """Cells that a soft column keeps, however narrow the terminal."""
    words = [cells(word) for text in texts for word in text.split(" ")]
    if head.whole:
        return max([cells(head.title) if " " not in head.title else 0, *words], default=0)
    least = min(natural, head.least)
    if not head.wrap:
        return least
    return min(least, max([cells(head.title), SHRINK_MIN, *words]))


def wrapped(text: str, width: int) -> list[str]:
    """`text` in lines of at most `width` cells, broken between words; a word that is longer, within it.

    Where it has one in the second half of a line, behind a mark such as `-` or `/`.
    """
    lines, line = [], ""
    for word in text.split(" "):
        if line and cells(line) + 1 + cells(word) > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
        while cells(line) > width:
            head = fit(line, width + 1)[:-1]  # without its mark
            at = max(head.rfind(mark) for mark in BREAKS) + 1
            head = head[:at] if at * 2 >= len(head) else head
            lines.append(head)
            line = line[len(head) :]
    return [*lines, line]


def render(heads: Sequence[Head], rows: Sequence[Sequence[str]], width: int | None = None) -> list[list[str]]:
    """Lines of padded cells, the titles first. The caller joins them, so that it may colour cells."""
    shown, widths = layout(heads, rows, width)
    lines = []
    for row in [[head.title for head in heads], *rows]:
        parts = [
            wrapped(row[i], widths[i]) if heads[i].wrap or heads[i].whole else [fit(row[i], widths[i])]
            for i in shown
        ]
        for at in range(max(map(len, parts))):
            line = []
            for i, part in zip(shown, parts, strict=True):
                text = part[at] if at < len(part) else ""
                pad = " " * (widths[i] - cells(text))
                last = i == shown[-1]
                line.append(pad + text if heads[i].right else text if last else text + pad)
            lines.append(line)
    return lines
