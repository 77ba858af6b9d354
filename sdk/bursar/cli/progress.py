"""How far an array is: one line, in place on a terminal, else a line for each change."""

from __future__ import annotations

import sys
from typing import Any, Final

from bursar.cli.output import say
from bursar.cli.terminal import is_terminal
from bursar.clock import SECOND_US

_ENDED: Final = ("SUCCEEDED", "FAILED", "CANCELLED")
_MINUTE_S: Final = 60
_HOUR_S: Final = 3600


def progress_text(job: Any, now: int) -> str:
    """`7/20 done, 1 failed, about 3 min left`: of a message of `bursar.v1`. `done` counts every end."""
    size, counts = job.array.size, dict(job.array.counts)
    done = sum(counts.get(state, 0) for state in _ENDED)
    words = [f"{done}/{size} done"]
    words += [f"{counts[state]} {state.lower()}" for state in _ENDED[1:] if counts.get(state)]
    if done and done < size and job.started_at:
        words.append(f"about {_left(now - job.started_at, done, size)} left")
    return ", ".join(words)


def _left(elapsed_us: int, done: int, size: int) -> str:
    """As long as those that are done took together, by what is left."""
    left_s = max(elapsed_us, 0) * (size - done) // done // SECOND_US
    if left_s < _MINUTE_S:
        return f"{max(left_s, 1)} s"
    if left_s < 2 * _HOUR_S:
        return f"{round(left_s / _MINUTE_S)} min"
    return f"{round(left_s / _HOUR_S)} h"


class Progress:
    """Shows each change once, on standard error."""

    def __init__(self) -> None:
        self._shown: dict[str, int] | None = None
        self._in_place = is_terminal(sys.stderr)

    def show(self, job: Any, now: int) -> None:
        """Tell how far it is, if that has changed."""
        counts = {state: job.array.counts[state] for state in _ENDED if state in job.array.counts}
        if counts == self._shown:
            return
        self._shown = counts
        if self._in_place:
            sys.stderr.write(f"\r\x1b[K{progress_text(job, now)}")
            sys.stderr.flush()
        else:
            say(progress_text(job, now))

    def clear(self) -> None:
        """Another line is to be printed here."""
        if self._in_place and self._shown is not None:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def close(self) -> None:
        """What comes next begins its own line."""
        if self._in_place and self._shown is not None:
            sys.stderr.write("\n")
            sys.stderr.flush()
