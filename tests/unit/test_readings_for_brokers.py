"""Readings for a broker: its address, what is published when, and what is dropped, without a broker."""

from __future__ import annotations

import asyncio
from typing import Any

import aiomqtt
import pytest

from bursar.errors import InvalidRequest
from bursar_agent.publisher import BACKOFF_S_MAX, BACKOFF_S_MIN, BUFFER_MAX, Broker, Publisher

ONLINE, OFFLINE = '{"state": "online"}', '{"state": "offline"}'
NO_PORT = "the broker's url has no valid port (write / and @ of a password as %2F and %40)"
STATUS, READINGS = "bursar/v1/c1/n1/status", "bursar/v1/c1/n1/telemetry"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mqtt://h", ("h", 1883, False, None, None)),
        ("mqtts://h", ("h", 8883, True, None, None)),
        ("mqtt://h:99", ("h", 99, False, None, None)),
        ("mqtts://u%40x:p%3A@h:99", ("h", 99, True, "u@x", "p:")),
        ("mqtt://u@h", ("h", 1883, False, "u", None)),
    ],
)
def test_a_brokers_url_is_read_as_it_stands(url: str, expected: tuple[object, ...]) -> None:
    broker = Broker.parse(url)
    assert (broker.host, broker.port, broker.tls, broker.username, broker.password) == expected
    assert repr(broker) == f"Broker({expected[0]}:{expected[1]})"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://h", "the broker's url must be mqtt://host:port or mqtts://host:port"),
        ("mqtt://", "the broker's url must be mqtt://host:port or mqtts://host:port"),
        ("h:1883", "the broker's url must be mqtt://host:port or mqtts://host:port"),
        ("mqtt://h:70000", NO_PORT),
        ("mqtt://h:x", NO_PORT),
        ("mqtt://u:pa/ss@h", NO_PORT),
        ("mqtt://h:0", NO_PORT),
        (
            "mqtt://h/topic",
            "the broker's url must be mqtt://host:port or mqtts://host:port, with nothing behind it",
        ),
        ("mqtt://:p@h", "the broker's url has a password and no user"),
    ],
)
def test_what_is_no_brokers_url_is_refused_without_its_password(url: str, said: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Broker.parse(url)
    assert caught.value.message == said


def test_a_client_has_the_brokers_name_and_tls_where_the_url_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(aiomqtt, "Client", lambda *words, **how: made.append({"at": words} | how))
    will = aiomqtt.Will(STATUS, OFFLINE, qos=1, retain=True)
    Broker.parse("mqtts://u:p@h").client(will, "me")
    Broker.parse("mqtt://h").client(will, "me")
    assert [one["at"] for one in made] == [("h", 8883), ("h", 1883)]
    assert [(one["username"], one["password"], one["tls_context"] is None) for one in made] == [
        ("u", "p", False), (None, None, True),
    ]  # fmt: skip
    assert all((one["will"], one["identifier"]) == (will, "me") for one in made)


class Line:
    """A broker's end of one connection after the other. `away`: so many do not come about."""

    def __init__(self, away: int = 0) -> None:
        self.away = away
        self.said: list[tuple[Any, ...]] = []
        self.wills: list[tuple[Any, ...]] = []
        self.heard = asyncio.Event()
        self.breaks = False

    def client(self, will: aiomqtt.Will, identifier: str) -> Line:
        self.wills.append((will.topic, will.payload, will.qos, will.retain, identifier))
        return self

    async def __aenter__(self) -> Line:
        if self.away:
            self.away -= 1
            raise aiomqtt.MqttError("nobody there")
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def publish(self, topic: str, payload: Any, qos: int, retain: bool = False) -> None:
        if self.breaks and topic == READINGS:
            self.breaks = False
            raise aiomqtt.MqttError("broken")
        self.said.append((topic, payload, qos, retain))
        self.heard.set()

    async def until(self, count: int) -> None:
        while len(self.said) < count:
            self.heard.clear()
            await asyncio.wait_for(self.heard.wait(), 60)


class Waits:
    """Of each pause its bounds; none of them takes time."""

    def __init__(self) -> None:
        self.asked: list[tuple[float, float]] = []

    def uniform(self, least: float, most: float) -> float:
        self.asked.append((least, most))
        return 0.0


def publisher(line: Line, waits: Waits) -> Publisher:
    return Publisher(line, "c1", "n1", waits.uniform)  # type: ignore[arg-type]


def test_a_node_says_that_it_is_there_then_its_readings_in_order_and_goodbye() -> None:
    async def story() -> None:
        line = Line()
        one = publisher(line, Waits())
        one.offer(b"1")
        one.offer(b"2")
        running = asyncio.create_task(one.run())
        await line.until(3)
        one.offer(b"3")
        await line.until(4)
        one.close()
        await asyncio.wait_for(running, 60)
        assert line.said == [
            (STATUS, ONLINE, 1, True),
            *((READINGS, payload, 0, False) for payload in (b"1", b"2", b"3")),
            (STATUS, OFFLINE, 1, True),
        ]
        assert line.wills == [(STATUS, OFFLINE, 1, True, "bursar-agent-n1")]
        assert (one.published, one.dropped) == (3, 0)

    asyncio.run(story())


def test_the_oldest_readings_go_while_the_broker_is_away() -> None:
    async def story() -> None:
        line = Line()
        one = publisher(line, Waits())
        for number in range(BUFFER_MAX + 2):
            one.offer(str(number).encode())
        assert one.dropped == 2
        running = asyncio.create_task(one.run())
        await line.until(1 + BUFFER_MAX)
        one.close()
        await asyncio.wait_for(running, 60)
        assert [int(said[1]) for said in line.said[1:-1]] == list(range(2, BUFFER_MAX + 2))

    asyncio.run(story())


def test_a_broker_that_is_away_is_tried_ever_more_slowly_and_told_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def story() -> None:
        line, waits = Line(away=7), Waits()
        one = publisher(line, waits)
        one.offer(b"1")
        running = asyncio.create_task(one.run())
        await line.until(2)
        assert waits.asked == [
            (BACKOFF_S_MIN, most) for most in (0.5, 1.0, 2.0, 4.0, 8.0, BACKOFF_S_MAX, BACKOFF_S_MAX)
        ]
        line.breaks = True
        one.offer(b"2")
        await line.until(3)
        assert waits.asked[7:] == [(BACKOFF_S_MIN, BACKOFF_S_MIN)], "one that took something is tried at once"
        one.close()
        await asyncio.wait_for(running, 60)

    asyncio.run(story())
    assert [record.__dict__["problem"] for record in caplog.records] == ["nobody there", "broken"]
