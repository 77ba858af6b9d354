"""What Azure's metadata service says of this machine's end: its scheduled events.

Why     an event `Preempt` is said at least half a minute before a spot machine is gone, with the instant
        before which nothing happens. Events that only move or restart it are advice: nothing new should begin
        here.

The first request switches the service on, which can take two minutes; until then it does not answer.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

from bursar.clock import SECOND_US, Clock
from bursar_agent import stimuli as s

if TYPE_CHECKING:
    from bursar_agent.metadata import Http

URL: Final = "http://169.254.169.254"
_EVENTS: Final = "/metadata/scheduledevents?api-version=2020-07-01"
_NAME: Final = "/metadata/instance/compute/name?api-version=2021-02-01&format=text"
_HEADERS: Final = {"Metadata": "true"}
_ADVICE: Final = ("Reboot", "Redeploy", "Terminate")
UNREADABLE: Final = (ValueError, KeyError, TypeError, OverflowError, RecursionError)
"""What reading a text that is not as it should be may raise: also of an instant of no year, and of depth."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class AzureSource:
    """See `metadata.Source`."""

    def __init__(self, http: Http, clock: Clock) -> None:
        self._http = http
        self._clock = clock
        self._name = ""
        self._said: tuple[str, s.Noticed] | None = None

    def look(self) -> s.Noticed | None:
        """That it is taken back, else that something else is planned for it."""
        events = self._events()
        for kind, said, advice in (
            (("Preempt",), "Azure takes this spot machine back", False),
            (_ADVICE, "Azure has planned an event for this machine", True),
        ):
            for event in events:
                if event.get("EventType") in kind and self._own(event):
                    return self._once(event, f"{said} ({event['EventType']})", advice)
        return None

    def _events(self) -> list[dict[str, Any]]:
        """Raises `OSError` for an answer that is none."""
        text = self._get(_EVENTS)
        try:
            found = json.loads(text)["Events"]
        except UNREADABLE:
            raise OSError("its events cannot be read") from None
        if not isinstance(found, list):
            raise OSError("its events are no list")
        return [one for one in found if isinstance(one, dict)]

    def _own(self, event: dict[str, Any]) -> bool:
        """Is an event of this machine? One that names none is."""
        names = event.get("Resources")
        if not isinstance(names, list) or not names:
            return True
        if not self._name:
            self._name = self._get(_NAME).strip().lower()
        return self._name in [str(one).lower() for one in names]

    def _once(self, event: dict[str, Any], said: str, advice: bool) -> s.Noticed:
        """An event is one notice, however the clocks drift. What names no instant is at once."""
        key = f"{event.get('EventId')}/{event.get('EventStatus')}/{event.get('NotBefore')}"
        if self._said is None or self._said[0] != key:
            try:
                when = parsedate_to_datetime(str(event["NotBefore"]))
                wall = (when.replace(tzinfo=when.tzinfo or UTC) - _EPOCH) // timedelta(microseconds=1)
                until = wall - self._clock.now() + self._clock.boot_us()
            except UNREADABLE:
                until = self._clock.boot_us()
            whole = max((until + SECOND_US // 2) // SECOND_US * SECOND_US, 0)
            self._said = key, s.Noticed(said, whole, advice)
        return self._said[1]

    def _get(self, path: str) -> str:
        found = self._http.ask("GET", path, _HEADERS)
        if found.status != 200:
            raise OSError(f"{path.partition('?')[0]} is answered with {found.status}")
        return found.text
