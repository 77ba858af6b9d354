"""What is told of a threshold: one value, in the words of every channel."""

from __future__ import annotations

import msgspec

from bursar.clock import format_instant
from bursar.money import format_nanos
from bursar_policies.specs import FORECAST
from bursard.events import ThresholdCrossed


class Alert(msgspec.Struct, frozen=True, omit_defaults=False):
    """A threshold of a budget that was passed. Amounts are decimal texts.

    Attributes:
        id: of the event that it tells, the same whenever it is tried again.
        do: what the budget does from now on.
    """

    id: str
    cluster: str
    at: str
    budget: str
    percent: str
    on: str
    limit: str
    settled: str
    held: str
    currency: str
    do: tuple[str, ...]
    text: str

    def json(self) -> bytes:
        """For programs."""
        return msgspec.json.encode(self)


def alert_of(event: ThresholdCrossed, seq: int, at: int, cluster: str, currency: str) -> Alert:
    """The alert about an event."""
    limit, settled, held = map(format_nanos, (event.limit_nanos, event.settled_nanos, event.held_nanos))
    percent = f"{event.at_ppm / 10_000:g}"
    does = [action for action in event.do if action != "notify"]
    more = f" From now on: {', '.join(does)}." if does else ""
    expected = ""
    if event.on == FORECAST:
        expected = f"{format_nanos(event.forecast_nanos, 2)} expected at the end of the period, "
    text = (
        f"Budget {event.budget} passed {percent} % of its limit {format_nanos(event.limit_nanos, 2)}"
        f" {currency} on {event.on}: {expected}{format_nanos(event.settled_nanos, 2)} settled,"
        f" {format_nanos(event.held_nanos, 2)} held.{more}"
    )
    return Alert(
        id=f"{cluster}/{seq}",
        cluster=cluster,
        at=format_instant(at),
        budget=event.budget,
        percent=percent,
        on=event.on,
        limit=limit,
        settled=settled,
        held=held,
        currency=currency,
        do=event.do,
        text=text,
    )
