"""What an agent does for as long as it lives, and in which order it ends: by hand, without a process."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from bursar.errors import BursarError, StoreUnavailable
from bursar_agent import app as room
from bursar_agent import stimuli as s
from bursar_agent.app import App


class Over(Exception):
    """Ends a loop that would go on for ever."""


class Pauses:
    """In the place of `asyncio.sleep`: notes each pause, and ends the loop after so many."""

    def __init__(self, patch: pytest.MonkeyPatch, times: int) -> None:
        self.found: list[float] = []
        self._left = times
        patch.setattr(room.asyncio, "sleep", self._sleep)

    async def _sleep(self, seconds: float) -> None:
        self.found.append(seconds)
        self._left -= 1
        if self._left < 0:
            raise Over


def app(**parts: Any) -> App:
    made = App.__new__(App)  # its own start opens sockets and directories
    for name, part in parts.items():
        setattr(made, name, part)
    return made


@pytest.mark.parametrize(
    ("meter_us", "heartbeat_us", "pause"),
    [
        (1_000_000, 9_000_000, 0.5),
        (9_000_000, 1_000_000, 0.5),
        (9_000_000, 9_000_000, 1.0),
        (2, 9_000_000, 0.05),
    ],
)
def test_the_clock_of_the_core_goes_on_at_half_of_its_shortest_interval(
    monkeypatch: pytest.MonkeyPatch, meter_us: int, heartbeat_us: int, pause: float
) -> None:
    pauses = Pauses(monkeypatch, 1)
    times = iter((5, 6))
    told: list[Any] = []
    made = app(
        _notifier=SimpleNamespace(watchdog_us=0),
        _clock=SimpleNamespace(boot_us=lambda: next(times)),
        _core=SimpleNamespace(meter_interval_us=meter_us, heartbeat_interval_us=heartbeat_us),
        _emit=told.append,
    )
    with pytest.raises(Over):
        asyncio.run(made._tick())
    assert told == [s.Tick(5), s.Tick(6)]
    assert pauses.found == [pause, pause]


def test_the_watchdog_is_fed_three_times_as_often_as_it_must_be(monkeypatch: pytest.MonkeyPatch) -> None:
    Pauses(monkeypatch, 4)
    times = iter((31, 61, 62, 92, 93))
    fed: list[str] = []
    made = app(
        _notifier=SimpleNamespace(watchdog_us=90, send=fed.append),
        _clock=SimpleNamespace(boot_us=lambda: next(times)),
        _core=SimpleNamespace(meter_interval_us=10**6, heartbeat_interval_us=10**6),
        _emit=lambda event: None,
    )
    with pytest.raises(Over):
        asyncio.run(made._tick())
    assert fed == ["WATCHDOG=1"] * 3  # at 31, at 62 and at 93


@pytest.mark.parametrize("broker", [True, False])
def test_readings_are_taken_once_the_cluster_is_known_and_go_to_the_broker_if_there_is_one(
    monkeypatch: pytest.MonkeyPatch, broker: bool
) -> None:
    pauses = Pauses(monkeypatch, 2)
    offered: list[Any] = []
    monkeypatch.setattr(
        room.wire,
        "telemetry",
        lambda *words: SimpleNamespace(SerializeToString=lambda: words),
    )
    monkeypatch.setattr(room.wire, "telemetry_message", lambda batch: ("message", batch.SerializeToString()))

    left_out: list[Any] = []
    monkeypatch.setattr(room.wire, "leave_out_steps", left_out.append)

    async def with_devices(reading: str, trees: str) -> str:
        return f"{reading}+{trees}"

    async def with_progress(reading: str) -> str:
        return f"{reading}+progress"

    def send(batch: Any) -> None:
        offered.append(batch)
        made._cluster_id = ""  # of the next one nobody knows

    made = app(
        _cluster_id="c1",
        _core=SimpleNamespace(live=lambda: "live"),
        _clock=SimpleNamespace(boot_us=lambda: 5),
        _probing=None,
        _sampler=SimpleNamespace(sample=lambda live: (f"reading of {live}", "trees")),
        _devices=SimpleNamespace(read=with_devices),
        _progress=SimpleNamespace(look=with_progress),
        _settings=SimpleNamespace(name="n1"),
        _publisher=SimpleNamespace(offer=offered.append) if broker else None,
        _link=SimpleNamespace(send_telemetry=send),
    )
    with pytest.raises(Over):
        asyncio.run(made._sample())
    words = ("c1", "n1", ("reading of live+trees+progress",), 5)
    assert offered == [("message", words), *([words] if broker else [])]
    assert len(left_out) == broker  # names of programs are on no broker
    assert pauses.found == [1.0] * 3


def test_directories_whose_logs_are_past_their_time_go_and_the_list_is_written_anew(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pauses = Pauses(monkeypatch, 3)
    expired = iter(([], [("att_1", 0)], [("att_2", 0)]))
    did: list[Any] = []

    def rewrite() -> None:
        did.append("written")
        if len(did) > 2:
            raise OSError(28, "No space left on device")

    made = app(
        _forgotten=SimpleNamespace(take_expired=lambda: next(expired), rewrite=rewrite),
        _remove=did.append,
    )
    with pytest.raises(Over):
        asyncio.run(made._janitor())
    assert did == [[("att_1", 0)], "written", [("att_2", 0)], "written"]
    assert pauses.found == [10.0] * 4
    assert [record.problem for record in caplog.records] == ["No space left on device"]  # type: ignore[attr-defined]


def living(problem: BaseException | None = None) -> App:
    """An agent whose loops wait for ever, but for the link, which may fail."""

    async def wait() -> None:
        await asyncio.Event().wait()

    async def link() -> None:
        if problem is not None:
            raise problem
        await asyncio.Event().wait()

    return app(
        _link=SimpleNamespace(run=link),
        _spooling=SimpleNamespace(run=wait),
        _tick=wait,
        _sample=wait,
        _janitor=wait,
        _watch_notices=wait,
        _watch_metadata=wait,
        _sharing=SimpleNamespace(watch=wait, close=lambda: None),
    )


def test_it_lives_until_it_is_asked_to_stop() -> None:
    async def story() -> None:
        stop = asyncio.Event()
        task = asyncio.create_task(living()._live(stop))
        for _ in range(3):
            await asyncio.sleep(0)
        assert not task.done()
        assert {each.get_name() for each in asyncio.all_tasks()} >= {
            "link", "spool", "tick", "sample", "janitor", "notices", "metadata", "sharing",
        }  # fmt: skip
        stop.set()
        await task

    asyncio.run(story())


@pytest.mark.parametrize("problem", [StoreUnavailable("full"), KeyError("bug")])
def test_the_loop_that_fails_ends_it_with_its_own_problem(problem: BaseException) -> None:
    async def story() -> None:
        await living(problem)._live(asyncio.Event())

    with pytest.raises(type(problem)) as found:
        asyncio.run(story())
    assert found.value is problem


def test_parts_are_closed_in_the_reverse_order_of_building_and_those_never_built_are_not() -> None:
    did: list[str] = []

    def part(name: str, *more: str) -> Any:
        async def soon() -> None:
            did.append(name)

        return SimpleNamespace(
            close=soon if name in ("tasks", "runner", "members") else lambda: did.append(name),
            shutdown=lambda wait: did.append(f"{name} {wait}"),
        )

    least: dict[str, Any] = {
        "_publisher": None, "_publishing": set(), "_tasks": part("tasks"), "_probing": part("probing"),
        "_state": part("state"),
    }  # fmt: skip
    asyncio.run(app(**least)._close())
    assert did == ["tasks", "probing False", "state"]
    did.clear()
    names = ("steps", "runner", "devices", "progress", "spooling", "forgotten")
    parts = {f"_{name}": part(name) for name in names}
    members = SimpleNamespace(tasks=part("members"))
    asyncio.run(app(**{**least, **parts, "_members": members, "_publisher": part("publisher")})._close())
    assert did == [
        "publisher", "tasks", "steps", "members", "runner", "probing False", "devices", "progress",
        "spooling", "forgotten", "state",
    ]  # fmt: skip


def test_a_goodbye_at_the_broker_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "GOODBYE_S", 0)

    async def nothing() -> None:
        return

    async def story() -> None:
        task = asyncio.create_task(asyncio.Event().wait())
        made = app(
            _publisher=None,
            _publishing={task},
            _tasks=SimpleNamespace(close=nothing),
            _probing=SimpleNamespace(shutdown=lambda wait: None),
            _state=SimpleNamespace(close=lambda: None),
        )
        await made._close()
        await asyncio.wait({task})
        assert task.cancelled()

    asyncio.run(story())


def test_systemd_hears_that_it_is_ready_and_that_it_stops_whatever_happens(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """1. Ready once built. 2. Stopping before anything is closed. 3. What does not end in time is left."""
    did: list[str] = []
    fails: list[BursarError] = []

    def step(name: str) -> Any:
        async def run(*_: Any) -> None:
            did.append(name)
            if fails and name == "build":
                raise fails[0]

        return run

    async def story() -> None:
        monkeypatch.setattr(asyncio.get_running_loop(), "add_signal_handler", lambda *_: None, raising=False)
        made = app(
            _notifier=SimpleNamespace(send=did.append), _build=step("build"), _live=step("live"),
            _close=step("close"),
        )  # fmt: skip
        await made.run()
        assert did == ["build", "READY=1", "live", "STOPPING=1", "close"]
        did.clear()
        fails.append(StoreUnavailable("full"))
        with pytest.raises(StoreUnavailable):
            await made.run()
        assert did == ["build", "STOPPING=1", "close"]
        fails.clear()
        monkeypatch.setattr(room, "STOP_DEADLINE_S", 0)
        made._close = asyncio.Event().wait  # type: ignore[method-assign, assignment]
        await made.run()

    asyncio.run(story())
    assert [record.message for record in caplog.records] == ["not everything ended in time; leaving it"]
