"""Whose turn it is: each caller's calls cost the loop and the threads, and who has had least goes on first.

Owns    the shares of callers (`Shares`: fair queueing by virtual time, pure), the turns of their calls on the
        event loop (`Turns`), and the threads that work for them (`Threads`).
Why     rooms bound how many calls an identity has; they do not say whose turn it is. One loop serves all,
        first come first served: a hundred calls of one caller, each a few milliseconds, come before
        everybody's next.
How     a call is driven piece by piece, each being what it does between two waits. Pieces go on at once while
        nobody is behind. Once they have taken `QUANTUM_NS` the loop has its turn, and of those that wait the
        first is the one whose kind, then whose caller, then which itself has had least (start-time fair
        queueing, one level in the other). Nothing is held while a call waits for something else, so none can
        wait for each other, and who is cancelled leaves nothing behind. What is long breathes (`breathe`).
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import time
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Hashable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, Final, TypeVar

Answer = TypeVar("Answer")
Key = tuple[str, Hashable]
"""A caller: of which kind, and which."""
Meter = Callable[[], int]
"""Nanoseconds, of which differences count."""

QUANTUM_NS: Final = 2_000_000
"""So much of callers' pieces, then what is not theirs has its turn: the cycle, commits, agents, new calls."""
LOOKS: Final = 3
"""Turns of the loop in which no call has come before the next piece goes on. gRPC takes in one call in two
turns of the loop. With a piece in each of them, who comes would wait outside behind those who came before.
"""
COMING_NS: Final = 2 * QUANTUM_NS
"""But so much time at most, however many come."""
AHEAD: Final = 2
"""So many quanta at most while others wait, with the pieces that go on since theirs is the next turn."""
UNKNOWN_NS: Final = 200_000
"""What a piece counts for that has not run yet, of a call of which none has."""
_UNIT: Final = 1_000
"""Virtual time goes in parts of a nanosecond, so that weights cost no rounding."""


class Share:
    """What a kind, a caller or a call has had, beside the others of its parent.

    Attributes:
        weight: how much of the turns it has while all others want some too, in comparison.
        tag: its virtual time. clock: where those below it are.
        queued: how many turns are waited for, by it and below it.
        last_ns: what its last piece cost.
    """

    __slots__ = ("clock", "entry", "heap", "last_ns", "parent", "queued", "tag", "waiting", "weight")

    def __init__(self, parent: Share | None, weight: int = 1) -> None:
        self.parent = parent
        self.weight = weight
        self.clock: int = 0
        self.tag: int = parent.clock if parent is not None else 0
        self.queued = 0
        self.last_ns = UNKNOWN_NS
        self.heap: list[tuple[int, int, Share]] = []
        self.entry: tuple[int, int, Share] | None = None
        self.waiting: deque[Any] = deque()
        """Of a call: who waits for its turn, in their order."""


class Shares:
    """Fair queueing over a tree: kinds, the callers of each, their calls. Pure: neither time nor loop."""

    def __init__(self) -> None:
        self.root = Share(None)
        self._order = itertools.count()

    def enter(self, call: Share, who: Any) -> None:
        """`who` waits for a turn of this call."""
        call.waiting.append(who)
        share, parent = call, call.parent
        while parent is not None:
            if not share.queued:
                # Who comes back is owed nothing for having been away, and owes what is left by then.
                share.tag = max(share.tag, parent.clock)
                self._push(share, parent)
            share.queued += 1
            share, parent = parent, parent.parent
        share.queued += 1

    def leave(self, call: Share, who: Any) -> None:
        """`who` waits no more."""
        call.waiting.remove(who)
        self._unqueue(call)

    def pop(self) -> tuple[Share, Any]:
        """The next. There is one."""
        share = self.root
        while share.heap:
            entry = share.heap[0]
            child = entry[2]
            if child.entry is not entry:
                heapq.heappop(share.heap)
                continue
            share.clock = max(share.clock, child.tag)
            share = child
        who = share.waiting.popleft()
        self._unqueue(share)
        return share, who

    def begin(self, call: Share) -> None:
        """A piece of this call goes on without having waited: nobody does."""
        share, parent = call, call.parent
        while parent is not None:
            if share.tag < parent.clock:
                share.tag = parent.clock
            else:
                parent.clock = share.tag
            share, parent = parent, parent.parent

    def first(self, call: Share) -> bool:
        """Would a turn of this call, asked for now, be the next one: at each level before all that wait?"""
        share, parent = call, call.parent
        while parent is not None:
            heap = parent.heap
            while heap and heap[0][2].entry is not heap[0]:
                heapq.heappop(heap)
            if heap and heap[0][2] is not share and max(share.tag, parent.clock) >= heap[0][0]:
                return False
            share, parent = parent, parent.parent
        return not call.waiting

    def charge(self, call: Share, cost_ns: int) -> None:
        """It has had so much. Negative: less than was counted."""
        share, parent = call, call.parent
        while parent is not None:
            share.tag += cost_ns * _UNIT // share.weight
            if share.entry is not None:
                self._push(share, parent)
            share, parent = parent, parent.parent

    def _push(self, share: Share, parent: Share) -> None:
        share.entry = (share.tag, next(self._order), share)
        heapq.heappush(parent.heap, share.entry)

    def _unqueue(self, call: Share) -> None:
        share: Share | None = call
        while share is not None:
            share.queued -= 1
            if not share.queued:
                share.entry = None
                share.heap.clear()  # nobody below waits either
            share = share.parent


class Callers:
    """The shares of kinds and of their callers, kept as long as they say anything.

    Args:
        weights: by kind.
    """

    def __init__(self, shares: Shares, weights: dict[str, int]) -> None:
        self._kinds = {kind: Share(shares.root, weight) for kind, weight in weights.items()}
        self._callers: dict[tuple[str, Hashable], Share] = {}
        self._prune_at = CALLERS_KEPT

    def call_of(self, kind: str, name: Hashable) -> Share:
        """The share of a new call of this caller."""
        caller = self._callers.get((kind, name))
        if caller is None:
            self._prune()
            caller = self._callers[kind, name] = Share(self._kinds[kind])
        return Share(caller)

    def _prune(self) -> None:
        """Forget those who wait for nothing and have had no more than the others: they come back as new."""
        if len(self._callers) < self._prune_at:
            return
        self._callers = {
            key: one
            for key, one in self._callers.items()
            if one.queued or one.parent is None or one.tag > one.parent.clock
        }
        self._prune_at = max(CALLERS_KEPT, 2 * len(self._callers))


CALLERS_KEPT: Final = 1_000
SYSTEM, STAFF, USER, STRANGER = "system", "staff", "user", "stranger"
WEIGHTS: Final = {SYSTEM: 16, STAFF: 8, USER: 4, STRANGER: 1}
"""Kinds of callers. Of the daemon's own work only threads are shared out: on the loop it waits for nobody."""


class Turns:
    """The turns of calls on one event loop, all methods of which belong to it.

    Args:
        meter: what a piece costs is its difference.
    """

    def __init__(self, meter: Meter = time.perf_counter_ns, quantum_ns: int = QUANTUM_NS) -> None:
        self.meter = meter
        self.quantum_ns = quantum_ns
        self.began_ns = 0
        """When the piece that goes on now began."""
        self.shares = Shares()
        self.callers = Callers(self.shares, WEIGHTS)
        self._burst_ns = 0
        self._armed = False
        self._arrived = False
        self._looks = 0
        self._armed_ns = 0

    def arrived(self) -> None:
        """A call has come in; whose it is is not known yet."""
        self._arrived = True

    def call_of(self, kind: str, name: Hashable) -> Call:
        """A new call of this caller."""
        return Call(self, self.callers.call_of(kind, name), kind, name)

    async def drive(self, call: Call, work: Coroutine[Any, Any, Answer], *, waits: bool = True) -> Answer:
        """Do the work of a call, each piece in its turn; what it awaits it awaits as ever.

        Args:
            waits: False: at once, and charged all the same.
        """
        _current.set(call)
        return await _driven(self, call.share, work, waits)

    def must_wait(self, share: Share) -> bool:
        """Has a piece of this call to wait for its turn? Not if it would be given the very next one, and so
        for little more than a quantum: whoever has had least answers before the next look at the door.
        """
        if not self.shares.root.queued:
            return self._burst_ns >= self.quantum_ns
        return self._burst_ns >= AHEAD * self.quantum_ns or not self.shares.first(share)

    def ran(self, share: Share, cost_ns: int, counted_ns: int) -> None:
        """A piece of this call has taken so long; so much was counted for it before."""
        share.last_ns = cost_ns
        self.shares.charge(share, cost_ns - counted_ns)
        self._burst_ns += cost_ns
        if counted_ns:
            self._armed_ns += cost_ns  # it was let go on: not of those that come in
        if self._burst_ns >= self.quantum_ns:
            self._arm()

    def wait(self, share: Share) -> Generator[Any, None, int]:
        """Until it is this call's turn; what was counted for its piece."""
        turn: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.shares.enter(share, turn)
        self._arm()
        try:
            return (yield from turn)
        except BaseException:
            if turn in share.waiting:
                self.shares.leave(share, turn)
            raise

    def _arm(self) -> None:
        if not self._armed:
            # A call that is thrown away after its loop has ended takes no turns.
            with contextlib.suppress(RuntimeError):
                asyncio.get_running_loop().call_soon(self._look)
                self._armed, self._armed_ns = True, self.meter()

    def _look(self) -> None:
        """Once in each turn of the loop, while somebody waits: first those come in who are at the door."""
        self._looks = 0 if self._arrived else self._looks + 1
        self._arrived = False
        if self._looks < LOOKS and self.meter() - self._armed_ns < COMING_NS:
            asyncio.get_running_loop().call_soon(self._look)
        else:
            self._give()

    def _give(self) -> None:
        """The next turns: as many as are thought to fit, one at least."""
        self._armed, self._burst_ns, self._looks = False, 0, 0
        shares, given_ns = self.shares, 0
        while shares.root.queued and given_ns < self.quantum_ns:
            share, turn = shares.pop()
            if turn.done():
                continue  # cancelled, and about to say so itself
            counted_ns = share.last_ns
            shares.charge(share, counted_ns)
            given_ns += counted_ns
            turn.set_result(counted_ns)
        if shares.root.queued:
            self._arm()


class Call:
    """One call that is driven: its share on the loop, and whose it is."""

    __slots__ = ("kind", "name", "share", "turns")

    def __init__(self, turns: Turns, share: Share, kind: str, name: Hashable) -> None:
        self.turns = turns
        self.share = share
        self.kind = kind
        self.name = name


_current: ContextVar[Call | None] = ContextVar("call", default=None)


@types.coroutine
def _driven(
    turns: Turns, share: Share, work: Coroutine[Any, Any, Answer], waits: bool
) -> Generator[Any, Any, Answer]:
    shares, meter = turns.shares, turns.meter
    error: BaseException | None = None
    begun = False
    while True:
        counted_ns = 0
        # The first piece waits for nothing: it begins to listen, so that who ends the work is heard by it.
        if begun and waits and not isinstance(error, asyncio.CancelledError) and turns.must_wait(share):
            try:
                counted_ns = yield from turns.wait(share)
            except BaseException as raised:
                error = raised
        else:
            shares.begin(share)
        begun = True
        began_ns = turns.began_ns = meter()
        try:
            # What is awaited by the work is handed on to the task, and what that says of it back.
            found = work.send(None) if error is None else work.throw(error)
        except StopIteration as end:
            answer: Answer = end.value
            return answer
        finally:
            error = None  # or it would hold this frame, and this frame it
            turns.ran(share, meter() - began_ns, counted_ns)
        try:
            yield found
        except BaseException as raised:
            error = raised


async def in_turn(work: Coroutine[Any, Any, Answer]) -> Answer:
    """A part of the present call in a task of its own: as if it were in the call's."""
    call = _current.get()
    if call is None:
        return await work
    return await _driven(call.turns, call.share, work, True)


async def for_all(work: Coroutine[Any, Any, Answer]) -> Answer:
    """Work in a task of its own that others wait for too: on nobody's account."""
    _current.set(None)
    return await work


async def breathe() -> None:
    """Between two parts of something long: others have their turn, if this piece has had its time."""
    call = _current.get()
    if call is None or call.turns.meter() - call.turns.began_ns >= call.turns.quantum_ns:
        await asyncio.sleep(0)


class Threads:
    """Some threads, and whose work they do next: who has had least of them, and nobody all of them.

    One interpreter runs one thread at a time, and the loop waits behind each that is busy: more of them for
    one caller make nothing faster. Belongs to one event loop.

    Args:
        each: how many of them one caller has at most.
    """

    def __init__(self, threads: int, each: int, name: str, meter: Meter = time.thread_time_ns) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._meter = meter
        self._free = threads
        self._each = each
        self._claims: dict[Key, int] = {}
        """How many threads each caller has, or is in line for."""
        self._behind: dict[Key, deque[tuple[Share, asyncio.Future[None]]]] = {}
        """What waits for another claim of the same caller to end."""
        self._shares = Shares()
        self._callers = Callers(self._shares, WEIGHTS)

    async def run(self, work: Callable[[], Answer], pool: Executor | None = None) -> Answer:
        """What the work answers, done in a thread on account of the present call.

        Args:
            pool: of a thread of its own; it is counted as one of these.
        """
        call, loop = _current.get(), asyncio.get_running_loop()
        key = (call.kind, call.name) if call is not None else (SYSTEM, "")
        share, cost = self._callers.call_of(*key), list[int]()
        await self._place(share, key)

        def metered() -> Answer:
            began_ns = self._meter()
            try:
                return work()
            finally:
                cost.append(self._meter() - began_ns)

        def ended(_: object) -> None:
            # Whoever asked may have left: the thread is free when it has ended, no sooner. Of a loop that is
            # closed nobody waits.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._ended, share, key, cost)

        try:
            done = (pool or self._pool).submit(metered)
        except BaseException:
            self._ended(share, key, cost)
            raise
        done.add_done_callback(ended)
        return await asyncio.wrap_future(done)

    def close(self) -> None:
        """No more work. What goes on ends by itself."""
        self._pool.shutdown(wait=False)

    async def _place(self, share: Share, key: Key) -> None:
        """Until a thread is this call's."""
        mine = self._claims.get(key, 0)
        if mine < self._each or key[0] == SYSTEM:
            self._claims[key] = mine + 1
            if self._free:  # then nobody is in line
                self._shares.begin(share)
                self._free -= 1
                return
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._shares.enter(share, turn)
        else:
            turn = asyncio.get_running_loop().create_future()
            self._behind.setdefault(key, deque()).append((share, turn))
        try:
            await turn
        except BaseException:
            self._left(share, key, turn)
            raise

    def _left(self, share: Share, key: Key, turn: asyncio.Future[None]) -> None:
        """Who waited was cancelled, wherever in line it was."""
        if turn in share.waiting:
            self._shares.leave(share, turn)
            self._unclaim(key)
        elif (share, turn) in (line := self._behind.get(key, ())):
            line.remove((share, turn))  # type: ignore[union-attr]
        else:
            self._ended(share, key, [])  # it was given a thread already

    def _ended(self, share: Share, key: Key, cost: list[int]) -> None:
        self._shares.charge(share, sum(cost))
        self._free += 1
        self._unclaim(key)
        while self._free and self._shares.root.queued:
            _, turn = self._shares.pop()
            self._free -= 1
            # Who is cancelled by now has not heard of it yet, and gives the thread back when it does.
            if not turn.done():
                turn.set_result(None)

    def _unclaim(self, key: Key) -> None:
        line = self._behind.get(key)
        if line:
            share, turn = line.popleft()
            self._shares.enter(share, turn)
        elif self._claims[key] > 1:
            self._claims[key] -= 1
        else:
            del self._claims[key]
        if line is not None and not line:
            del self._behind[key]
