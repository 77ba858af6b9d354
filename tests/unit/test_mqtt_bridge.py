"""The daemon's end of a broker: whom its address means, and what it drops."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from bursar.errors import InvalidRequest
from bursar.model import JobSpec
from bursard.app import _bridge
from bursard.events import AttemptPlaced, JobSubmitted, NodeScheduling
from bursard.events.public import public
from bursard.telemetry import mqtt
from bursard.telemetry.mqtt import MqttBridge


def bridge(url: str) -> MqttBridge:
    return MqttBridge(url, "c1")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mqtt://b", ("b", 1883, None, None, False)),
        ("mqtts://b", ("b", 8883, None, None, True)),
        ("mqtt://u:p@b:7", ("b", 7, "u", "p", False)),
    ],
)
def test_an_address_says_where_and_as_whom(url: str, expected: tuple[object, ...]) -> None:
    made = bridge(url)
    where = made._broker
    assert (where.host, where.port, where.username, where.password, where.tls) == expected
    assert "p@" not in repr(where)


@pytest.mark.parametrize("url", ["http://b", "mqtt://", "b"])
def test_what_is_no_broker_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest, match="must be mqtt://host:port"):
        bridge(url)


def test_the_broker_gets_the_public_form_of_an_event_and_nothing_else() -> None:
    """Of which `tests/unit/test_events_public.py` looks at every field."""
    engine = SimpleNamespace(state=SimpleNamespace(cluster_id="c1"), listeners=[])
    settings = SimpleNamespace(telemetry_mqtt_url="mqtt://b")
    made = _bridge(engine, settings)  # type: ignore[arg-type]
    assert made is not None
    [listener] = engine.listeners
    secret = JobSpec(name="train", command=("python", "canary"), env=(("TOKEN", "canary"),))
    for event in (
        JobSubmitted("job_1", 1, "ann", secret, key="canary"),
        AttemptPlaced(
            attempt_id="att_2", job_id="job_1", members=(), time_limit_us=1, grace_us=1, currency="USD",
            why="behind att_1", after="att_1",
        ),
        NodeScheduling("node_1", "cordon", "a fan"),
    ):  # fmt: skip
        listener(1, event, 1, "ann")
        tag, payload = made._events.get_nowait()
        assert (tag, payload) == (json.loads(payload)["type"], public(event))
        assert b"canary" not in payload


def test_events_wait_for_the_broker_and_those_beyond_its_room_are_dropped_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mqtt, "BUFFER_MAX", 2)
    made = bridge("mqtt://b")
    for number in range(4):
        made.publish_event("job-submitted", b"%d" % number)
    assert made.dropped == 2
    assert [made._events.get_nowait() for _ in range(2)] == [("job-submitted", b"0"), ("job-submitted", b"1")]
