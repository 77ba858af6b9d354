"""Signals that mean nothing to a program that others depend on.

Why     what a signal does where nobody has said so is end the process: a USR1 of a log rotation that took
        the wrong pid, or a hang-up, ended agents, pages and gateways, with the answers on their way.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import Final

MEANINGLESS: Final = (
    signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGIO,
)  # fmt: skip
OF_TERMINALS: Final = (signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU)
"""Where there is no terminal. With one they are its word, and it is heard."""


def overhear() -> None:
    """From now on such a signal does nothing; one that the program handles is left alone. In the main thread.

    By a handler and not by ignoring: what is ignored would be so in jobs too.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in MEANINGLESS if _has_terminal() else (*MEANINGLESS, *OF_TERMINALS):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _nothing)


def _nothing(number: int, frame: object) -> None:
    """It has been heard."""


def _has_terminal() -> bool:
    with contextlib.suppress(OSError):
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
        return True
    return False
