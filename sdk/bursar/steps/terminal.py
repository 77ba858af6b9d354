"""The terminal of whoever sits here: raw while a program elsewhere has it, as it was afterwards."""

from __future__ import annotations

import contextlib
import os
import termios
import tty
from collections.abc import Iterator


def size() -> int:
    """As `frames.SIZE` has it: rows << 16 | columns."""
    try:
        columns, rows = os.get_terminal_size(0)
    except OSError:
        columns, rows = 0, 0
    return (rows or 24) << 16 | (columns or 80)


@contextlib.contextmanager
def raw() -> Iterator[None]:
    """All keys go there, ctrl-C too; what was typed ahead is kept."""
    kept = termios.tcgetattr(0)
    tty.setraw(0, termios.TCSADRAIN)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, kept)
