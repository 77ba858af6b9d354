"""What a process says of itself on its log, where that can be written at all.

Why     a log on a full or failing disk must end nobody, nor change the exit code by which whoever keeps the
        process tells a refusal from a crash. Handlers of `logging` bear it already. Standard library alone.
"""

from __future__ import annotations

import contextlib
import sys


def say(text: str) -> None:
    """One line on standard error, or nothing."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
