"""Ctrl-C, from the first line of the program on: it always ends the verb, and never breaks a module.

Why     Python raises `KeyboardInterrupt` wherever the program is. Within an import it leaves half a module,
        and the program calls it broken later; within a callback (of gRPC, of a reference that died) it is
        dropped, and the program goes on. Here it waits for the end of the import, and is raised again.
"""

from __future__ import annotations

import importlib.util
import signal
import sys
from types import FrameType
from typing import Any, Final

AGAIN_S: Final = 0.005
"""After which one that could not be raised, or was dropped, is raised again."""
PATIENCE: Final = 3
"""How often it is pressed until it ends a program whose import hangs, as by a file server that is away."""
_WAITING: Final = importlib.util.LazyLoader.exec_module.__code__.co_filename
"""The file of the frame in which a module that waits for its first use is loaded."""


class _Held:
    """How often it was pressed since it could last be raised."""

    presses = 0


def install() -> None:
    """Take SIGINT of this program, unless whoever started it wants it ignored. Takes SIGALRM along."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGALRM, _raise)
        signal.signal(signal.SIGINT, _raise)
        sys.unraisablehook = _dropped


def leave() -> None:
    """From here on it ends the program at once, without a word: nothing is left to do."""
    if signal.getsignal(signal.SIGINT) is _raise:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, 0)


def _raise(number: int, frame: FrameType | None) -> None:
    if not _loads(frame):
        _Held.presses = 0
        raise KeyboardInterrupt
    _Held.presses += number == signal.SIGINT
    if _Held.presses >= PATIENCE:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
    signal.setitimer(signal.ITIMER_REAL, AGAIN_S)


def _loads(frame: FrameType | None) -> bool:
    """Is a module being loaded?"""
    while frame is not None:
        file = frame.f_code.co_filename
        if file == _WAITING or file.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _dropped(what: Any) -> None:
    """Of an exception that nobody can take."""
    if what.exc_type is KeyboardInterrupt:
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
    else:
        sys.__unraisablehook__(what)
