"""What is told of a threshold, or of an anomaly: one value, in the words of every channel."""

from __future__ import annotations

import msgspec

from bursar.clock import format_instant
from bursar.money import format_nanos
from bursar_policies.specs import FORECAST
from bursard.events import AnomalyFound, ThresholdCrossed
from bursard.scheduler.text import money


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

    @property
    def subject(self) -> str:
        """In a few words."""
        return f"budget {self.budget} passed {self.percent} %"

    @property
    def about(self) -> str:
        """What it is about, for the daemon's log."""
        return f"budget {self.budget}"

    def json(self) -> bytes:
        """For programs."""
        return msgspec.json.encode(self)


class AnomalyAlert(msgspec.Struct, frozen=True, omit_defaults=False):
    """A day of a project, or a run, that cost more than its like. Amounts are decimal texts.

    Attributes:
        id: of the event that it tells, the same whenever it is tried again.
        anomaly: day | run. day: of UTC. job: number and name of the run; empty of a day.
        lines: what most of it was spent in.
    """

    id: str
    cluster: str
    at: str
    anomaly: str
    project: str
    day: str
    job: str
    cost: str
    usual: str
    currency: str
    lines: str
    text: str

    @property
    def subject(self) -> str:
        """In a few words."""
        return f"project {self.project} cost more than usual"

    @property
    def about(self) -> str:
        """What it is about, for the daemon's log."""
        return f"project {self.project}"

    def json(self) -> bytes:
        """For programs."""
        return msgspec.json.encode(self)


Told = Alert | AnomalyAlert


def alert_of(event: ThresholdCrossed, seq: int, at: int, cluster: str, currency: str) -> Alert:
    """The alert about an event."""
    limit, settled, held = map(format_nanos, (event.limit_nanos, event.settled_nanos, event.held_nanos))
    percent = f"{event.at_ppm / 10_000:g}"
    does = [action for action in event.do if action != "notify"]
    more = f" From now on: {', '.join(does)}." if does else ""
    expected = ""
    if event.on == FORECAST:
        expected = f"{money(event.forecast_nanos, '')} expected at the end of the period, "
    limited, spent, kept = (
        money(event.limit_nanos, currency), money(event.settled_nanos, ""), money(event.held_nanos, ""),
    )  # fmt: skip
    text = (
        f"Budget {event.budget} passed {percent} % of its limit {limited} on {event.on}:"
        f" {expected}{spent} settled, {kept} held.{more}"
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


def anomaly_alert_of(event: AnomalyFound, seq: int, at: int, cluster: str, currency: str) -> AnomalyAlert:
    """The alert about an event."""
    day = format_instant(event.day)[:10]
    job = f"{event.job_number} {event.run}".rstrip() if event.job_number else ""
    what = f"Run {job} of project {event.name}" if job else f"Project {event.name} on {day}"
    cost, usual = money(event.nanos, currency), money(event.usual_nanos, currency)
    mostly = f" Mostly: {event.lines}." if event.lines else ""
    return AnomalyAlert(
        id=f"{cluster}/{seq}",
        cluster=cluster,
        at=format_instant(at),
        anomaly=event.what,
        project=event.name,
        day=day,
        job=job,
        cost=format_nanos(event.nanos),
        usual=format_nanos(event.usual_nanos),
        currency=currency,
        lines=event.lines,
        text=f"{what} cost {cost}; its like cost {usual}.{mostly}",
    )
