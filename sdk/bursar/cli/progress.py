"""How far an array is, or what runs of a service: in place on a terminal, else a line for each change."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any, Final

from bursar.cli.ends import LIVE
from bursar.cli.output import say
from bursar.cli.terminal import clean, is_terminal
from bursar.cli.texts import replicas_text
from bursar.clock import SECOND_US
from bursar.codec import view
from bursar.errors import BursarError

if TYPE_CHECKING:
    from bursar.client import WireClient

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

    def __init__(self, client: WireClient) -> None:
        self._client = client
        self._shown: dict[str, int] | str | None = None
        self._why = ""
        self._in_place = is_terminal(sys.stderr)

    def show(self, job: Any, now: int) -> None:
        """Tell how far an array is, if that has changed; of a service how many replicas run."""
        if job.spec.HasField("service"):
            self._show_replicas(job)
            return
        counts = {state: job.array.counts[state] for state in _ENDED if state in job.array.counts}
        if counts == self._shown:
            return
        self._shown = counts
        if self._in_place:
            sys.stderr.write(f"\r\x1b[K{progress_text(job, now)}")
            sys.stderr.flush()
        else:
            say(progress_text(job, now))

    def _show_replicas(self, job: Any) -> None:
        """A line for each change: it has no end that one in place would come to."""
        text = replicas_text(view.job(job))
        if text == self._shown or job.state not in LIVE:
            return
        self._shown = text
        say(f"{text} run")
        with contextlib.suppress(BursarError):  # then the next change tells it
            reason = self._client.services(job.id)[0].reason
            if reason.message and reason.message != self._why:
                self._why = reason.message
                say("; ".join(clean(word) for word in (reason.message, reason.remedy) if word))

    def clear(self) -> None:
        """Another line is to be printed here."""
        if self._in_place and isinstance(self._shown, dict):
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def close(self) -> None:
        """What comes next begins its own line."""
        if self._in_place and isinstance(self._shown, dict):
            sys.stderr.write("\n")
            sys.stderr.flush()
