"""An agent hears of its provider's metadata service that its machine is taken back, and how soon."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_aws.imds import ACTION, REBALANCE, Imds

from bursar.clock import SECOND_US, VirtualClock
from bursar.errors import InvalidRequest
from bursar_agent import app, metadata
from bursar_agent import stimuli as s
from bursar_agent.metadata import AWAY_S, LOOK_EVERY_S, AwsSource, Http, Watch, open_watch
from bursar_agent.metadata_azure import AzureSource
from bursar_agent.settings import load

BOOT_US = 1_000 * SECOND_US
"""Of a virtual clock that begins, at 2026-01-01T00:00:00Z."""


@pytest.fixture
def imds() -> Iterator[Imds]:
    made = Imds()
    yield made
    made.close()


def source(imds: Imds) -> AwsSource:
    return AwsSource(Http(imds.url), VirtualClock())


def test_nothing_is_said_until_the_machine_is_taken_back(imds: Imds) -> None:
    ec2 = source(imds)
    assert ec2.look() is None
    imds.interrupt("2026-01-01T00:02:00Z")
    found = ec2.look()
    assert found == s.Noticed(
        "EC2 takes this spot machine back (terminate)", BOOT_US + 120 * SECOND_US, False
    )


def test_one_session_serves_until_it_lapses(imds: Imds) -> None:
    now = [0.0]
    imds._now = lambda: now[0]
    ec2 = source(imds)
    ec2.look()
    ec2.look()
    assert [one for one in imds.asked if one[0] == "PUT"] == [("PUT", "/latest/api/token", 200)]
    now[0] = 21_600.0
    assert ec2.look() is None
    assert imds.asked[-4:] == [
        ("GET", ACTION, 401),
        ("PUT", "/latest/api/token", 200),
        ("GET", ACTION, 404),
        ("GET", REBALANCE, 404),
    ]


def test_a_recommendation_is_advice_and_an_interruption_goes_before_it(imds: Imds) -> None:
    ec2 = source(imds)
    imds.rebalance("2025-12-31T23:59:58Z")
    found = ec2.look()
    assert found is not None
    assert (found.advice, found.until_boot_us) == (True, BOOT_US - 2 * SECOND_US)
    imds.interrupt("2026-01-01T00:02:00Z")
    found = ec2.look()
    assert found is not None
    assert not found.advice


def test_the_same_word_is_the_same_notice_however_the_clock_steps(imds: Imds) -> None:
    clock = VirtualClock()
    ec2 = AwsSource(Http(imds.url), clock)
    imds.interrupt("2026-01-01T00:02:00Z")
    first = ec2.look()
    clock.advance(700_000)
    clock.step_wall(-5 * SECOND_US)
    assert ec2.look() == first


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", "no json", '{"action": 1}', '{"action":"x","time":"soon"}']
)
def test_what_cannot_be_read_is_a_notice_of_at_once_and_no_notice_is_none(imds: Imds, text: str) -> None:
    imds.says[ACTION] = text
    found = source(imds).look()
    if not text:
        assert found is None
    else:
        assert found == s.Noticed("EC2 takes this machine back, in words that cannot be read", BOOT_US, False)


def test_a_service_that_is_away_takes_nothing_back_and_is_told_once(
    imds: Imds, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    watch = open_watch("aws", imds.url, VirtualClock())
    imds.broken = 500
    assert [watch.look() for _ in range(3)] == [(None, AWAY_S)] * 3
    imds.broken = 0
    assert watch.look() == (None, LOOK_EVERY_S)
    assert [record.message for record in caplog.records] == [
        "the metadata service does not answer",
        "the metadata service answers again",
    ]


def test_nobody_there_is_a_service_that_is_away() -> None:
    closed = Imds()
    closed.close()
    assert open_watch("aws", closed.url, VirtualClock()).look() == (None, AWAY_S)


def test_an_agent_asks_for_ever_and_tells_its_core_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    notice = s.Noticed("said", 5, False)
    answers = [(None, LOOK_EVERY_S), (None, AWAY_S), (notice, LOOK_EVERY_S)]
    heard: list[object] = []
    paused: list[float] = []

    class Over(Exception):
        pass

    async def sleep(seconds: float) -> None:
        paused.append(seconds)
        if len(paused) == len(answers):
            raise Over

    watch: Any = SimpleNamespace(look=lambda: answers[len(paused)])
    monkeypatch.setattr(metadata, "open_watch", lambda *_: watch)
    monkeypatch.setattr(app, "asyncio", SimpleNamespace(**vars(asyncio) | {"sleep": sleep}))
    settings = SimpleNamespace(notices="aws", metadata_url="")
    agent: Any = SimpleNamespace(_settings=settings, _clock=VirtualClock(), _emit=heard.append)
    with pytest.raises(Over):
        asyncio.run(app.App._watch_metadata(agent))
    assert heard == [notice]
    assert paused == [LOOK_EVERY_S, AWAY_S, LOOK_EVERY_S]


def test_a_provider_of_notices_is_one_that_is_known(tmp_path: Path) -> None:
    def wrong(*flags: str) -> str:
        with pytest.raises(InvalidRequest) as error:
            load(["--state-dir", str(tmp_path), *flags], {})
        return error.value.message

    assert "write aws" in wrong("--notices", "ibm")
    assert "http://HOST" in wrong("--metadata-url", "https://x")
    assert "set one of them" in wrong("--notices", "aws", "--notice-file", "/n")
    good = load(["--notices", "aws", "--metadata-url", "http://127.0.0.1:1338"], {}).settings
    assert (good.notices, good.metadata_url) == ("aws", "http://127.0.0.1:1338")


def test_a_watch_is_of_any_source() -> None:
    notice = s.Noticed("said", 5, True)
    stub: Any = SimpleNamespace(look=lambda: notice)
    assert Watch(stub).look() == (notice, LOOK_EVERY_S)


class Says:
    """A service that says one thing for everything."""

    def __init__(self, text: str) -> None:
        self._text = text

    def ask(self, method: str, path: str, headers: Any) -> metadata.Answer:
        return metadata.Answer(200, "name" if "token" in path or "name" in path else self._text)


@pytest.mark.parametrize("text", [
    "[" * 4_096,
    '{"action": "terminate", "time": "9999-12-31T23:59:59-23:59"}',
    '{"action": "terminate", "time": "0001-01-01T00:00:00+23:59"}',
])  # fmt: skip
def test_a_notice_of_an_odd_instant_is_one(text: str) -> None:
    found, _ = Watch(AwsSource(Says(text), VirtualClock())).look()  # type: ignore[arg-type]
    assert found is not None
    assert (found.until_boot_us >= 0, found.advice) == (True, False)


@pytest.mark.parametrize("when", [
    "Mon, 01 Jan 0001 00:00:00 +2359", "Mon, 19 Sep 99999 18:29:47 GMT",
    "Mon, 19 Sep 2016 18:29:47 +9999999999999999",
])  # fmt: skip
def test_an_event_of_an_odd_instant_is_one(when: str) -> None:
    text = json.dumps({"Events": [{"EventType": "Preempt", "NotBefore": when}]})
    found, _ = Watch(AzureSource(Says(text), VirtualClock())).look()  # type: ignore[arg-type]
    assert found is not None
    assert (found.until_boot_us >= 0, found.advice) == (True, False)


def test_events_too_deep_to_read_are_no_answer() -> None:
    watch = Watch(AzureSource(Says("[" * 4_096), VirtualClock()))  # type: ignore[arg-type]
    assert watch.look() == (None, AWAY_S)
