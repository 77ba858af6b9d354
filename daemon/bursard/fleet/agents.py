"""Agents as a backend: one connected stream per node, without the wire's own types.

Owns    the connected agents by node, who may connect as which node, and who has gone quiet.
Why     the first implementation of `Backend`: `bursard.services.agents` turns the wire into these words and
        back, and whatever an agent says reaches the books through `Fleet` alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Coroutine, Sequence
from typing import Any

import msgspec

from bursar.errors import Forbidden, InvalidRequest, StoreUnavailable
from bursar.logend import of_another
from bursard.engine import Engine
from bursard.events import AttemptEnded, Event, NodeEnrolled, NodeRemoved, NodeTokenRevoked
from bursard.fleet import believe, door
from bursard.fleet.attachments import Attachments
from bursard.fleet.fleet import Fleet
from bursard.fleet.hellos import Hellos
from bursard.fleet.link import (
    HEAVY_BURST,
    HEAVY_PER_S,
    HEAVY_WORDS,
    AgentLink,
    Allowance,
    LogGrew,
    MeterNow,
    UsageAck,
)
from bursard.fleet.words import (
    Assign,
    Condition,
    Exited,
    Forget,
    Heartbeat,
    Hello,
    Limit,
    LimitTaken,
    LogAnswer,
    LogRange,
    MemberTruth,
    Notice,
    Probe,
    Readiness,
    Started,
    StepFrame,
    Stop,
    Usage,
)
from bursard.state import NodeRecord

log = logging.getLogger(__name__)

NO_END_US = 2**62
FENCED_MAX = 3
"""An order is given again so often; an agent that still refuses is not obeying anybody."""

FENCED_STEP_MAX = 65_536
"""How far above ours an epoch may be for the word of a live agent alone; a hello's is its durable memory."""

TRUTHS_A_TURN = 128
"""Of a hello, before others have their turn of the loop: one costs up to 0.1 ms."""

Report = Started | Exited | LimitTaken | Usage | Heartbeat | Condition | Notice | Readiness


class LogBehind(StoreUnavailable):
    """An agent was told of events that the log does not have: acknowledged facts are lost (P2)."""


class Agents:
    """The agents' hub: links by node id."""

    def __init__(self, engine: Engine, fleet: Fleet) -> None:
        self.engine = engine
        self.fleet = fleet
        self.links: dict[str, AgentLink] = {}
        self.attachments = Attachments(self.links.get)
        self._truths: dict[str, tuple[MemberTruth, ...]] = {}
        self._coming: Counter[str] = Counter()
        """Streams by node that were admitted and have neither joined nor left."""
        self._raising = asyncio.Lock()
        self._hellos = Hellos()
        self._heavy = Allowance(HEAVY_BURST, HEAVY_PER_S)
        engine.listeners.append(self._on_event)

    def _on_event(self, seq: int, event: Event, at: int, actor: str) -> None:
        """Cut the streams that were admitted with a secret that is void now, and those into what ended."""
        if isinstance(event, AttemptEnded):
            self.attachments.ended(event.attempt_id, f"the job's attempt has ended ({event.cause})")
        if isinstance(event, NodeTokenRevoked | NodeEnrolled | NodeRemoved):
            for link in [one for one in self.links.values() if self._token_left_us(one) <= 0]:
                log.warning("a stream is cut: its token is void", extra={"node": link.name})
                link.close()

    def _token_left_us(self, link: AgentLink) -> int:
        """How long the secret of a stream is still good; what the unix socket vouched for has no end."""
        if not link.token_sha256:
            return NO_END_US
        token = self.engine.state.node_tokens.get(link.token_sha256)
        if token is None or not token.instance:
            return 0
        return token.valid_until - self.engine.now() if token.valid_until else NO_END_US

    # --- connections

    async def admit(self, hello: Hello, *, bound_to: str = "", token_sha256: str = "") -> NodeRecord:
        """May this agent be this node? Then the node is registered, and waits for `join`.

        From here on the daemon speaks for an epoch that this agent obeys.

        Args:
            bound_to: the node name its token is for; empty when the caller may be any node.

        Raises:
            Forbidden: the token or the name belongs to another agent. InvalidRequest: a malformed field.
            LogBehind: the agent remembers more of the daemon's log than there is. RateLimited: too many.
        """
        door.hello_itself(hello)
        name = hello.facts.name
        if bound_to and bound_to != name:
            raise Forbidden(f"this token is for node {bound_to}, not {name}")
        self._own_stream(hello)
        refused = self._hellos.take(name, self.engine.clock.boot_us())
        for start in range(0, len(hello.truths), TRUTHS_A_TURN):
            if start:
                await asyncio.sleep(0)
            door.hello_truths(hello, hello.truths[start : start + TRUTHS_A_TURN])
        if parked := self.parks(hello):
            log.error(parked, extra={"node": name})
            hello = msgspec.structs.replace(hello, truths=(), epoch=0, trouble=parked)
        else:
            await self._agree(hello)
        live = self._own_stream(hello)  # again: others may have come or gone meanwhile
        node = self.fleet.hello(hello, enrol=self._enrol(token_sha256, hello), refused=refused, checked=True)
        if live is not None:
            live.close()
        self._coming[node.id] += 1
        return node

    def _own_stream(self, hello: Hello) -> AgentLink | None:
        """The stream that this agent left behind, if any. Raises `Forbidden` when it is another agent's."""
        name = hello.facts.name
        known = self.engine.state.node_by_name(name)
        live = self.links.get(known.id) if known is not None else None
        same = live is not None and bool(hello.instance) and live.instance == hello.instance
        if live is not None and (live.boot_id != hello.boot_id or not same):
            raise Forbidden(f"a node named {name} is connected already; give this one another --name")
        return live

    def parks(self, hello: Hello) -> str:
        """Why nothing that this node holds is taken, ended or forgotten here; empty: it is ours to serve.

        What it holds is of another cluster, whose books are not here: an empty state directory in the place
        of the true one must cost nobody a job.
        """
        theirs, ours = hello.log_cluster_id, self.engine.state.cluster_id
        return of_another(theirs, ours) if theirs and theirs != ours and hello.truths else ""

    async def _agree(self, hello: Hello) -> None:
        """One log and one epoch, before anything is told."""
        ours = hello.log_cluster_id == self.engine.state.cluster_id
        if ours and not await self.engine.same_history(hello.log_seq, hello.log_hash, hello.epoch):
            problem = LogBehind(
                f"node {hello.facts.name} was told of event {hello.log_seq}, which this log lacks: it is an"
                " older one. Stop the daemon and put the newest state directory back, or give up what is"
                " lacking with `bursar audit accept-loss`"
            )
            log.critical(problem.message, extra={"node": hello.facts.name})
            raise problem
        if hello.log_cluster_id and not ours:
            log.warning(
                "an idle agent comes from another cluster, whose books are not here. If they were lost, stop"
                " the daemon and restore a backup",
                extra={"node": hello.facts.name, "cluster": hello.log_cluster_id, "seq": hello.log_seq},
            )
        await self.raise_epoch(hello.epoch)

    async def raise_epoch(self, obeyed: int, step_max: int = believe.EPOCH_STEP_MAX) -> None:
        """Speak for an epoch above one that was obeyed elsewhere, durably, unless ours is already as high.

        One that is out of all reach is not followed: its agent refuses our orders, and is the one that lies.
        """
        async with self._raising:
            current = self.engine.log.epoch
            if current < obeyed <= min(current + step_max, door.EPOCH_MAX - believe.EPOCH_STEP_MAX):
                log.warning("an agent obeyed a later epoch", extra={"epoch": current, "obeyed": obeyed})
                await asyncio.to_thread(self.engine.log.raise_epoch, obeyed + 1)

    def _enrol(self, token_sha256: str, hello: Hello) -> list[Event]:
        """The first use of a secret binds it to this agent; nobody else may use it after that."""
        token = self.engine.state.node_tokens.get(token_sha256)
        if token is None:
            return []
        if not token.instance:
            return [NodeEnrolled(token.name, token.sha256, hello.instance)]
        if token.instance != hello.instance:
            raise Forbidden(
                f"this token was already used by another agent; `bursar node token {token.name}` makes"
                " a new one"
            )
        return []

    def join(self, link: AgentLink, truths: Sequence[MemberTruth]) -> None:
        """Its stream is ready: serve the node. One that was ready a moment before is closed."""
        older = self.links.get(link.node_id)
        if older is not None:
            older.close()
        self._came(link)
        self.links[link.node_id] = link
        self._truths[link.node_id] = () if link.parked else tuple(truths)
        link.last_seen_at = self.engine.now()
        self.fleet.join(self.engine.state.nodes[link.node_id], self)

    def cut(self, node_id: str) -> bool:
        """End the stream of a node whose machine is gone. False: it has none."""
        link = self.links.get(node_id)
        if link is not None:
            link.close()
        return link is not None

    def leave(self, link: AgentLink) -> bool:
        """Its stream is gone, joined or not. False when another serves the node or is about to."""
        link.close()
        if not link.joined:
            self._came(link)
        elif self.links.get(link.node_id) is link:
            del self.links[link.node_id]
            self._truths.pop(link.node_id, None)
        else:
            return False
        if link.node_id in self.links or self._coming[link.node_id] > 0:
            return False
        node = self.engine.state.nodes.get(link.node_id)
        return node is not None and self.fleet.leave(node, self)

    def _came(self, link: AgentLink) -> None:
        """It is no longer between its admission and its place among those that serve."""
        if not link.joined:
            link.joined = True
            self._coming[link.node_id] -= 1
            if self._coming[link.node_id] <= 0:
                del self._coming[link.node_id]

    async def watch(self, link: AgentLink) -> None:
        """Close the link when its agent hangs (it keeps its connection open, but its heart has stopped), or
        when its secret comes to its end.
        """
        limit_us = self.engine.state.limits.silent_after_us
        left_us = min(limit_us, self._token_left_us(link))
        while left_us > 0:
            await asyncio.sleep(left_us / 1_000_000)
            silent_us = min(link.last_seen_at + limit_us - self.engine.now(), limit_us)
            left_us = min(silent_us, self._token_left_us(link))
        link.close()

    # --- what they say

    def hello_wait_s(self, words: int) -> float:
        """How long a hello of such a weight waits for its part of what all nodes may say together."""
        return self._heavy.wait_s(self.engine.clock.boot_us(), words) if words >= HEAVY_WORDS else 0.0

    def wait_s(self, link: AgentLink, words: int, *, owed: bool = False) -> float:
        """How long a message of such a weight is left alone, so that no node, nor all of them together, say
        more than is read in a part of the loop. Who goes on for long gets no new work; what
        runs there goes on.

        Args:
            owed: ends and answers, which a node has to tell however many they are.
        """
        now_us = self.engine.clock.boot_us()
        own_s = link.wait_s(now_us, words)
        all_s = self._heavy.wait_s(now_us, words) if words >= HEAVY_WORDS and not owed else 0.0
        node = self.node_on(link)
        if owed or node is None:
            return own_s
        # Beside others that flood an honest node may wait too, but for no more than what it holds can weigh.
        waits_s = max(own_s, all_s) if words > HEAVY_WORDS + len(node.live) else own_s
        if waits_s and link.floods(now_us, waits_s):
            self.fleet.suspect(node, "it floods: it says more, and goes on to, than any node has to say")
        return max(own_s, all_s)

    def take(self, link: AgentLink, word: Report) -> None:
        """One report. Raises `InvalidRequest` for a malformed one: its stream cannot go on.

        What still comes over a stream that another has replaced is not heard: its agent says it again.
        """
        if self.links.get(link.node_id) is not link:
            return
        link.last_seen_at = self.engine.now()
        node = self.engine.state.nodes[link.node_id]
        if link.parked and not isinstance(word, Heartbeat):
            return  # of members of another cluster, or of the disk, which does not make it ours
        match word:
            case Started():
                self.fleet.started(node, word)
            case Exited() if word.fenced_epoch:
                door.exited(word)
                if node.live.get(word.attempt_id) == word.rank:
                    self._fenced(link, node, word)
            case Exited():
                self.fleet.exited(node, word)
            case LimitTaken():
                self.fleet.limit_taken(node, word)
            case Usage():
                self._usage(link, node, word)
            case Heartbeat():
                self._heartbeat(link, node, word)
            case Condition():
                self.fleet.condition(node, word)
            case Notice():
                self.fleet.notice(node, word)
            case Readiness():
                self.fleet.readiness(node, word)

    def answer_log(self, link: AgentLink, request_id: int, answer: LogAnswer) -> None:
        """What an agent answers to a question for a log. What was asked can be answered, so an answer that
        is none is its own doing.
        """
        node = self.node_on(link)
        if not link.answer_log(request_id, answer) and node is not None:
            self.fleet.misanswered(node)

    def carry(self, link: AgentLink, frame: StepFrame) -> None:
        """A piece of a step goes to the other member, if both are live members of one attempt.

        One for a node that is out of contact is dropped: its ends send it again. Raises `InvalidRequest`.
        """
        if self.links.get(link.node_id) is not link or link.parked:
            return
        door.step_frame(frame)
        lost = self.attachments.carry(frame, link.node_id)
        if lost is None:
            return
        state = self.engine.state
        attempt = state.attempts.get(frame.attempt_id)
        here = self.node_on(link)
        if here is None or here.live.get(frame.attempt_id) != frame.from_rank or attempt is None:
            why = "this attempt has ended here"
        elif lost:
            why = lost
        elif frame.to_rank >= len(attempt.members):
            why = f"the attempt has no rank {frame.to_rank}"
        else:
            node = state.nodes.get(attempt.members[frame.to_rank].alloc.node_id)
            if node is not None and node.live.get(frame.attempt_id) == frame.to_rank:
                other = self.links.get(node.id)
                if other is not None:
                    other.carry(frame)
                return
            why = f"rank {frame.to_rank} has ended"
        if frame.kind != "close":
            link.carry(_closed(frame, why))

    def node_on(self, link: AgentLink) -> NodeRecord | None:
        """The node of a link; None once it was removed."""
        return self.engine.state.nodes.get(link.node_id)

    def _heartbeat(self, link: AgentLink, node: NodeRecord, word: Heartbeat) -> None:
        door.heartbeat(word)
        if word.boot_us < link.heard_boot_us:
            raise InvalidRequest(
                f"heartbeat.boot_us: {word.boot_us}, after {link.heard_boot_us} on the same stream"
            )
        link.heard_boot_us = word.boot_us
        self.fleet.heartbeat(node, word.boot_us, word.wall_at)
        # Its node is a witness of all that was acknowledged, also of what has nothing to do with it.
        if (end := self.engine.log.head.seq) > link.log_seq and not link.parked:
            link.log_seq = end
            link.send(LogGrew())

    def _fenced(self, link: AgentLink, node: NodeRecord, word: Exited) -> None:
        """An order was not obeyed: give it again for a higher epoch. The job knows nothing of it."""
        key = (word.attempt_id, word.rank)
        link.fenced[key] += 1

        async def again() -> None:
            if node.mode != "quarantine":
                await self.raise_epoch(word.fenced_epoch, FENCED_STEP_MAX)
            if link.fenced[key] > FENCED_MAX:
                self.fleet.suspect(node, "it refuses every order for an attempt", word.attempt_id)
                self.fleet.exited(node, word)
            elif not link.closed:
                self.fleet.assign_again(node, word.attempt_id, word.rank)

        self._spawn(link, again(), "fenced")

    def _spawn(self, link: AgentLink, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        link.tasks.add(task)
        task.add_done_callback(link.tasks.discard)

    def _usage(self, link: AgentLink, node: NodeRecord, word: Usage) -> None:
        seq = self.fleet.usage(node, word)
        self._spawn(link, self._acknowledge(link, word.seq, seq), "usage-ack")

    async def _acknowledge(self, link: AgentLink, usage_seq: int, seq: int) -> None:
        await self.engine.durable(seq)
        head = self.engine.log.head
        link.send(UsageAck(usage_seq, head.seq, head.hash))
        link.metered.set()

    # --- Backend

    def assign(self, node_id: str, order: Assign) -> None:
        """Start a member."""
        self._send(node_id, order)

    def ahead(self, node_id: str) -> int:
        """How many members its agent holds that wait for another's share; 0: it is of an older release."""
        link = self.links.get(node_id)
        return link.ahead if link is not None else 0

    def stop(self, node_id: str, order: Stop) -> None:
        """End a member."""
        self._send(node_id, order)

    def takes_limits(self, node_id: str) -> bool:
        """Its agent is of a release that knows such orders."""
        link = self.links.get(node_id)
        return link is not None and link.takes_limits

    def limit(self, node_id: str, order: Limit) -> None:
        """Another time limit for a member."""
        self._send(node_id, order)

    def probe(self, node_id: str, order: Probe) -> None:
        """Look whether a replica is ready. An agent of an older release ignores it."""
        self._send(node_id, order)

    def forget(self, node_id: str, order: Forget) -> None:
        """An end is in the ledger."""
        self._send(node_id, order)

    def _send(self, node_id: str, order: Assign | Stop | Limit | Probe | Forget) -> None:
        link = self.links.get(node_id)
        if link is not None:
            link.send(order)

    def adopt(self, node_id: str) -> Sequence[MemberTruth]:
        """What the agent told when it connected."""
        return self._truths.pop(node_id, ())

    async def read_log(self, node_id: str, wanted: LogRange) -> LogAnswer:
        """Ask the agent for a piece of a log."""
        return await self.links[node_id].read_log(wanted)

    async def settle(self, whole: bool = False, timeout_s: float = 2.0) -> None:
        """Ask the connected agents that hold something, or all of them, for their usage now, and wait until
        it is in the ledger. Readers come here through `Refresh`.
        """
        nodes = self.engine.state.nodes
        links = [
            link
            for link in self.links.values()
            if not link.parked and (whole or (link.node_id in nodes and nodes[link.node_id].live))
        ]
        for link in links:
            link.metered.clear()
            link.send(MeterNow())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                for link in links:
                    await link.metered.wait()
        await self.engine.durable()


def _closed(frame: StepFrame, why: str) -> StepFrame:
    """The answer to a piece that cannot be carried."""
    return StepFrame(
        attempt_id=frame.attempt_id,
        from_rank=frame.to_rank,
        to_rank=frame.from_rank,
        channel=frame.channel,
        kind="close",
        data=why.encode(),
        to_client=not frame.to_client,
    )
