"""Loops that go on for ever, one turn of each; the log; what local people and brokers are given."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiomqtt
import pytest
from rented_site import Site as Rented

from bursar.clock import SECOND_US, VirtualClock
from bursar.errors import InvalidRequest
from bursar.money import CurrencyMismatch, Money
from bursard import cycle, logs, startup
from bursard.access import sessions
from bursard.access.identity import Role
from bursard.access.tokens import NO_ROLE, Authority, Peers, load_users
from bursard.fleet.testing import World
from bursard.machines import renting
from bursard.machines.provider import CloudError
from bursard.state import State
from bursard.state.decide import rights
from bursard.telemetry import mqtt


class Over(Exception):
    """The loop has had its turns."""


def turns(module: Any, monkeypatch: pytest.MonkeyPatch, count: int) -> list[float]:
    """A loop's pauses take no time, and after so many it ends."""
    slept: list[float] = []

    async def sleep(seconds: float, *_: object) -> None:
        slept.append(seconds)
        if len(slept) == count:
            raise Over

    monkeypatch.setattr(module, "asyncio", SimpleNamespace(**vars(asyncio) | {"sleep": sleep}))
    return slept


def ended(loop: Coroutine[Any, Any, None]) -> None:
    with pytest.raises(Over):
        asyncio.run(loop)


# ------------------------------------------------------------------ loops


def test_open_streams_are_asked_again_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    slept = turns(sessions, monkeypatch, 3)
    asked: list[int] = []
    made = sessions.Sessions.__new__(sessions.Sessions)
    monkeypatch.setattr(sessions.Sessions, "recheck", lambda self: asked.append(len(slept)))
    ended(made.run())
    assert slept == [sessions.SWEEP_S] * 3
    assert asked == [1, 2]


def test_machines_are_looked_at_again_and_again_also_after_a_look_that_failed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site = Rented(tmp_path)
    slept = turns(renting, monkeypatch, 3)
    looks: list[int] = []

    async def look() -> None:
        looks.append(len(slept))
        if len(looks) == 2:
            raise CloudError("local", "Unavailable", "it is away")

    monkeypatch.setattr(site.renting, "_decide", look)
    ended(site.renting.run())
    assert looks == [0, 1, 2]
    assert slept == [renting.LOOK_EVERY_S] * 3
    assert [record.message for record in caplog.records] == ["a look at rented machines failed"]
    with pytest.raises(RuntimeError):
        site.renting.houses["local"].thread.submit(print)


def test_the_time_is_noted_at_first_and_looked_after_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    slept = turns(startup, monkeypatch, 3)
    done: list[str] = []

    def does(word: str) -> Callable[..., Coroutine[Any, Any, None]]:
        async def it(*_: object) -> None:
            done.append(word)

        return it

    monkeypatch.setattr(startup, "note_time", does("note"))
    monkeypatch.setattr(startup, "tend_time", does("tend"))
    ended(startup.keep_time(None, None, Path()))  # type: ignore[arg-type]
    assert done == ["note", "tend", "tend"]
    assert slept == [startup._LOOK_EVERY_S] * 3


def test_a_cycle_turns_when_it_is_woken_keeps_an_image_that_is_due_and_goes_on_at_once_with_what_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """1. One turn for all that woke it. 2. More: the next follows. 3. Nothing more: it waits for the tick."""
    world = World()
    made = cycle.Cycle(world.engine)
    more, saved, ticks = [True, False], list[int](), list[float]()

    async def turn() -> bool:
        return more.pop(0)

    async def save() -> None:
        saved.append(made.stats.turns)

    async def sleep(seconds: float) -> None:
        if seconds == cycle.IDLE_S:
            ticks.append(made.stats.turns)
            if not more:
                raise Over
        else:
            assert seconds == cycle._pause_s(0)
        await asyncio.sleep(0)
        if seconds == cycle.IDLE_S:
            await asyncio.Event().wait()

    monkeypatch.setattr(cycle, "asyncio", SimpleNamespace(**vars(asyncio) | {"sleep": sleep}))
    monkeypatch.setattr(made, "turn", turn)
    monkeypatch.setattr(world.engine, "snapshot_due", lambda: len(saved) < 1, raising=False)
    monkeypatch.setattr(world.engine, "save_snapshot", save, raising=False)

    async def main() -> None:
        running = asyncio.create_task(made.run())
        for _ in range(50):
            await asyncio.sleep(0)
        assert (made.stats.turns, saved, more, ticks) == (2, [1], [], [0])
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert len(asyncio.all_tasks()) == 1, "its timer ends with it"

    asyncio.run(main())


# ------------------------------------------------------------------ brokers


class Broker:
    """What `aiomqtt.Client` is to the bridge."""

    made: list[Broker]

    def __init__(self, host: str, port: int, **how: Any) -> None:
        self.told = (host, port, how)
        self.subscribed: list[tuple[str, int]] = []
        self.published: list[tuple[str, bytes, int]] = []
        Broker.made.append(self)
        self.messages = self._messages()
        self.read = 0

    async def __aenter__(self) -> Broker:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.told = ("left", 0, {})

    async def subscribe(self, topic: str, qos: int) -> None:
        self.subscribed.append((topic, qos))

    async def publish(self, topic: str, payload: bytes, qos: int) -> None:
        self.published.append((topic, payload, qos))

    async def _messages(self) -> AsyncIterator[Any]:
        for node, payload in (("n1", b"one"), ("n2", "no bytes"), ("n3", b"two")):
            topic = SimpleNamespace(value=f"bursar/v1/c1/{node}/telemetry")
            self.read += 1
            yield SimpleNamespace(topic=topic, payload=payload)
        await asyncio.sleep(0)


@pytest.mark.parametrize("tls", [False, True])
def test_a_bridge_tells_of_events_subscribes_to_nothing_and_comes_back_when_the_broker_goes(
    tls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    Broker.made = []
    bridge = mqtt.MqttBridge("mqtts://u:p@b" if tls else "mqtt://u:p@b", "c1")
    slept: list[tuple[float, bool]] = []

    async def sleep(seconds: float) -> None:
        slept.append((seconds, bridge.connected.is_set()))
        if len(slept) == 2:
            raise Over
        bridge.publish_event("job-ended", b"{}")

    monkeypatch.setattr(mqtt, "asyncio", SimpleNamespace(**vars(asyncio) | {"sleep": sleep}))
    monkeypatch.setattr(mqtt.aiomqtt, "Client", Broker)
    bridge.publish_event("job-held", b"{1}")
    ended(bridge.run())
    first, second = Broker.made
    assert (first.read, second.read) == (3, 3)  # to know when the connection ends
    assert first.subscribed == second.subscribed == []
    assert first.published == [("bursar/v1/c1/events/job-held", b"{1}", 0)]
    assert second.published == [("bursar/v1/c1/events/job-ended", b"{}", 0)]
    assert slept == [(mqtt.RETRY_S, False)] * 2
    assert first.told[0] == "left"


def test_a_bridge_says_who_it_is_and_uses_tls_where_it_is_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def client(*where: Any, **how: Any) -> None:
        asked.append((where, how))
        raise Over

    monkeypatch.setattr(mqtt.aiomqtt, "Client", client)
    for url in ("mqtt://u:p@b", "mqtts://b:7"):
        ended(mqtt.MqttBridge(url, "c1")._session())
    (plain, told), (sealed, other) = asked
    assert (plain, told) == (
        ("b", 1883), {"username": "u", "password": "p", "identifier": "bursard-c1", "tls_params": None}
    )  # fmt: skip
    assert (sealed, other["username"], type(other["tls_params"])) == (("b", 7), None, aiomqtt.TLSParameters)


def test_events_that_no_broker_takes_are_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt, "BUFFER_MAX", 2)
    bridge = mqtt.MqttBridge("mqtt://b", "c1")
    for _ in range(5):
        bridge.publish_event("k", b"")
    assert bridge.dropped == 3


# ------------------------------------------------------------------ who calls


async def _line(path: Path) -> Any:
    reader, writer = await asyncio.open_unix_connection(str(path))
    data = await reader.read()
    writer.close()
    assert data.endswith(b"\n")
    return json.loads(data)


def test_whoever_connects_on_this_machine_gets_a_token_of_the_account_that_the_kernel_names(
    tmp_path: Path,
) -> None:
    clock = VirtualClock(5)
    authority = Authority(State(), clock, local_role=None)

    async def story() -> tuple[Any, Any, Any]:
        server = Peers(authority, str(tmp_path / "s"))
        first, again = await _line(tmp_path / "s"), await _line(tmp_path / "s")
        clock.advance(200 * SECOND_US)
        later = await _line(tmp_path / "s")
        server.close()
        return first, again, later

    first, again, later = asyncio.run(story())
    assert set(first) == {"token", "expires_s"}
    assert (first["expires_s"], again) == (300, first)
    assert later["expires_s"] == 300
    assert later["token"] != first["token"], "one that ends soon is not handed out again"
    identity = authority.identify(f"Bearer {first['token']}")
    assert (identity.uid, identity.role, identity.local) == (os.getuid(), Role.ADMIN, True)


def test_an_account_without_a_role_is_told_so_on_the_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(State(), VirtualClock(5), local_role=None)
    monkeypatch.setattr("bursard.access.tokens.struct.unpack", lambda form, raw: (1, 4_000_000_001, 1))

    async def story() -> Any:
        server = Peers(authority, str(tmp_path / "s"))
        line = await _line(tmp_path / "s")
        server.close()
        return line

    error = "uid-4000000001 has no role here; ask an administrator for `bursar grant`"
    assert asyncio.run(story()) == {"error": error}


def test_a_token_of_the_file_has_64_digits_and_a_role(tmp_path: Path) -> None:
    def read(role: str, digest: str) -> Any:
        (tmp_path / "t").write_text(f'[[token]]\nuser = "eve"\nrole = "{role}"\nsha256 = "{digest}"\n')
        (one,) = load_users(tmp_path / "t")
        return one

    assert read("viewer", "a" * 64).base == (Role.VIEWER, ())
    assert read(NO_ROLE, "0" * 64).role is None
    for digest in ("a" * 63, "a" * 65, "A" * 64, "g" * 64):
        with pytest.raises(InvalidRequest, match="sha256 of eve is not 64 hexadecimal digits"):
            read("viewer", digest)
    with pytest.raises(InvalidRequest, match="'agent' of eve is no role of a user; there are viewer"):
        read("agent", "a" * 64)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "use 1 to 63 letters"), ("node:n1", "use 1 to 63 letters"), ("\\u001b[2J", "use 1 to 63"),
        ("\\u0430nn", "use 1 to 63 letters"), ("a" * 64, "use 1 to 63 letters"), ("ann\\n", "use 1 to 63"),
        ("bursard", "the daemon writes under it"), ("Bursard", "the daemon writes under it"),
    ],
)  # fmt: skip
def test_a_token_is_of_a_name_that_a_user_may_have(tmp_path: Path, name: str, said: str) -> None:
    path = tmp_path / "t"
    good = f'[[token]]\nuser = "ann+x@corp"\nrole = "viewer"\nsha256 = "{"a" * 64}"\n\n'
    path.write_text(good + f'[[token]]\nuser = "{name}"\nrole = "viewer"\nsha256 = "{"b" * 64}"\n')
    with pytest.raises(InvalidRequest, match=rf"^tokens_file: {path}:6: user .* is no user name.*{said}"):
        load_users(path)
    path.write_text(good)
    assert [one.user for one in load_users(path)] == ["ann+x@corp"]


def test_a_user_of_the_tokens_file_can_be_granted_by_the_same_name() -> None:
    given = rights.read_grant("viewer", "nlp")
    assert rights.grant(State(), "ann+x@corp", given)
    for name in ("bursard", "node:n1", "\u0430nn", ""):
        with pytest.raises(InvalidRequest, match="is no user name"):
            rights.grant(State(), name, given)


def test_a_secret_is_one_users_and_a_project_is_a_path(tmp_path: Path) -> None:
    path = tmp_path / "t"
    ann, bob = (f'[[token]]\nuser = "{n}"\nrole = "viewer"\nsha256 = "{"a" * 64}"\n' for n in ("ann", "bob"))
    path.write_text(ann + bob)
    with pytest.raises(InvalidRequest, match=rf"{path}:5: bob has the sha256 of ann above"):
        load_users(path)
    path.write_text(ann + 'project = "a//b"\n')
    with pytest.raises(InvalidRequest, match=rf"{path}:1: project .a//b. of ann is not a project path: .*//"):
        load_users(path)


# ------------------------------------------------------------------ the log


def test_a_line_of_the_log_is_an_object_with_what_was_said_and_all_that_was_added() -> None:
    made = logging.LogRecord("bursard.x", logging.WARNING, "f.py", 3, "took %s s", (5,), None)
    made.created = 1_793_494_800.25
    made.node, made.path = "n1", Path("/a")
    assert json.loads(logs.JsonFormatter().format(made)) == {
        "at": "2026-11-01T01:00:00.250000Z", "level": "warning", "event": "took 5 s", "logger": "bursard.x",
        "node": "n1", "path": "/a",
    }  # fmt: skip
    try:
        raise ValueError("of this")
    except ValueError:
        made.exc_info = sys.exc_info()
    assert json.loads(logs.JsonFormatter().format(made))["error"].endswith("ValueError: of this")


@pytest.mark.parametrize("form", ["json", "text"])
def test_logs_go_to_standard_error_from_the_level_on(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    monkeypatch.setattr(sys, "stderr", said)
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        logs.configure("WARNING", form)
        logging.getLogger("a.b").info("no")
        logging.getLogger("a.b").warning("yes")
    finally:
        root.handlers[:], root.level = before, level
    (line,) = said.getvalue().splitlines()
    assert (json.loads(line)["event"] if form == "json" else line.split(" ", 2)[2]) == (
        "yes" if form == "json" else "WARNING a.b: yes"
    )


# ------------------------------------------------------------------ money


def test_amounts_of_one_currency_add_and_compare_and_others_never() -> None:
    one, two = Money(1_000_000_000, "USD"), Money(2_500_000_000, "USD")
    assert (one + two, two - one, one - two) == (
        Money(3_500_000_000, "USD"), Money(1_500_000_000, "USD"), Money(-1_500_000_000, "USD")
    )  # fmt: skip
    assert (one < two, two < one, one < one, one <= one, two <= one, one <= two) == (
        True, False, False, True, False, True
    )  # fmt: skip
    assert (str(two), str(one - two)) == ("2.500000000 USD", "-1.500000000 USD")
    for mixed in (
        lambda: one + Money(1, "EUR"),
        lambda: one - Money(1, "EUR"),
        lambda: one < Money(1, "EUR"),
        lambda: one <= Money(1, "EUR"),
    ):
        with pytest.raises(CurrencyMismatch, match="cannot combine USD with EUR; convert one of them first"):
            mixed()
