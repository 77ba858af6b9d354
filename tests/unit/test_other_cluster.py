"""A daemon with the books of another cluster (an empty state directory, a volume that is not mounted) costs
nobody a job: what an agent holds of its own cluster is neither told to it, nor ended, nor forgotten for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
from tests.unit.test_agent_core import A, assigned, ended, of, play, started

from bursar.cli.backup import _say_who_holds_on
from bursar.errors import InvalidRequest
from bursar.model import EndCause, JobState
from bursar_agent import stimuli as s
from bursar_agent import terminate
from bursar_agent.agent import Agent
from bursar_agent.statedir import LogEnd, StateDir
from bursard import backup
from bursard.fleet import AgentLink, Agents, Exited, Heartbeat, Hello, MemberTruth, Usage
from bursard.fleet.testing import FACTS, World
from bursard.fleet.words import Condition
from bursard.services.agents import AgentsService
from bursard.services.views import node_state
from bursard.telemetry import LiveTelemetry

B = ("att_b", 0)


def welcome(cluster: str, epoch: int = 1) -> s.Welcomed:
    return s.Welcomed(now_boot_us=0, epoch=epoch, cluster_id=cluster, spend_lease_us=100)


def serving(cluster: str = "c1") -> Agent:
    """An agent of a cluster, on which one member runs, and whose daemon is gone."""
    core = Agent("boot-1")
    play(core, s.Connected(0), welcome(cluster), assigned(), started(), s.Disconnected())
    return core


def test_nothing_is_told_to_a_daemon_of_another_cluster_and_nothing_ended_or_forgotten_for_it() -> None:
    core = serving()
    told = play(core, s.Connected(0), welcome("c2", epoch=9))
    (condition,) = of(s.SendCondition, told)
    assert "its jobs are of cluster c1, and this daemon's books are those of c2" in condition.trouble
    assert (of(s.PersistEpoch, told), of(s.ResendUsage, told), core.epoch) == ([], [], 1)
    stop = s.StopAsked(epoch=9, attempt_id=A[0], rank=0, cause="cancelled", grace_us=0)
    limit = s.LimitAsked(epoch=9, attempt_id=A[0], rank=0, order=1, time_limit_us=1)
    asks = (stop, limit, s.MeterAsked(), s.AckReceived(0, 10**9), s.ForgetReceived(*A))
    assert play(core, *asks) == []
    assert len(core.live()) == 1
    assert of(s.SendExited, play(core, ended(), s.ForgetReceived(*A))) == []
    assert len(core.truths()) == 1


def test_an_order_of_another_cluster_is_refused_in_words_while_members_are_held() -> None:
    core = serving()
    play(core, s.Connected(0), welcome("c2"))
    out = play(core, assigned(B))
    (refusal,) = of(s.SendExited, out)
    assert (refusal.exit.cause, refusal.exit.started) == (EndCause.START_FAILED, False)
    assert "--forsake c1" in refusal.exit.message
    assert of(s.StartMembers, out) == []
    assert len(core.truths()) == 1


def test_the_own_daemon_that_comes_back_is_told_all_of_it() -> None:
    core = serving()
    play(core, s.Connected(0), welcome("c2"), ended(), s.Disconnected())
    out = play(core, s.Connected(0), welcome("c1"))
    assert [one.attempt_id for one in of(s.SendExited, out)] == [A[0]]
    assert of(s.ResendUsage, out)


def test_a_daemon_of_another_cluster_hears_that_the_node_lives_and_its_lease_runs_out_all_the_same() -> None:
    core = serving()
    play(core, s.Connected(0), welcome("c2"))
    out = play(core, s.Tick(core.heartbeat_interval_us + 1))
    assert of(s.SendHeartbeat, out)
    assert [stop.cause for stop in of(s.StopMember, out)] == ["budget"]


def test_an_agent_with_nothing_of_another_cluster_goes_over_by_itself_and_remembers_it() -> None:
    core = serving()
    play(core, s.Connected(0), welcome("c1"), ended(), s.ForgetReceived(*A), s.Disconnected())
    out = play(core, s.Connected(0), welcome("c2"))
    assert of(s.PersistEpoch, out) == [s.PersistEpoch(1, 100, "c2")]
    assert core.cluster_id == "c2"
    assert of(s.StartMembers, play(core, assigned(B)))


def test_usage_of_a_cluster_that_was_left_is_not_sent_to_the_next() -> None:
    core = serving()
    play(core, s.MeterRead(20_000_000, {A: 5}), s.Connected(0), welcome("c1"), ended(), s.ForgetReceived(*A))
    play(core, s.Disconnected())
    out = play(core, s.Connected(0), welcome("c2"))
    (resend,) = of(s.ResendUsage, out)
    (trim,) = of(s.SpoolTrim, out)
    assert resend.after_seq == trim.seq == 1


def test_an_agent_of_an_older_release_that_never_knew_its_cluster_is_served_as_ever() -> None:
    core = Agent("boot-1")
    play(core, s.Connected(0), s.Welcomed(now_boot_us=0, epoch=1), assigned(), started(), s.Disconnected())
    assert of(s.ResendUsage, play(core, s.Connected(0), welcome("c1")))


def test_the_cluster_is_known_after_a_restart_from_either_file(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    assert state.cluster_id() == ""
    state.remember_log_end(LogEnd("c1", 3, b"x" * 32))
    assert state.cluster_id() == "c1"
    state.persist(4, 0, "c2")
    (tmp_path / "log-end.json").write_text("{damaged")
    assert state.cluster_id() == "c2"
    state.close()


def test_a_cluster_is_forsaken_by_its_name_alone(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    state.remember_log_end(LogEnd("c1", 3, b"x" * 32))
    state.persist(4, 5, "c1")
    state.close()
    with pytest.raises(InvalidRequest, match="is of cluster c1, not of c2; nothing was done"):
        asyncio.run(terminate.forsake(tmp_path, "c2"))
    assert asyncio.run(terminate.forsake(tmp_path, "c1")) == 0
    state = StateDir(tmp_path)
    assert (state.cluster_id(), state.remembered().epoch) == ("", 4)
    state.close()


def test_who_gives_all_books_up_is_told_whose_go_on_and_by_which_command_others_let_go(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(agent: str, cluster_id: str, seq: int) -> None:
        state = StateDir(tmp_path / "agents" / agent)
        state.remember_log_end(LogEnd(cluster_id, seq, b"x" * 32))
        state.close()

    told("local-1", "c1", 3)
    backup.accept_loss(tmp_path)
    for directory in (tmp_path, tmp_path / "daemon"):
        _say_who_holds_on(directory, empty=True)
        said = capsys.readouterr().err
        assert "the next start goes on as c1" in said
        assert "--forsake" not in said
    told("local-2", "c2", 2)
    _say_who_holds_on(tmp_path, empty=True)
    said = capsys.readouterr().err
    assert [line for line in said.splitlines() if "--forsake" in line] == [
        f"  bursar-agent --state-dir {tmp_path}/agents/local-2 --forsake c2"
    ]
    _say_who_holds_on(tmp_path, empty=False)
    assert f"{tmp_path}/agents/local-2 --forsake c2\n" in capsys.readouterr().err


def test_who_gives_books_up_of_which_nobody_knows_whose_is_told_what_agents_elsewhere_need(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "agents" / "local-1").mkdir(parents=True)
    (tmp_path / "agents" / "local-1" / "agent.json").write_text('{"epoch": 3}')
    backup.accept_loss(tmp_path)
    _say_who_holds_on(tmp_path, empty=True)
    said = capsys.readouterr().err
    assert "begins another cluster" in said
    assert "  bursar-agent --state-dir DIR --forsake CLUSTER\n" in said


# --- the daemon's side


class Site(World):
    """A daemon, and an agent that holds a member of another cluster."""

    def __init__(self) -> None:
        super().__init__()
        self.hub = Agents(self.engine, self.fleet)

    def hello(self, **changes: object) -> Hello:
        truth = MemberTruth(attempt_id="att_x", rank=0, running=True, pid=7, started_boot_us=1)
        base = Hello(
            facts=FACTS,
            boot_id="boot-1",
            boot_us=self.clock.boot_us(),
            instance="agent_1",
            truths=(truth,),
            epoch=40,
            log_cluster_id="cluster_x",
        )
        return msgspec.structs.replace(base, **changes)

    async def connect(self, hello: Hello) -> AgentLink:
        node = await self.hub.admit(hello)
        link = AgentLink(node.id, FACTS.name, "boot-1", instance="agent_1")
        link.parked = self.hub.parks(hello)
        self.hub.join(link, hello.truths)
        self.writer.flush()
        return link


def story(told: Callable[[Site], Awaitable[None]]) -> None:
    async def whole() -> None:
        await told(Site())

    asyncio.run(whole())


async def nothing_comes(link: AgentLink) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(link.take(), 0.06)


def test_a_node_that_holds_members_of_another_cluster_is_told_to_end_none_and_gets_none() -> None:
    async def told(site: Site) -> None:
        link = await site.connect(site.hello())
        node = site.node()
        assert node_state(node) == "unwell"
        assert "its jobs are of cluster cluster_x" in node.trouble
        assert "--forsake cluster_x" in node.trouble
        assert site.log.epoch == 1
        job = site.submit()
        site.cycle()
        assert job.state is JobState.PENDING
        await nothing_comes(link)

    story(told)


def test_what_it_says_of_them_is_not_taken_nor_acknowledged_nor_is_it_well_by_its_own_word() -> None:
    async def told(site: Site) -> None:
        link = await site.connect(site.hello())
        seq = site.engine.state.version
        end = Exited(attempt_id="att_x", rank=0, cause=EndCause.COMPLETED, exit_code=0)
        usage = Usage(seq=1, boot_id="boot-1", at_boot_us=site.clock.boot_us(), counters=())
        for word in (end, usage, Condition("")):
            site.hub.take(link, word)
        site.hub.take(link, Heartbeat(boot_us=site.clock.boot_us()))
        await nothing_comes(link)
        await site.hub.settle(whole=True)
        assert site.engine.state.version == seq
        assert node_state(site.node()) == "unwell"

    story(told)


def test_a_welcome_to_it_does_not_say_where_the_log_ends() -> None:
    async def told(site: Site) -> None:
        link = await site.connect(site.hello())
        service = AgentsService(site.hub, LiveTelemetry(), mqtt_url="")
        assert service._welcome(site.node(), link).welcome.log_seq == 0
        link.parked = ""
        assert service._welcome(site.node(), link).welcome.log_seq == site.engine.log.head.seq

    story(told)


@pytest.mark.parametrize("changes", [{"truths": ()}, {"log_cluster_id": ""}, {"log_cluster_id": "c"}])
def test_an_idle_node_one_that_says_nothing_and_one_of_ours_are_served(changes: dict[str, object]) -> None:
    async def told(site: Site) -> None:
        site.engine.state.cluster_id = "c"
        link = await site.connect(site.hello(epoch=1, **changes))
        assert (link.parked, node_state(site.node())) == ("", "up")

    story(told)
