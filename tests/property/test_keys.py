"""J2: one key makes one job, also when the job has ended and when the daemon was started again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slow_daemon import Daemon

from bursar.errors import KeyConflict
from bursard.services import keys as service
from bursard.services.keys import KeyFilter
from bursard.state.decide import jobs as decide

KEYS = st.sampled_from(["a", "b", "c", "d"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), KEYS, st.sampled_from(["x", "y"])),
        st.tuples(st.just("end"), KEYS, st.none()),
        st.tuples(st.just("restart"), st.none(), st.none()),
        st.tuples(st.just("learn"), st.none(), st.none()),
    ),
    max_size=25,
)


async def learnt(daemon: Daemon) -> None:
    """Until the gate knows every key of before this daemon."""
    gate = daemon.jobs._keys
    if gate._learning is None:
        gate._learning = asyncio.create_task(gate._learn())
    await gate._learning


@given(steps=STEPS, page=st.integers(1, 3))
def test_a_key_makes_one_job_and_no_other_job_is_given_for_it(steps: list[Any], page: int) -> None:
    async def play() -> None:
        daemon = Daemon()
        made: dict[str, tuple[str, str]] = {}
        for verb, key, name in steps:
            if verb == "submit":
                job_id, first = made.get(key, ("", name))
                if first != name:
                    with pytest.raises(KeyConflict):
                        await daemon.submit(key, name)
                    continue
                found = await daemon.submit(key, name)
                assert found == (job_id or found)
                assert bool(job_id) or found not in {one for one, _ in made.values()}
                made[key] = found, name
            elif verb == "end" and made.get(key, ("",))[0] in daemon.engine.state.jobs:
                job = daemon.engine.state.jobs[made[key][0]]
                events = decide.cancel(daemon.engine.state, job, None)
                await daemon.engine.durable(daemon.engine.commit(events, "ann"))
            elif verb == "restart":
                await daemon.engine.writer.close()
                daemon = Daemon(daemon.store)
            elif verb == "learn":
                await learnt(daemon)
        await daemon.close()

    was, service._PAGE = service._PAGE, page  # type: ignore[misc]
    try:
        asyncio.run(play())
    finally:
        service._PAGE = was  # type: ignore[misc]


@given(st.sets(st.tuples(st.text(max_size=3), st.text(min_size=1, max_size=3)), max_size=60))
def test_the_filter_misses_no_key_that_was_added(pairs: set[tuple[str, str]]) -> None:
    found = KeyFilter()
    for user, key in pairs:
        found.add(user, key)
    assert all(found.may_have(user, key) for user, key in pairs)


def test_the_filter_takes_few_new_keys_for_old_ones() -> None:
    found = KeyFilter()
    for number in range(20_000):
        found.add("ann", f"k{number}")
    assert sum(found.may_have("ann", f"n{number}") for number in range(20_000)) <= 2
    assert sum(found.may_have("bob", f"k{number}") for number in range(20_000)) <= 2


def test_new_keys_ask_nobody_once_the_old_ones_are_known_and_old_ones_do() -> None:
    async def play() -> None:
        daemon = Daemon()
        old = await daemon.ended("old")
        await daemon.engine.writer.close()
        daemon = Daemon(daemon.store)
        asked: list[list[str]] = []
        keys = daemon.store.keys
        daemon.store.keys = lambda user, names: (asked.append(list(names)), keys(user, names))[1]  # type: ignore[method-assign,assignment]
        await daemon.submit("first")
        assert asked == [["first"]]
        await learnt(daemon)
        await daemon.submit("second")
        assert await daemon.submit("old", "old") == old
        ended = await daemon.ended("third", "t")
        assert await daemon.submit("third", "t") == ended
        assert asked == [["first"], ["old"], ["third"]]
        await daemon.close()

    asyncio.run(play())
