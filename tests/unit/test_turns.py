"""Turns: beside any number of greedy callers a modest one waits for a piece of each, and no place is lost."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursard.turns import (
    CALLERS_KEPT,
    COMING_NS,
    QUANTUM_NS,
    STAFF,
    SYSTEM,
    UNKNOWN_NS,
    USER,
    WEIGHTS,
    Callers,
    Share,
    Shares,
    Threads,
    Turns,
    breathe,
    for_all,
    in_turn,
)

MS = 1_000_000


class Meter:
    """Time goes only where a test says so."""

    def __init__(self) -> None:
        self.ns = 0

    def __call__(self) -> int:
        return self.ns


# ------------------------------------------------------------------ the queue, pure


def flows(shares: Shares, *weights: int) -> list[Share]:
    return [Share(Share(shares.root, weight)) for weight in weights]


@settings(max_examples=100)
@given(
    st.lists(st.lists(st.integers(1, 1_000), min_size=40, max_size=40), min_size=1, max_size=6),
    st.lists(st.integers(0, 30), min_size=1, max_size=4),
)
def test_a_modest_caller_waits_for_one_piece_of_each_greedy_one_at_most(
    costs: list[list[int]], after: list[int]
) -> None:
    shares = Shares()
    *greedy, modest = flows(shares, *[1] * (len(costs) + 1))
    left = {id(one): list(each) for one, each in zip(greedy, costs, strict=True)}
    for one in greedy:
        shares.enter(one, "greedy")

    def serve() -> str:
        share, who = shares.pop()
        if who == "greedy":
            shares.charge(share, (left[id(share)] or [7]).pop())
            shares.enter(share, "greedy")  # it always wants more
        else:
            shares.charge(share, 1)
        return str(who)

    for pieces in after:
        for _ in range(pieces):
            assert serve() == "greedy"
        shares.enter(modest, "modest")
        before = 0
        while serve() == "greedy":
            before += 1
        assert before <= len(greedy)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 8), st.integers(1, 500)), min_size=2, max_size=5))
def test_who_always_wants_more_has_by_weight_to_within_a_piece(wants: list[tuple[int, int]]) -> None:
    shares, had = Shares(), Counter[int]()
    calls = flows(shares, *(weight for weight, _ in wants))
    for number, call in enumerate(calls):
        shares.enter(call, number)
    for _ in range(2_000):
        share, number = shares.pop()
        shares.charge(share, wants[number][1])
        had[number] += wants[number][1]
        shares.enter(share, number)
    each = [had[number] / weight for number, (weight, _) in enumerate(wants)]
    assert max(each) - min(each) <= 2 * max(cost / weight for weight, cost in wants)


def test_of_one_caller_a_short_call_comes_before_what_its_long_ones_have_left() -> None:
    shares = Shares()
    caller = Share(Share(shares.root))
    long, short = Share(caller), Share(caller)
    shares.enter(long, "long")
    for _ in range(5):
        share, _ = shares.pop()
        shares.charge(share, 100)
        shares.enter(share, "long")
    shares.enter(short, "short")
    assert shares.pop()[1] == "short"


def test_who_comes_late_has_no_more_than_those_who_were_served_before() -> None:
    shares, had = Shares(), Counter[str]()
    before, late = flows(shares, 1, 1)
    for turn in range(300):
        if turn == 0:
            shares.enter(before, "before")
        if turn == 200:
            shares.enter(late, "late")
            had.clear()
        share, who = shares.pop()
        shares.charge(share, 10)
        had[who] += 1
        shares.enter(share, who)
    assert had == {"before": 50, "late": 50}


def test_a_caller_with_many_calls_has_no_more_than_one_with_a_single_one() -> None:
    shares, had = Shares(), Counter[str]()
    kind = Share(shares.root)
    many, single = Share(kind), Share(kind)
    for call, who in [*((Share(many), "many") for _ in range(50)), (Share(single), "single")]:
        shares.enter(call, who)
    for _ in range(400):
        share, who = shares.pop()
        shares.charge(share, 10)
        had[who] += 1
        shares.enter(share, who)
    assert abs(had["many"] - had["single"]) <= 2


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["enter", "leave", "pop"])), max_size=60))
def test_whoever_enters_is_popped_or_leaves_once_and_nothing_is_left_behind(
    pieces: list[tuple[int, str]],
) -> None:
    shares = Shares()
    kinds = [Share(shares.root), Share(shares.root, 3)]
    calls = [Share(Share(kinds[number % 2])) for number in range(6)]
    inside: list[tuple[Share, int]] = []
    for number, (index, piece) in enumerate(pieces):
        if piece == "enter":
            shares.enter(calls[index], number)
            inside.append((calls[index], number))
        elif piece == "leave" and inside:
            one = inside.pop(index % len(inside))
            shares.leave(*one)
        elif piece == "pop" and inside:
            found = shares.pop()
            shares.charge(found[0], index * 10 - 5)
            inside.remove(found)
        assert shares.root.queued == len(inside)
    while inside:
        inside.remove(shares.pop())
    assert not shares.root.queued
    assert not any(share.entry or share.queued or share.waiting for share in [*kinds, *calls])


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 50), st.booleans()), max_size=40), st.integers(0, 5)
)
def test_who_is_first_is_whoever_would_be_given_the_next_turn(
    history: list[tuple[int, int, bool]], asked: int
) -> None:
    shares = Shares()
    kinds = [Share(shares.root), Share(shares.root, 3)]
    callers = [Share(kinds[number % 2]) for number in range(3)]
    calls = [Share(callers[number % 3]) for number in range(6)]
    for number, (index, cost, goes) in enumerate(history):
        shares.enter(calls[index], number)
        if goes:
            shares.charge(shares.pop()[0], cost)
    call = calls[asked]
    if shares.first(call):
        shares.enter(call, "this one")
        assert shares.pop()[1] == "this one"


def test_callers_that_wait_for_nothing_are_forgotten_and_what_one_has_had_is_not() -> None:
    shares = Shares()
    callers = Callers(shares, {USER: 1})
    busy = callers.call_of(USER, "busy")
    shares.charge(busy, 1_000)
    for number in range(CALLERS_KEPT + 10):
        callers.call_of(USER, number)
    assert len(callers._callers) < CALLERS_KEPT
    assert callers.call_of(USER, "busy").parent is busy.parent


# ------------------------------------------------------------------ turns on a loop


class Stage:
    """Callers on one loop: who went on when, and what each piece cost."""

    def __init__(self) -> None:
        self.meter = Meter()
        self.turns = Turns(self.meter)
        self.log: list[str] = []

    def piece(self, who: str, ms: float) -> None:
        """What one does between two waits."""
        self.meter.ns += int(ms * MS)
        self.log.append(who)

    def start(self, who: str, work: Coroutine[Any, Any, Any], kind: str = USER) -> asyncio.Task[Any]:
        return asyncio.create_task(self.turns.drive(self.turns.call_of(kind, who), work))

    async def greedy(self, who: str, ms: float = 5) -> None:
        while True:
            self.piece(who, ms)
            await breathe()

    async def hops(self, who: str, count: int, ms: float = 0.1) -> None:
        for _ in range(count):
            await asyncio.sleep(0)
            self.piece(who, ms)


def play(story: Callable[[Stage], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        stage = Stage()
        before = asyncio.all_tasks()
        await story(stage)
        rest = asyncio.all_tasks() - before
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        assert not stage.turns.shares.root.queued

    asyncio.run(main())


@pytest.mark.parametrize("calls_each", [1, 40])
@pytest.mark.parametrize("callers", [1, 3, 9])
def test_beside_greedy_callers_each_piece_of_a_modest_one_waits_for_few_pieces(
    callers: int, calls_each: int
) -> None:
    async def story(stage: Stage) -> None:
        for caller in range(callers):
            for _ in range(calls_each):
                stage.start(f"g{caller}", stage.greedy(f"g{caller}"))
        for _ in range(500):
            await asyncio.sleep(0)
        stage.log.clear()
        await stage.start("modest", stage.hops("modest", 5))
        at = [index for index, who in enumerate(stage.log) if who == "modest"]
        between = [later - sooner - 1 for sooner, later in zip([-1, *at], at, strict=False)]
        # One that goes on as it comes, one that was let go on before, and what the order of equals brings.
        assert max(between) <= callers + 1, between

    play(story)


def test_nobody_starves_and_each_caller_has_the_same_whatever_its_calls() -> None:
    async def story(stage: Stage) -> None:
        for who, calls, ms in (("a", 30, 5), ("b", 1, 5), ("c", 4, 20)):
            for _ in range(calls):
                stage.start(who, stage.greedy(who, ms))
        for _ in range(4_000):
            await asyncio.sleep(0)
        count = Counter(stage.log)
        had = [count["a"] * 5, count["b"] * 5, count["c"] * 20]
        assert min(had) > 0
        assert max(had) - min(had) <= 200  # of thousands: the first pieces of all calls come as they come

    play(story)


def test_operators_have_more_of_the_turns_than_users_and_users_some() -> None:
    async def story(stage: Stage) -> None:
        for number in range(20):
            stage.start(f"u{number}", stage.greedy("user"))
        stage.start("oz", stage.greedy("staff"), STAFF)
        for _ in range(8_000):
            await asyncio.sleep(0)
        count = Counter(stage.log)
        assert count["staff"] / count["user"] == pytest.approx(WEIGHTS[STAFF] / WEIGHTS[USER], rel=0.15)

    play(story)


def test_with_nobody_behind_a_piece_goes_on_at_once() -> None:
    async def story(stage: Stage) -> None:
        turns, stages = stage.turns, 0

        async def light() -> None:
            nonlocal stages
            for _ in range(50):
                await asyncio.sleep(0)
                stages += 1

        task = stage.start("ann", light())
        for _ in range(52):
            await asyncio.sleep(0)
        assert (task.done(), stages, turns._armed) == (True, 50, False)

    play(story)


def test_whose_turn_would_be_the_next_goes_on_before_the_next_look_but_not_for_ever() -> None:
    stage = Stage()
    turns = stage.turns
    greedy, modest = (turns.callers.call_of(USER, name) for name in ("greedy", "modest"))
    turns.shares.charge(greedy, 5 * MS)
    assert not turns.must_wait(modest)
    turns.shares.enter(greedy, "a piece that waits")
    assert not turns.must_wait(modest)
    turns.shares.charge(modest, 9 * MS)
    assert turns.must_wait(modest)  # it has had more by now
    fresh = turns.callers.call_of(USER, "fresh")
    turns._burst_ns = 2 * QUANTUM_NS
    assert turns.must_wait(fresh)  # what is not of calls has its turn


def test_what_is_short_does_not_breathe_and_what_is_long_does() -> None:
    async def story(stage: Stage) -> None:
        turned = 0

        async def count() -> None:
            nonlocal turned
            while True:
                await asyncio.sleep(0)
                turned += 1

        other = asyncio.create_task(count())
        await asyncio.sleep(0)
        found = []

        async def work() -> None:
            for ms in (0.5, 0.5, 3, 0.1):
                stage.piece("ann", ms)
                before = turned
                await breathe()
                found.append(turned > before)

        await stage.start("ann", work())
        other.cancel()
        assert found == [False, False, True, False]

    play(story)


def test_what_is_awaited_answers_and_fails_as_without_turns() -> None:
    async def story(stage: Stage) -> None:
        for _ in range(3):
            stage.start("greedy", stage.greedy("greedy"))
        await asyncio.sleep(0)

        async def fails() -> None:
            await asyncio.sleep(0)
            raise ValueError("so it is")

        async def numbers() -> AsyncIterator[int]:
            for number in range(3):
                await breathe()
                yield number

        async def work() -> list[Any]:
            found: list[Any] = [await asyncio.sleep(0, "value"), [one async for one in numbers()]]
            with pytest.raises(ValueError, match="so it is"):
                await asyncio.create_task(fails())
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await asyncio.Event().wait()
            part = asyncio.create_task(in_turn(asyncio.sleep(0, "part")))
            return [*found, await part, await asyncio.create_task(for_all(asyncio.sleep(0, "all")))]

        assert await stage.start("ann", work()) == ["value", [0, 1, 2], "part", "all"]

        async def raises() -> None:
            raise KeyError("gone")

        with pytest.raises(KeyError):
            await stage.start("ann", raises())

    play(story)


def test_who_is_cancelled_while_it_waits_goes_at_once_and_leaves_no_place_taken() -> None:
    async def story(stage: Stage) -> None:
        for number in range(4):
            stage.start(f"g{number}", stage.greedy("greedy"))
        for _ in range(50):
            await asyncio.sleep(0)
        ended: list[str] = []

        async def work(who: str) -> None:
            try:
                await stage.hops(who, 1_000)
            except asyncio.CancelledError:
                ended.append(who)
                raise

        tasks = [stage.start("ann", work(f"ann-{number}")) for number in range(20)]
        for turn in range(60):
            await asyncio.sleep(0)
            if turn % 3 == 0:  # while they wait, are about to be let go on, or await something else
                tasks[turn // 3].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert all(task.cancelled() for task in tasks)
        assert sorted(ended) == sorted(f"ann-{number}" for number in range(20))
        stage.log.clear()
        await stage.start("bob", stage.hops("bob", 3))
        assert stage.log.count("bob") == 3

    play(story)


def test_who_is_cancelled_stands_in_no_queue_from_then_on() -> None:
    async def story(stage: Stage) -> None:
        stage.start("greedy", stage.greedy("greedy"))
        for _ in range(20):
            await asyncio.sleep(0)
        call = stage.turns.call_of(USER, "ann")
        task = asyncio.create_task(stage.turns.drive(call, stage.hops("ann", 1_000)))
        while not call.share.queued:  # noqa: ASYNC110  # a turn or two
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert (call.share.queued, list(call.share.waiting)) == (0, [])

    play(story)


def test_a_piece_that_does_not_wait_is_charged_like_any_other() -> None:
    async def story(stage: Stage) -> None:
        stage.start("greedy", stage.greedy("greedy"))
        for _ in range(20):
            await asyncio.sleep(0)
        call = stage.turns.call_of(USER, "refused")
        before = call.share.tag

        async def refuse() -> None:
            stage.piece("refused", 3)

        task = asyncio.create_task(stage.turns.drive(call, refuse(), waits=False))
        await asyncio.sleep(0)
        assert task.done()
        assert call.share.tag - before >= 3 * MS

    play(story)


def test_calls_that_come_in_are_let_in_before_the_next_piece_but_not_for_ever() -> None:
    async def story(stage: Stage) -> None:
        stage.start("greedy", stage.greedy("greedy"))
        for _ in range(20):
            await asyncio.sleep(0)
        stage.log.clear()
        for _ in range(30):  # a flood: one in each turn of the loop, and no time goes
            stage.turns.arrived()
            await asyncio.sleep(0)
        assert stage.log.count("greedy") <= 1
        for _ in range(30):  # each takes a while
            stage.meter.ns += COMING_NS // 4
            stage.turns.arrived()
            await asyncio.sleep(0)
        assert stage.log.count("greedy") >= 3

    play(story)


def test_a_call_of_which_nothing_is_known_counts_for_less_than_a_turn() -> None:
    assert 0 < UNKNOWN_NS < QUANTUM_NS


# ------------------------------------------------------------------ threads


class Desk:
    """Work in threads that goes on until it is told to end."""

    def __init__(self, threads: int) -> None:
        self.meter = Meter()
        self.lane = Threads(threads, max(threads // 2, 1), "test", self.meter)
        self.turns = Turns(Meter())
        self.began: list[str] = []
        self._ends: dict[str, threading.Event] = {}
        self._started = asyncio.Queue[str]()
        self._loop = asyncio.get_running_loop()

    def ask(self, who: str, what: str = "", kind: str = USER) -> asyncio.Task[Any]:
        name = what or who
        self._ends[name] = threading.Event()

        def work() -> str:
            self._loop.call_soon_threadsafe(self._began, name)
            assert self._ends[name].wait(30)
            return name

        async def call() -> str:
            return await self.lane.run(work)

        if kind == SYSTEM:
            return asyncio.create_task(call())
        return asyncio.create_task(self.turns.drive(self.turns.call_of(kind, who), call()))

    def _began(self, name: str) -> None:
        self.began.append(name)
        self._started.put_nowait(name)

    async def begins(self) -> str:
        return await self._started.get()

    def end(self, name: str, ms: int = 0) -> None:
        self.meter.ns += ms * MS
        self._ends[name].set()


def at_a_desk(threads: int, story: Callable[[Desk], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        desk = Desk(threads)
        try:
            await story(desk)
        finally:
            for one in desk._ends.values():
                one.set()
            desk.lane.close()

    asyncio.run(main())


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_one_caller_has_so_many_threads_at_most_and_others_find_one_free() -> None:
    async def story(desk: Desk) -> None:
        tasks = [desk.ask("greedy", f"g{number}") for number in range(10)]
        assert {await desk.begins(), await desk.begins()} == {"g0", "g1"}
        modest = desk.ask("modest")
        assert await desk.begins() == "modest"
        desk.end("modest")
        assert await modest == "modest"
        assert desk.began == ["g0", "g1", "modest"]
        for number in range(10):
            desk.end(f"g{number}")
        assert await asyncio.gather(*tasks) == [f"g{number}" for number in range(10)]

    at_a_desk(4, story)


def test_where_all_threads_are_taken_who_has_had_least_is_next() -> None:
    async def story(desk: Desk) -> None:
        first = [desk.ask("ann", "a0"), desk.ask("bob", "b0")]
        await desk.begins(), await desk.begins()
        rest = [desk.ask("ann", "a1"), desk.ask("bob", "b1"), desk.ask("cyd", "c0")]
        await settle()
        desk.end("a0", ms=10)
        assert await desk.begins() == "c0"  # who has had nothing
        for name in ("b0", "c0", "a1", "b1"):
            desk.end(name)
        await asyncio.gather(*first, *rest)
        assert not desk.lane._claims
        assert desk.lane._free == 2

    at_a_desk(2, story)


def test_the_daemons_own_questions_come_first_and_are_not_counted_by_caller() -> None:
    async def story(desk: Desk) -> None:
        first = [desk.ask("ann", "a0"), desk.ask("bob", "b0")]
        await desk.begins(), await desk.begins()
        users = [desk.ask(f"u{number}") for number in range(5)]
        own = [desk.ask("", f"own-{number}", SYSTEM) for number in range(3)]
        await settle()
        desk.end("a0")
        desk.end("b0")
        begun = [await desk.begins() for _ in range(2)]
        assert any(name.startswith("own") for name in begun)
        for name in [*(f"u{number}" for number in range(5)), *(f"own-{number}" for number in range(3))]:
            desk.end(name)
        await asyncio.gather(*first, *users, *own)

    at_a_desk(2, story)


def test_who_is_cancelled_in_line_leaves_it_and_a_thread_is_free_when_its_work_has_ended() -> None:
    async def story(desk: Desk) -> None:
        running = desk.ask("ann", "a0")
        assert await desk.begins() == "a0"
        other = desk.ask("bob", "b0")
        assert await desk.begins() == "b0"
        waiting = [desk.ask("ann", f"a{number}") for number in range(1, 4)]
        in_line = desk.ask("cyd", "c0")
        await settle()
        for task in (waiting[0], in_line, running):
            task.cancel()
        await settle()
        assert (running.cancelled(), in_line.cancelled()) == (True, True)
        assert desk.began == ["a0", "b0"]  # its work goes on, and the thread is not free for others
        desk.end("a0")
        assert await desk.begins() == "a2"
        for name in ("b0", "a2", "a3"):
            desk.end(name)
        assert await asyncio.gather(other, *waiting[1:]) == ["b0", "a2", "a3"]
        await settle()
        assert (desk.lane._claims, desk.lane._behind, desk.lane._free) == ({}, {}, 2)

    at_a_desk(2, story)


def test_who_is_cancelled_as_it_is_given_a_thread_gives_it_back() -> None:
    async def story(desk: Desk) -> None:
        tasks = [desk.ask("ann", "a0"), desk.ask("bob", "b0")]
        await desk.begins(), await desk.begins()
        in_line, next_one = desk.ask("cyd", "c0"), desk.ask("dan", "d0")
        await settle()
        ended = desk.lane._ended

        def and_cancelled(*what: Any) -> None:
            ended(*what)
            in_line.cancel()

        desk.lane._ended = and_cancelled  # type: ignore[method-assign]
        desk.end("a0")
        assert await desk.begins() == "d0"
        for name in ("b0", "d0"):
            desk.end(name)
        await asyncio.gather(*tasks, next_one)
        await settle()
        assert (in_line.cancelled(), desk.lane._claims, desk.lane._free) == (True, {}, 2)

    at_a_desk(2, story)


def test_work_that_fails_gives_its_thread_back() -> None:
    async def story(desk: Desk) -> None:
        def fails() -> None:
            raise ValueError("so it is")

        for _ in range(5):
            with pytest.raises(ValueError, match="so it is"):
                await desk.lane.run(fails)
        await settle()
        assert (desk.lane._claims, desk.lane._free) == ({}, 2)

    at_a_desk(2, story)
