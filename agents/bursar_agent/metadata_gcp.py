"""What Compute Engine's metadata service says of this machine's end.

Why     `instance/preempted` becomes TRUE half a minute before a spot machine is gone, and names no instant:
        it counts from when it was heard first. A host that is to be maintained ends a machine with GPUs, an
        hour after it was said: that is advice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bursar.clock import SECOND_US, Clock
from bursar_agent import stimuli as s

if TYPE_CHECKING:
    from bursar_agent.metadata import Http

URL: Final = "http://169.254.169.254"
NOTICE_US: Final = 30 * SECOND_US
_HOME: Final = "/computeMetadata/v1/instance"
_FLAVOR: Final = {"Metadata-Flavor": "Google"}


class GcpSource:
    """See `metadata.Source`."""

    def __init__(self, http: Http, clock: Clock) -> None:
        self._http = http
        self._clock = clock
        self._said: dict[str, s.Noticed] = {}

    def look(self) -> s.Noticed | None:
        """That it is taken back, else that it may be."""
        word = self._get("preempted")
        if word not in ("TRUE", "FALSE"):
            raise OSError(f"whether this machine is preempted is answered with {word[:32]!r}")
        if word == "TRUE":
            return self._once(word, "Google takes this spot machine back", NOTICE_US, False)
        event = self._get("maintenance-event")
        if event.startswith("TERMINATE"):
            said = "Google will end this machine for maintenance of its host"
            return self._once(event, said, 0, True)
        return None

    def _once(self, word: str, said: str, left_us: int, advice: bool) -> s.Noticed:
        """The same word is the same notice."""
        if word not in self._said:
            until = (self._clock.boot_us() + left_us) // SECOND_US * SECOND_US
            self._said = {word: s.Noticed(said, until, advice)}
        return self._said[word]

    def _get(self, name: str) -> str:
        found = self._http.ask("GET", f"{_HOME}/{name}", _FLAVOR)
        if found.status != 200:
            raise OSError(f"{name} is answered with {found.status}")
        return found.text.strip()
