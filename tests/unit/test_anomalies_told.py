"""What costs more than its like is told to those who want to hear of it: once, again when it has doubled, and
no more than so many.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from money_daemon import COST_MODEL, Daemon, in_a_daemon

from bursar.cli.happenings import sentence
from bursar.clock import DAY_US, HOUR_US
from bursar.errors import PolicyInvalid
from bursar_policies.document import parse_documents
from bursar_policies.specs import AlertChannelSpec
from bursard.access.identity import Grant, Identity, Role
from bursard.alerts import Courier, watch
from bursard.alerts.message import Told, anomaly_alert_of
from bursard.alerts.watch import AnomalyWatch
from bursard.events import (
    AnomalyFound,
    PolicyApplied,
    PolicyDocument,
    ThresholdCrossed,
    decode,
)
from bursard.fleet.testing import World
from bursard.services.sight import Sight
from bursard.store import EventFilter

USD = 10**9
HOOK = "  webhook: {url: 'https://e.org/x'}\n"
CHANNEL = "kind: AlertChannel\nname: ops\nspec:\n" + HOOK + "  anomalies: ['*']\n"
FOUND = AnomalyFound(
    name="nlp/speech",
    what="day",
    day=1_796_169_600_000_000,
    nanos=81 * USD,
    usual_nanos=20 * USD,
    lines="job 12 70.00",
)
CROSSED = ThresholdCrossed("nlp", 0, 800_000, "settled", 81 * USD, 0, 100 * USD, ("notify",))


def channel(body: str) -> AlertChannelSpec:
    spec = parse_documents(f"kind: AlertChannel\nname: ops\nspec:\n{body}", "a.yaml")[0].spec
    assert isinstance(spec, AlertChannelSpec)
    return spec


def told(daemon: Daemon) -> list[AnomalyFound]:
    rows = daemon.store.events(0, 1000, EventFilter(kinds=("anomaly-found",)))
    return [event for row in rows if isinstance(event := decode(row.payload), AnomalyFound)]


async def look(daemon: Daemon, one: AnomalyWatch) -> int:
    found = await one.look()
    await daemon.engine.durable()
    return found


async def usual_runs(daemon: Daemon, *documents: str) -> None:
    await daemon.apply(COST_MODEL, *documents)
    daemon.node("a")
    for number in range(7):
        daemon.run(name=f"train-{number}", project="nlp")


def test_a_run_that_cost_more_is_told_once_with_its_lines_whatever_is_restarted() -> None:
    async def story(daemon: Daemon) -> None:
        await usual_runs(daemon, CHANNEL)
        one = AnomalyWatch(daemon.engine)
        assert await look(daemon, one) == 0
        daemon.run(hours=6, name="train-99", project="nlp")
        assert [await look(daemon, one), await look(daemon, one)] == [1, 0]
        assert await look(daemon, AnomalyWatch(daemon.engine)) == 0, "the log says what was told"
        [event] = told(daemon)
        assert (event.name, event.what, event.job_number, event.run) == ("nlp", "run", 8, "train-99")
        assert event.lines.startswith("attempt 1 completed ")
        assert event.nanos > 5 * event.usual_nanos > 0

    in_a_daemon(story)


def test_a_day_that_goes_on_rising_is_told_again_when_it_has_doubled_and_the_next_day_anew() -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.apply(COST_MODEL, CHANNEL)
        daemon.node("a")
        one = AnomalyWatch(daemon.engine)
        for _ in range(14):
            began = daemon.clock.now()
            daemon.run(hours=2, project="nlp")
            daemon.clock.advance(DAY_US - (daemon.clock.now() - began))
            daemon.meter()
        assert await look(daemon, one) == 0
        for expected in (0, 1, 0, 1):  # 2 hours are usual; 5 are told, and 10
            daemon.run(hours=2, project="nlp", time_limit_us=9 * HOUR_US)
            daemon.run(hours=1, project="nlp") if expected else None
            assert await look(daemon, one) == expected, daemon.clock.now()
        daemon.clock.advance(DAY_US - daemon.clock.now() % DAY_US + HOUR_US)
        daemon.meter()
        assert await look(daemon, one) == 0
        daemon.run(hours=6, project="nlp")
        assert await look(daemon, one) == 1
        days = [event.day // DAY_US for event in told(daemon)]
        assert days == [days[0], days[0], days[0] + 1]

    in_a_daemon(story)


def test_nobody_looks_while_no_channel_wants_to_hear() -> None:
    async def story(daemon: Daemon) -> None:
        await usual_runs(daemon, CHANNEL.partition("  anomalies")[0])
        daemon.run(hours=6, name="train-99", project="nlp")
        assert await look(daemon, AnomalyWatch(daemon.engine)) == 0
        assert told(daemon) == []

    in_a_daemon(story)


def test_of_one_look_and_of_one_day_no_more_than_so_many_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "PER_LOOK", 2)
    monkeypatch.setattr(watch, "PER_DAY", 3)

    async def story(daemon: Daemon) -> None:
        await usual_runs(daemon, CHANNEL)
        for number in range(5):
            daemon.run(name=f"train-{number}", project="nlp")
        for hours in (4, 5, 6, 7):
            daemon.run(hours=hours, name="train-99", project="nlp")
        one = AnomalyWatch(daemon.engine)
        assert [await look(daemon, one) for _ in range(3)] == [2, 1, 0]
        assert [event.job_number for event in told(daemon)] == [16, 15, 14], "the dearest first"
        daemon.clock.advance(DAY_US // 2)
        assert await look(daemon, AnomalyWatch(daemon.engine)) == 0

    in_a_daemon(story)


def test_a_look_that_fails_is_left_to_the_next(caplog: pytest.LogCaptureFixture) -> None:
    async def story(daemon: Daemon) -> None:
        looked = []

        async def sleep(seconds: float) -> None:
            looked.append(seconds)
            if len(looked) == 2:
                raise asyncio.CancelledError

        class Broken(AnomalyWatch):
            async def look(self) -> int:
                raise OSError("the disk is gone")

        with pytest.raises(asyncio.CancelledError):
            await Broken(daemon.engine, sleep).run()
        assert looked == [watch.EVERY_S] * 2
        assert "anomalies were not looked for" in caplog.text

    in_a_daemon(story)


class Heard:
    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, spec: AlertChannelSpec, alert: Told, secret: Any) -> None:
        self.texts.append(alert.text)


@pytest.mark.parametrize(
    ("more", "anomaly", "threshold"),
    [
        ("", 0, 1),
        ("  budgets: ['*']\n", 0, 1),
        ("  anomalies: ['*']\n", 1, 0),
        ("  anomalies: [nlp]\n", 1, 0),
        ("  anomalies: ['nlp/s*']\n", 1, 0),
        ("  anomalies: [nl, vision]\n", 0, 0),
        ("  anomalies: [nlp]\n  budgets: [nlp]\n", 1, 1),
    ],
)
def test_a_channel_hears_of_the_projects_and_the_budgets_that_it_names(
    more: str, anomaly: int, threshold: int
) -> None:
    post = Heard()

    async def story() -> None:
        world = World()
        document = PolicyDocument("AlertChannel", "c", 1, 0, "", spec=channel(HOOK + more))
        world.engine.commit([PolicyApplied((document,))], "test")
        one = Courier(world.state, lambda name: "", post)
        for seq, event in enumerate((FOUND, CROSSED)):
            one.on_event(seq, event, 0, "bursard")
        await one.idle()
        one.close()

    asyncio.run(story())
    assert sum(text.startswith("Project") for text in post.texts) == anomaly
    assert sum(text.startswith("Budget") for text in post.texts) == threshold


def test_an_alert_says_what_cost_how_much_and_what_in() -> None:
    alert = anomaly_alert_of(FOUND, 7, FOUND.day, "c1", "USD")
    assert alert.text == (
        "Project nlp/speech on 2026-12-02 cost 81.00 USD; its like cost 20.00 USD. Mostly: job 12 70.00."
    )
    assert (alert.id, alert.cost, alert.usual, alert.subject) == (
        "c1/7", "81.000000000", "20.000000000", "project nlp/speech cost more than usual",
    )  # fmt: skip
    few = msgspec.structs.replace(FOUND, nanos=1_133_281, usual_nanos=511)
    assert "cost 0.001133281 USD; its like cost 0.000000511 USD." in (
        anomaly_alert_of(few, 7, FOUND.day, "c1", "USD").text
    )
    data = {
        "name": "nlp",
        "nanos": 3 * USD,
        "usual_nanos": USD,
        "job_number": 8,
        "run": "t-9",
        "lines": "a 3.00",
    }
    event = {
        "kind": "anomaly-found",
        "subject": "nlp",
        "data": data,
        "names": {},
        "actor": "bursard",
        "currency": "USD",
    }
    assert sentence(event) == (
        "run 8 t-9 of project nlp cost 3.000000000 USD, its like 1.000000000 USD; mostly a 3.00"
    )


@pytest.mark.parametrize(
    ("body", "said"), [("[a b]", "a project, in which"), ("[" + "a," * 201 + "]", "more than 200 projects")]
)
def test_wrong_projects_are_refused(body: str, said: str) -> None:
    with pytest.raises(PolicyInvalid, match=said):
        channel(HOOK + f"  anomalies: {body}\n")


def test_an_anomaly_is_seen_by_those_who_may_see_what_its_project_costs() -> None:
    async def story(daemon: Daemon) -> None:
        seen = [
            Sight(Identity("bob", None, grants=(Grant(Role.VIEWER, of),)), daemon.engine.state).shows(
                FOUND, daemon.engine.views
            )
            for of in ("", "nlp", "vision")
        ]
        assert seen == [True, True, False]

    in_a_daemon(story)
