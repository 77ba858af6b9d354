"""A provider says that it takes a machine back: its jobs end in time and wait again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from rented_site import CLOUD, Runs

from bursar.clock import SECOND_US, VirtualClock
from bursar.errors import InvalidRequest
from bursar.model import CheckpointSpec, EndCause, JobState
from bursar_agent import notices
from bursar_agent import stimuli as s
from bursar_agent.agent import Agent
from bursar_agent.link import wire
from bursard.fleet.testing import FACTS, World
from bursard.fleet.words import Notice
from bursard.machines.local import LocalProvider
from bursard.machines.localfile import parse_cloud, parse_trace
from bursard.machines.provider import CloudError, InstanceState, Join, Kind, Order, Place

SAID = s.Noticed("a spot machine, in 30s", 90 * SECOND_US, False)
HERE = Place("home", "home-a", "cpu", "cpu.small", "spot")


def told(out: list[s.Instruction]) -> list[s.SendNotice]:
    return [one for one in out if isinstance(one, s.SendNotice)]


def test_an_agent_tells_a_notice_once_and_again_with_each_connection() -> None:
    core = Agent("boot")
    assert told(core.handle(SAID)) == []
    core.handle(s.Connected(0))
    welcome = s.Welcomed(now_boot_us=0, epoch=1)
    assert told(core.handle(welcome)) == [s.SendNotice(SAID)]
    assert core.handle(SAID) == []
    advice = s.Noticed("it may", 99 * SECOND_US, True)
    assert told(core.handle(advice)) == [s.SendNotice(advice)]
    core.handle(s.Disconnected())
    core.handle(s.Connected(0))
    assert told(core.handle(welcome)) == [s.SendNotice(advice)]


def test_what_is_left_is_counted_when_it_is_told() -> None:
    message = wire.notice(s.SendNotice(SAID), 70 * SECOND_US).notice
    assert (message.said, message.left_us, message.advice) == (SAID.said, 20 * SECOND_US, False)
    assert wire.notice(s.SendNotice(SAID), 91 * SECOND_US).notice.left_us == 0


def test_a_file_is_a_notice_from_when_it_was_written(tmp_path: Path) -> None:
    clock, file = VirtualClock(), tmp_path / "notice.json"
    assert notices.read(file, clock) is None
    file.write_text('{"said": "soon", "left_s": 30}')
    os.utime(file, (clock.now() // SECOND_US - 10,) * 2)
    clock.advance(5 * SECOND_US)
    found = notices.read(file, clock)
    assert found is not None
    assert (found.said, found.advice) == ("soon", False)
    assert abs(found.until_boot_us - clock.boot_us() - 15 * SECOND_US) <= SECOND_US
    clock.advance(300_000)
    assert notices.read(file, clock) == found


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"{}", b'{"said": "x", "left_s": "soon"}', b"\xff"])
def test_what_is_no_notice_is_one_of_at_once(text: bytes) -> None:
    found = notices.parse(text, 7 * SECOND_US)
    assert found == s.Noticed("its notice cannot be read", 7 * SECOND_US, False)


def test_advice_is_told_as_such() -> None:
    found = notices.parse(b'{"said": "rebalance", "left_s": 1e99, "advice": true}', 0)
    assert found == s.Noticed("rebalance", 86_400 * SECOND_US, True)


def noticed(world: World, left_us: int = 30 * SECOND_US, advice: bool = False) -> None:
    world.fleet.notice(world.node(), Notice("a spot machine, in 30s", left_us, advice))
    world.writer.flush()


def test_jobs_are_stopped_within_what_is_left_and_wait_again_with_the_notice_as_cause() -> None:
    world = World()
    world.backend.connect(FACTS)
    job = world.submit(checkpoint=CheckpointSpec(signal="USR1", grace_us=60 * SECOND_US))
    world.cycle()
    attempt = job.attempt
    assert attempt is not None
    world.backend.report()
    noticed(world)
    assert (world.node().mode, world.node().reason) == (
        "drain",
        "its provider takes it back: a spot machine, in 30s",
    )
    assert (attempt.stop_cause, attempt.stop_grace_us) == (EndCause.PREEMPTED, 30 * SECOND_US)
    before = world.state.version
    noticed(world)
    assert world.state.version == before, "said twice, it changes nothing more"
    world.backend.report()
    world.writer.flush()
    assert (job.state, attempt.cause) == (JobState.PENDING, EndCause.PREEMPTED)
    assert attempt.stop_message == "node n-1: its provider takes it back: a spot machine, in 30s"
    world.cycle()
    assert job.attempt is None, "it gets no new work"


def test_advice_drains_and_stops_nothing() -> None:
    world = World()
    world.backend.connect(FACTS)
    job = world.submit()
    world.cycle()
    world.backend.report()
    noticed(world, advice=True)
    assert world.node().reason == "its provider may take it back: a spot machine, in 30s"
    assert job.attempt is not None
    assert job.attempt.stop_cause is None
    noticed(world)
    assert job.attempt.stop_cause is EndCause.PREEMPTED


@pytest.mark.parametrize("word", [Notice("x" * 5_000, 0, False), Notice("x", 2**63, False)])
def test_a_notice_that_cannot_be_is_refused(word: Notice) -> None:
    world = World()
    node = world.backend.connect(FACTS)
    with pytest.raises(InvalidRequest, match="notice"):
        world.fleet.notice(node, word)


class Home:
    """A local cloud whose clock a test moves."""

    def __init__(self, folder: Path, more: str) -> None:
        self.clock, self.runs = VirtualClock(), Runs()
        cloud = parse_cloud(CLOUD + more, "cloud.yaml", folder)
        self.provider = LocalProvider(cloud, folder / "machines.json", self.runs, self.clock.now)

    def create(self) -> str:
        join = Join(server="s", name="n", pool="p", token="node_secret")
        return self.provider.create(
            Order(machine_id="mach_1", cluster="c", place=HERE, join=join, lifetime_us=3600 * SECOND_US)
        )

    def after(self, seconds: int, key: str) -> InstanceState:
        self.clock.advance(seconds * SECOND_US)
        return self.provider.poll(key).state


def test_a_machine_is_told_and_gone_when_its_notice_is_over(tmp_path: Path) -> None:
    home = Home(tmp_path, "notice: 5s\nfaults: [{call: vanish, market: spot, after: 30s}]\n")
    key = home.create()
    home.after(20, key)
    assert home.after(24, key) is InstanceState.RUNNING
    assert home.runs.told == {}
    assert home.after(1, key) is InstanceState.RUNNING
    assert home.runs.told == {key: ("a spot machine, in 5s", 5 * SECOND_US)}
    assert home.after(4, key) is InstanceState.RUNNING
    assert home.after(1, key) is InstanceState.GONE
    gone = home.provider.poll(key)
    assert (gone.interrupted, gone.message) == (True, "it was taken back")


def test_a_machine_is_taken_back_when_somebody_asks_for_it(tmp_path: Path) -> None:
    home = Home(tmp_path, "notice: 5s\n")
    key = home.create()
    assert home.after(20, key) is InstanceState.RUNNING
    assert home.runs.told == {}
    (tmp_path / key).mkdir()
    (tmp_path / key / "take-back").touch()
    assert home.after(1, key) is InstanceState.RUNNING
    assert home.runs.told == {key: ("a spot machine, in 5s", 5 * SECOND_US)}
    assert home.after(5, key) is InstanceState.GONE


def test_spot_machines_are_there_when_a_trace_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("from_s,to_s\n10,60\n100,200.5\n")
    home = Home(tmp_path, "notice: 5s\nspot: {home-a: a.csv}\n")
    with pytest.raises(CloudError, match="no spot machine is left in home-a") as error:
        home.create()
    assert error.value.kind is Kind.CAPACITY
    home.clock.advance(10 * SECOND_US)
    key = home.create()
    assert home.after(44, key) is InstanceState.RUNNING
    assert home.runs.told == {}
    home.after(1, key)
    assert home.runs.told == {key: ("a spot machine, in 5s", 5 * SECOND_US)}
    assert home.after(5, key) is InstanceState.GONE


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "t.csv:1: the first line must be from_s,to_s"),
        ("from_s,to_s\n1\n", "t.csv:2: must be two numbers of seconds"),
        ("from_s,to_s\n1,nan\n", "t.csv:2: must be two numbers of seconds"),
        ("from_s,to_s\n0,5\n4,9\n", "t.csv:3: must begin when the line before has ended, or later"),
        ("from_s,to_s\n5,5\n", "t.csv:2: must begin when"),
    ],
)
def test_what_is_wrong_with_a_trace_is_said_with_its_line(text: str, says: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        parse_trace(text, "t.csv")
    assert says in str(error.value)


def test_a_trace_of_no_zone_and_one_that_is_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="'home-b' is no zone of this cloud; did you mean 'home-a'"):
        parse_cloud(CLOUD + "spot: {home-b: a.csv}\n", "cloud.yaml", tmp_path)
    with pytest.raises(InvalidRequest, match=r"a\.csv cannot be read: No such file"):
        parse_cloud(CLOUD + "spot: {home-a: a.csv}\n", "cloud.yaml", tmp_path)
