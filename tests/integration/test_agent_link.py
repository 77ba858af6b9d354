"""The stream, against an in-process daemon that is really killed and revived on its socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from bursar.clock import SystemClock
from bursar.errors import InvalidRequest
from bursar.model import EndCause, Exit, NodeFacts
from bursar.v1 import agents_pb2 as pb
from bursar_agent import stimuli as s
from bursar_agent.link import connection, wire
from bursar_agent.link.connection import Link, RefusedByDaemon
from bursar_agent.link.fake import TOKEN, FakeDaemon
from bursar_agent.link.identity import Door

FACTS = NodeFacts(name="n1", cpu_milli=1000, memory_bytes=1 << 30)


class Shell:
    """The least around a link: says Hello, keeps what it hears."""

    def __init__(self, daemon: FakeDaemon) -> None:
        self.events: list[s.Event] = []
        self.welcomes: list[wire.Welcome] = []
        self.link = Link(
            Door(daemon.address), SystemClock(), self.hear, self.welcomes.append, lambda a, b: 0.01
        )

    def hear(self, event: s.Event) -> None:
        self.events.append(event)
        if isinstance(event, s.Connected):
            for message in wire.hello(s.SendHello(3, (), event.now_boot_us), FACTS, "boot-1", "1"):
                self.link.send(message)

    def heard(self, kind: type[s.Event]) -> list[s.Event]:
        return [event for event in self.events if isinstance(event, kind)]


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not holds():  # noqa: ASYNC110  what it waits for has no event
            await asyncio.sleep(0.01)


def play(folder: Path, story: Callable[[FakeDaemon, Shell], object]) -> None:
    async def main() -> None:
        daemon = FakeDaemon(folder)
        await daemon.start()
        shell = Shell(daemon)
        running = asyncio.create_task(shell.link.run())
        try:
            await story(daemon, shell)  # type: ignore[misc]
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await daemon.kill()

    asyncio.run(main())


def test_hello_carries_facts_and_the_token_of_auth_sock(tmp_path: Path) -> None:
    async def story(daemon: FakeDaemon, shell: Shell) -> None:
        await until(lambda: bool(shell.heard(s.Welcomed)))
        (hello,) = daemon.hellos
        assert (hello.facts.name, hello.boot_id, hello.epoch) == ("n1", "boot-1", 3)
        assert daemon.tokens == [f"Bearer {TOKEN}"]
        assert [w.cluster_id for w in shell.welcomes] == ["test"]

    play(tmp_path, story)


def test_killed_daemon_is_found_again_and_hears_a_new_hello(tmp_path: Path) -> None:
    """
    1. The daemon is killed and comes back twice on the same socket.
    2. The agent hears Disconnected, Connected and Welcomed each time, in this order.
    """

    async def story(daemon: FakeDaemon, shell: Shell) -> None:
        for count in (1, 2, 3):
            await until(lambda count=count: len(shell.heard(s.Welcomed)) == count)
            await daemon.kill()
            await until(lambda count=count: len(shell.heard(s.Disconnected)) >= count)
            await daemon.start()
        await until(lambda: len(shell.heard(s.Welcomed)) == 4)
        order = [type(e) for e in shell.events if isinstance(e, s.Welcomed | s.Disconnected)]
        assert order[0] is s.Welcomed
        assert all(a is not b or a is s.Disconnected for a, b in pairwise(order))
        assert len(daemon.hellos) == 4

    play(tmp_path, story)


def test_every_kind_of_command_becomes_its_event(tmp_path: Path) -> None:
    async def story(daemon: FakeDaemon, shell: Shell) -> None:
        await until(lambda: bool(shell.heard(s.Welcomed)))
        assignment = pb.Assignment(attempt_id="att_a", rank=1, boot_id="b", launch=b"unopened")
        for message in (
            pb.DaemonMessage(assign=pb.AssignBatch(epoch=2, assignments=[assignment])),
            pb.DaemonMessage(stop=pb.Stop(epoch=2, attempt_id="att_a", rank=1, cause="idle")),
            pb.DaemonMessage(ack=pb.Ack(usage_seq=5)),
            pb.DaemonMessage(forget=pb.ForgetBatch(members=[pb.Forget(attempt_id="att_a", rank=1)])),
            pb.DaemonMessage(log=pb.LogRequest(request_id=4, attempt_id="att_a", tail_bytes=9)),
            pb.DaemonMessage(),
            pb.DaemonMessage(meter_now=pb.MeterNow()),
        ):
            daemon.send(message)
        await until(lambda: bool(shell.heard(s.MeterAsked)))
        at = shell.events.index(shell.heard(s.Assigned)[0])
        assigned, stop, ack, forget, log, meter = shell.events[at:]
        assert isinstance(assigned, s.Assigned)
        assert assigned.assignments[0].launch == b"unopened"
        assert stop == s.StopAsked(epoch=2, attempt_id="att_a", rank=1, cause="idle")
        assert isinstance(ack, s.AckReceived)
        assert ack.seq == 5
        assert forget == s.ForgetReceived("att_a", 1)
        assert isinstance(log, s.LogAsked)
        assert log.range.tail_bytes == 9
        assert meter == s.MeterAsked()

    play(tmp_path, story)


def test_start_that_has_already_ended_is_told_by_its_end_alone(tmp_path: Path) -> None:
    async def story(daemon: FakeDaemon, shell: Shell) -> None:
        await until(lambda: bool(shell.heard(s.Welcomed)))
        for name in ("att_a", "att_b"):
            shell.link.send_started(s.SendStarted(attempt_id=name, rank=0, pid=1, boot_us=1))
        shell.link.send_exited(s.SendExited("att_a", 0, Exit(cause=EndCause.COMPLETED)))
        await daemon.until(lambda: bool(daemon.bodies("exited") and daemon.bodies("started")))
        assert [m.attempt_id for m in daemon.bodies("started")] == ["att_b"]

    play(tmp_path, story)


def test_ends_of_one_turn_go_in_one_message_and_each_is_told(tmp_path: Path) -> None:
    async def story(daemon: FakeDaemon, shell: Shell) -> None:
        await until(lambda: bool(shell.heard(s.Welcomed)))
        messages: list[str | None] = []
        take = daemon._take
        daemon._take = lambda m, out: (messages.append(m.WhichOneof("body")), take(m, out))  # type: ignore[method-assign]
        for gather in (False, True):
            for name in ("att_a", "att_b", "att_c"):
                end = Exit(cause=EndCause.COMPLETED, held_us=7)
                shell.link.send_exited(s.SendExited(name, 2, end, 5), gather=gather)
            await daemon.until(lambda count=3 + 3 * gather: len(daemon.bodies("exited")) == count)
        told = [(e.attempt_id, e.rank, e.held_us, e.fenced_epoch) for e in daemon.bodies("exited")]
        assert told == [(name, 2, 7, 5) for name in ("att_a", "att_b", "att_c")] * 2
        assert messages.count("exits") == 2

    play(tmp_path, story)


def test_ends_whose_share_went_on_are_told_once_there_are_as_many_as_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LINE_GATHER_S", 60.0)

    async def story(daemon: FakeDaemon, shell: Shell) -> None:
        await until(lambda: bool(shell.heard(s.Welcomed)))
        messages: list[tuple[str, ...]] = []
        take = daemon._take

        def see(message: pb.AgentMessage, out: object) -> None:
            if message.WhichOneof("body") == "exits":
                messages.append(tuple(end.attempt_id for end in message.exits.members))
            take(message, out)  # type: ignore[arg-type]

        daemon._take = see  # type: ignore[assignment, method-assign]
        tell = lambda name, left: shell.link.send_exited(  # noqa: E731
            s.SendExited(name, 0, Exit(cause=EndCause.COMPLETED), line=left)
        )
        for name, left in (("att_a", 4), ("att_b", 3), ("att_c", 3)):
            tell(name, left)
        await daemon.until(lambda: len(daemon.bodies("exited")) == 3)
        tell("att_d", 2)
        tell("att_e", 0)
        await daemon.until(lambda: len(daemon.bodies("exited")) == 5)
        assert messages == [("att_a", "att_b", "att_c"), ("att_d", "att_e")], "the last one's share is free"

    play(tmp_path, story)


def test_ends_of_a_line_are_told_after_a_while(tmp_path: Path) -> None:
    async def story(daemon: FakeDaemon, shell: Shell) -> None:
        await until(lambda: bool(shell.heard(s.Welcomed)))
        shell.link.send_exited(s.SendExited("att_a", 0, Exit(cause=EndCause.COMPLETED), line=9))
        await daemon.until(lambda: bool(daemon.bodies("exited")))

    play(tmp_path, story)


@pytest.mark.parametrize("how", ["due", "flushed"])
def test_a_start_is_told_after_the_ends_that_came_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(connection, "END_GATHER_S", 60.0)

    async def story(daemon: FakeDaemon, shell: Shell) -> None:
        await until(lambda: bool(shell.heard(s.Welcomed)))
        messages: list[str | None] = []
        take = daemon._take
        daemon._take = lambda m, out: (messages.append(m.WhichOneof("body")), take(m, out))  # type: ignore[method-assign]
        shell.link.send_exited(s.SendExited("att_a", 0, Exit(cause=EndCause.COMPLETED)), gather=True)
        shell.link.send_started(s.SendStarted(attempt_id="att_b", rank=0, pid=1, boot_us=1))
        if how == "flushed":
            shell.link.flush_starts()
        await daemon.until(lambda: bool(daemon.bodies("started")))
        assert [kind for kind in messages if kind in ("started", "exited")] == ["exited", "started"]

    play(tmp_path, story)


def test_ends_are_told_before_the_usage_that_no_longer_counts_them(tmp_path: Path) -> None:
    async def story(daemon: FakeDaemon, shell: Shell) -> None:
        await until(lambda: bool(shell.heard(s.Welcomed)))
        shell.link.send_exited(s.SendExited("att_a", 0, Exit(cause=EndCause.FAILED)), gather=True)
        shell.link.flush_ends()
        shell.link.send(wire.usage(s.Usage(1, "b", 2)))
        await daemon.until(lambda: bool(daemon.bodies("usage")))
        kinds = [m.WhichOneof("body") for m in daemon.received]
        assert kinds.index("exited") < kinds.index("usage")

    play(tmp_path, story)


def test_telemetry_is_dropped_rather_than_queued(tmp_path: Path) -> None:
    async def story(daemon: FakeDaemon, shell: Shell) -> None:
        await until(lambda: bool(shell.heard(s.Welcomed)))
        message = wire.telemetry_message(wire.telemetry("c", "n", ()))
        for _ in range(connection.TELEMETRY_QUEUE_MAX + 50):
            shell.link.send_telemetry(message)
        assert shell.link.telemetry_dropped == 49

    play(tmp_path, story)


def test_queue_that_nobody_reads_drops_the_connection_and_starts_afresh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "QUEUE_MAX", 10)

    async def story(daemon: FakeDaemon, shell: Shell) -> None:
        await until(lambda: bool(shell.heard(s.Welcomed)))
        for _ in range(20):
            shell.link.send(wire.heartbeat(1, 0))
        await until(lambda: len(shell.heard(s.Welcomed)) == 2)

    play(tmp_path, story)


def test_refusal_ends_the_link_with_the_daemons_words(tmp_path: Path) -> None:
    async def main() -> None:
        daemon = FakeDaemon(tmp_path)
        daemon.refuse = ("duplicate-name", "node n1 is connected already")
        await daemon.start()
        try:
            with pytest.raises(RefusedByDaemon, match="node n1 is connected already") as caught:
                await Shell(daemon).link.run()
            assert caught.value.exit_code == 2
        finally:
            await daemon.kill()

    asyncio.run(main())


def test_silent_daemon_is_left_after_the_welcome_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "WELCOME_TIMEOUT_S", 0.05)

    async def story(daemon: FakeDaemon, shell: Shell) -> None:
        await until(lambda: len(shell.heard(s.Disconnected)) >= 2)

    monkeypatch.setattr(FakeDaemon, "_take", lambda *_: None)
    play(tmp_path, story)


def test_missing_and_babbling_auth_sockets_only_mean_try_again(tmp_path: Path) -> None:
    """
    1. There is no daemon, then one whose auth.sock says nothing of use.
    2. The link keeps trying; when a real one comes, it is welcomed.
    """

    async def main() -> None:
        daemon = FakeDaemon(tmp_path)
        shell = Shell(daemon)
        running = asyncio.create_task(shell.link.run())
        await until(lambda: len(shell.heard(s.Disconnected)) >= 2)

        async def babble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"hello?\n")
            writer.close()

        babbler = await asyncio.start_unix_server(babble, str(tmp_path / "auth.sock"))
        count = len(shell.heard(s.Disconnected))
        await until(lambda: len(shell.heard(s.Disconnected)) >= count + 2)
        babbler.close()
        await babbler.wait_closed()
        (tmp_path / "auth.sock").unlink(missing_ok=True)
        await daemon.start()
        await until(lambda: bool(shell.heard(s.Welcomed)))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await daemon.kill()

    asyncio.run(main())


def test_token_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret-token")
    token.chmod(0o644)
    with pytest.raises(InvalidRequest, match="chmod 600") as caught:
        Door("grpcs://host:1", token).check()
    assert "secret-token" not in caught.value.message
    token.chmod(0o600)
    Door("grpcs://host:1", token).check()


def test_socket_path_too_long_for_the_kernel_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="longer than"):
        Door("unix:///" + "x" * 120).check()
