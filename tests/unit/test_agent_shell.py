"""The shell around the agent's core: which part carries out which instruction, and what a welcome changes."""

from __future__ import annotations

import asyncio
import errno
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from bursar.errors import InvalidRequest, NotFound
from bursar.model import EndCause, Exit
from bursar_agent import app as room
from bursar_agent import stimuli as s
from bursar_agent.app import App
from bursar_agent.link.wire import Welcome
from bursar_agent.statedir import LogEnd


class Noted:
    """A part of the agent that notes what it is asked, and answers as it is told to."""

    def __init__(self, name: str, said: list[Any], **answers: Any) -> None:
        self._name, self._said, self._answers = name, said, answers

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name in self._answers and not callable(self._answers[name]):
            return self._answers[name]

        def call(*words: Any, **more: Any) -> Any:
            self._said.append((f"{self._name}.{name}", *words, *more.items()))
            answer = self._answers.get(name)
            return answer(*words) if answer is not None else None

        return call


class Bench:
    def __init__(self) -> None:
        self.said: list[Any] = []
        self.made = App.__new__(App)  # its own start opens sockets and directories
        self.kept = True
        parts: dict[str, Any] = {
            "_link": Noted("link", self.said),
            "_members": Noted("members", self.said, release=lambda key: self.kept),
            "_spooling": Noted("spool", self.said),
            "_core": Noted(
                "core", self.said, busy=True, cluster_id="c0", holds_for_another=lambda other: other == "c9",
                live=lambda: (s.Live(("att_1", 0), 7), s.Live(("att_2", 0), 8))
            ),
            "_devices": Noted("devices", self.said),
            "_forgotten": Noted("forgotten", self.said),
            "_state": Noted("state", self.said, path=Path("/state"), log_end=lambda: LogEnd("c0", 1, b"x")),
            "_tasks": Noted("tasks", self.said),
            "_settings": SimpleNamespace(name="n1"),
            "_facts": None, "_boot_id": "boot-1", "_instance": "agent_1", "_publisher": None,
            "_publishing": set(), "_mqtt_url": "", "_cluster_id": "", "_unpersisted": None,
            "_uniform": lambda low, high: low, "_clock": SimpleNamespace(now=lambda: WALL),
        }  # fmt: skip
        for name, part in parts.items():
            setattr(self.made, name, part)
        self.made._effects = self.made._effect_table()

    def does(self, instruction: Any) -> list[Any]:
        self.said.clear()
        self.made._effects[type(instruction)](instruction)
        return list(self.said)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    for name in ("usage", "heartbeat", "log_reply"):
        monkeypatch.setattr(
            room.wire, name, lambda *words, name=name, **more: (name, *words, *sorted(more.items()))
        )
    return Bench()


WALL = 17
USAGE = s.Usage(seq=1, boot_id="boot-1", at_boot_us=2, counters=())
EXITED = s.SendExited("att_1", 0, Exit(cause=EndCause.COMPLETED, exit_code=0))
STARTED = s.SendStarted(attempt_id="att_1", rank=0, pid=7, boot_us=5)
STOP = s.StopMember(attempt_id="att_1", rank=0, cause="cancelled", grace_us=5, signal="")


@pytest.mark.parametrize(
    ("instruction", "done"),
    [
        (s.StartMembers((), 3), [("members.start", s.StartMembers((), 3))]),
        (STOP, [("members.stop", STOP)]),
        (STARTED, [("link.send_started", STARTED)]),
        (EXITED, [("link.send_exited", EXITED, ("gather", True))]),
        (s.SpoolAppend(USAGE), [("spool.put", s.SpoolAppend(USAGE))]),
        (s.SpoolTrim(4), [("spool.put", s.SpoolTrim(4))]),
        (s.ResendUsage(4), [("spool.put", s.ResendUsage(4))]),
        (s.SendUsage(USAGE), [("link.flush_starts",), ("link.send", ("usage", USAGE))]),
        (s.SendHeartbeat(9), [("link.send", ("heartbeat", 9, WALL))]),
        (s.ReadTruth(), [("members.read_truth",)]),
        (s.SendCondition("full"), [("link.send_condition", s.SendCondition("full"))]),
        (s.PersistEpoch(5, 6, "c1"), [("state.persist", 5, 6, "c1")]),
    ],
)
def test_each_instruction_is_carried_out_by_its_part(bench: Bench, instruction: Any, done: list[Any]) -> None:
    assert bench.does(instruction) == done


def test_there_is_a_part_for_every_instruction(bench: Bench) -> None:
    assert set(bench.made._effects) == set(get_args(s.Instruction))


def test_a_member_that_is_forgotten_keeps_its_log_as_long_as_it_is_read(bench: Bench) -> None:
    key = ("att_1", 0)
    assert bench.does(s.ForgetMember("att_1", 0, 33)) == [("devices.forget", key), ("members.release", key)]
    bench.kept = False
    assert bench.does(s.ForgetMember("att_1", 0, 33, True)) == [
        ("devices.forget", key),
        ("members.release", key),
        ("forgotten.add", key, 33),
        ("state.forget_signal", key),
    ]


def test_only_members_that_live_are_metered(bench: Bench) -> None:
    seen: list[Any] = []

    async def meter(live: Any) -> None:
        seen.append(live)

    bench.made._meter = meter  # type: ignore[method-assign]
    done = bench.does(s.ReadMeters((("att_2", 0), ("att_3", 0))))
    assert [each[0] for each in done] == ["core.live", "tasks.spawn"]
    assert done[1][2] == "meter"
    asyncio.run(done[1][1])
    assert seen == [(s.Live(("att_2", 0), 8),)]


def test_what_the_meters_say_goes_to_the_core(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    bench.made._sampler = SimpleNamespace(cpu_us=lambda live: (77, {"x": live}))  # type: ignore[assignment]
    bench.made._runner = SimpleNamespace(ended=lambda keys: dict.fromkeys(keys, 55))  # type: ignore[assignment]
    bench.made._probing = None  # type: ignore[assignment]
    monkeypatch.setattr(bench.made, "_emit", told.append)
    live = (s.Live(("att_2", 0), 8),)
    asyncio.run(bench.made._meter(live))
    assert told == [s.MeterRead(77, {"x": live}, {("att_2", 0): 55})]  # type: ignore[dict-item]


def test_events_go_through_the_core_and_its_instructions_in_order(bench: Bench) -> None:
    bench.made._core = SimpleNamespace(handle=lambda event: [s.SpoolTrim(1), s.SpoolTrim(event)])  # type: ignore[assignment]
    bench.made._emit(2)  # type: ignore[arg-type]
    assert bench.said == [("spool.put", s.SpoolTrim(1)), ("spool.put", s.SpoolTrim(2))]


def test_a_hello_says_what_was_known_last_and_first_what_could_not_be_written(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    hello: Any = object()
    said: list[Any] = []
    monkeypatch.setattr(room.wire, "hello", lambda *words: said.append(words) or ["one", "two"])
    bench.made._hello(hello)
    assert said == [(hello, None, "boot-1", room.bursar.__version__, "agent_1", LogEnd("c0", 1, b"x"))]
    assert bench.said == [("state.log_end",), ("link.send", "one"), ("link.send", "two")]
    bench.made._unpersisted = s.PersistEpoch(5, 6)
    bench.said.clear()
    bench.made._hello(hello)
    assert bench.said[0] == ("state.persist", 5, 6, "")
    assert bench.made._unpersisted is None


def test_nothing_is_started_under_an_epoch_that_cannot_be_written_and_the_node_says_so(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    told: list[Any] = []
    monkeypatch.setattr(bench.made, "_emit", told.append)
    bench.made._clock = SimpleNamespace(boot_us=lambda: 7)  # type: ignore[assignment]
    bench.made._core = SimpleNamespace(trouble="")  # type: ignore[assignment]
    bench.made._state = Noted("state", bench.said, path="/state", persist=full)  # type: ignore[assignment]
    bench.does(s.PersistEpoch(5, 6))
    trouble = "its agent cannot write which daemon it obeys (agent.json): No space left on device"
    assert told == [s.Probed(7, trouble)]
    start = s.StartMembers((), 5)
    assert bench.does(start)[1:] == [("members.refuse", start, trouble)]
    bench.made._state = Noted("state", bench.said)  # type: ignore[assignment]
    assert bench.does(start) == [("state.persist", 5, 6, ""), ("members.start", start)]
    assert bench.does(start) == [("members.start", start)]


def test_the_end_of_the_log_is_kept_with_the_cluster_it_is_of(bench: Bench) -> None:
    bench.made._cluster_id = "c7"
    bench.made._log_end_told(9, b"h")
    assert bench.said == [("state.remember_log_end", LogEnd("c7", 9, b"h"))]


def test_a_hello_names_the_cluster_of_what_is_here_also_without_a_log_end_of_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    hello: Any = object()
    said: list[Any] = []
    monkeypatch.setattr(room.wire, "hello", lambda *words: said.append(words[-1]) or [])
    for core, kept in (("c1", LogEnd("c0", 1, b"x")), ("c1", None), ("", None)):
        bench.made._core = SimpleNamespace(cluster_id=core)  # type: ignore[assignment]
        bench.made._state = SimpleNamespace(log_end=lambda kept=kept: kept)  # type: ignore[assignment]
        bench.made._hello(hello)
    assert said == [LogEnd("c1", 0, b""), LogEnd("c1", 0, b""), None]


def test_a_daemon_of_another_cluster_gets_no_readings_and_leaves_no_end_of_its_log(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.made._welcomed(welcome("mqtt://a", "c9"))
    bench.made._log_end_told(9, b"h")
    assert (bench.made._cluster_id, bench.made._publisher) == ("", None)
    assert not [said for said in bench.said if said[0] == "state.remember_log_end"]
    assert "`bursar-agent --state-dir /state --forsake c0`" in caplog.text


def welcome(url: str, cluster: str = "c1") -> Welcome:
    return Welcome(node_id="node_1", cluster_id=cluster, mqtt_url=url)


class Publisher:
    def __init__(self, made: list[Any], *words: Any) -> None:
        made.append(words)
        self.closed = False

    async def run(self) -> None:
        await asyncio.Event().wait()

    def close(self) -> None:
        self.closed = True


def test_readings_go_to_the_broker_that_a_welcome_names(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    made: list[Any] = []
    monkeypatch.setattr(room, "Publisher", lambda *words: Publisher(made, *words))
    monkeypatch.setattr(room.Broker, "parse", staticmethod(parse))

    async def story() -> None:
        app = bench.made
        app._welcomed(welcome(""))
        assert (app._publisher, app._cluster_id) == (None, "c1")
        app._welcomed(welcome("mqtt://a"))
        first: Any = app._publisher
        assert made == [("mqtt://a", "c1", "n1", app._uniform)]
        app._welcomed(welcome("mqtt://a"))
        assert app._publisher is first
        app._welcomed(welcome("mqtt://a", "c2"))
        assert first.closed
        second: Any = app._publisher
        assert made[1:] == [("mqtt://a", "c2", "n1", app._uniform)]
        assert len(app._publishing) == 2
        app._welcomed(welcome("odd", "c2"))
        assert (app._publisher, second.closed) == (None, True)
        for task in list(app._publishing):
            task.cancel()
        await asyncio.gather(*app._publishing, return_exceptions=True)
        await asyncio.sleep(0)
        assert app._publishing == set()

    asyncio.run(story())
    assert [(record.getMessage(), record.problem) for record in caplog.records] == [  # type: ignore[attr-defined]
        ("telemetry goes to no broker", "no broker")
    ]


def parse(url: str) -> str:
    if url == "odd":
        raise InvalidRequest("no broker")
    return url


WANTED = s.LogRange(request_id=4, attempt_id="att_1", rank=0)


GONE = "gone, or its log is past its retention"
NO_HOLE = {"offset": WANTED.offset, "next_offset": WANTED.offset, "dropped_bytes": 0}


def test_a_log_that_the_disk_never_took_is_told_as_missing(bench: Bench) -> None:
    async def read_log(instruction: s.ReadLog) -> Any:
        raise NotFound("left no log")

    bench.made._members = SimpleNamespace(read_log=read_log)  # type: ignore[assignment]
    end = WANTED.offset + 30
    exit = Exit(cause=EndCause.COMPLETED, exit_code=0, log_bytes=end)
    asyncio.run(bench.made._read_log(s.ReadLog(WANTED, False, exit)))
    reply = {"ended": True, "error": "", "offset": end, "next_offset": end, "dropped_bytes": 30}
    assert bench.said == [("link.send", ("log_reply", 4, *sorted(reply.items())))]


@pytest.mark.parametrize(
    ("outcome", "live", "ended", "reply"),
    [
        ((b"ab", 1, 3, 5, True, [(0, 1)]), True, False,
         {"data": b"ab", "offset": 1, "next_offset": 3, "ended": True, "dropped_bytes": 5,
          "marks": [(0, 1)]}),
        (NotFound("gone"), False, False, {"ended": True, "error": GONE, **NO_HOLE}),
        (NotFound("gone"), True, False, {"ended": False, "error": "", **NO_HOLE}),
        (NotFound("gone"), False, True, {"ended": True, "error": "", **NO_HOLE}),
        (OSError("bad disk"), True, False, {"error": "bad disk"}),
    ],
)  # fmt: skip
def test_a_log_that_is_asked_for_is_answered_or_said_to_be_gone(
    bench: Bench, outcome: Any, live: bool, ended: bool, reply: dict[str, Any]
) -> None:
    async def read_log(instruction: s.ReadLog) -> Any:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    bench.made._members = SimpleNamespace(read_log=read_log)  # type: ignore[assignment]
    exit = Exit(cause=EndCause.START_FAILED, started=False) if ended else None
    asyncio.run(bench.made._read_log(s.ReadLog(WANTED, live, exit)))
    assert bench.said == [("link.send", ("log_reply", 4, *sorted(reply.items())))]


def test_directories_that_cannot_be_removed_keep_no_other_from_it(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    outcomes: dict[str, Any] = {"a": NotFound("gone"), "b": OSError("busy"), "c": None}
    tried: list[str] = []

    def forget(attempt_id: str, rank: int) -> None:
        tried.append(attempt_id)
        if outcomes[attempt_id] is not None:
            raise outcomes[attempt_id]

    bench.made._runner = SimpleNamespace(forget=forget)  # type: ignore[assignment]
    bench.made._remove([("a", 0), ("b", 0), ("c", 0)])
    assert tried == ["a", "b", "c"]
    assert [record.attempt_id for record in caplog.records] == ["b"]  # type: ignore[attr-defined]


def test_what_a_node_offers_is_what_was_found_unless_less_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room.machine, "cpu_milli", lambda: 8_000)
    monkeypatch.setattr(room.machine, "memory_bytes", lambda: 1 << 34)
    monkeypatch.setattr(room.modules, "find", lambda env: "")
    monkeypatch.setattr(room.programs, "label_of", lambda env: {"programs": "(ssh)"})
    own = ("programs", "(ssh)")
    words = ("name", "pool", "provider", "region", "zone", "rack", "instance_type", "market", "address")
    settings: Any = SimpleNamespace(
        **{word: f"its-{word}" for word in words}, cpu_milli=0, memory_limit=0, labels={"b": "2", "a": "1"}
    )
    gpus: Any = SimpleNamespace(devices=lambda: ("d",))
    found = room.facts(settings, gpus, ("memory",))
    assert [getattr(found, word) for word in words] == [f"its-{word}" for word in words]
    assert (found.cpu_milli, found.memory_bytes, found.devices, found.limits) == (
        8_000,
        1 << 34,
        ("d",),
        ("memory",),
    )
    assert found.labels == (("a", "1"), ("b", "2"), own)
    settings.cpu_milli, settings.memory_limit = 2_000, 1 << 20
    less = room.facts(settings, gpus)
    assert (less.cpu_milli, less.memory_bytes, less.limits) == (2_000, 1 << 20, ())
    monkeypatch.setattr(room.modules, "find", lambda env: "/nowhere/modules.sh")
    has = ("modules", "environment-modules")
    assert room.facts(settings, gpus).labels == (("a", "1"), ("b", "2"), has, own)
    settings.labels = {"modules": "ours", "programs": "(ours)"}
    assert room.facts(settings, gpus).labels == (("modules", "ours"), ("programs", "(ours)"))


def test_the_first_of_several_problems_is_the_one_that_is_told() -> None:
    first = ValueError("a")
    nested = BaseExceptionGroup("x", [BaseExceptionGroup("y", [first]), KeyError("b")])
    assert room._first(nested) is first
