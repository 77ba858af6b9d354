"""However many queues a user has, plans look at few of them, at each in its turn, and at all of others."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.resources import ResourceRequest
from bursar_policies.decision import JobClass
from bursard.state.crowd import Crowd
from bursard.state.pending import PendingIndex

FIRST, IN_TURN, OWN_MAX = 2, 3, 4


def asks(cpu_milli: int) -> JobClass:
    return JobClass(1, (ResourceRequest(cpu_milli=cpu_milli),), False, (), "never", 60, 70, ())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(("add", "add", "add", "leave", "turn")), st.integers(0, 99))))
def test_each_of_a_crowd_is_looked_at_when_it_was_said_and_none_twice(moves: list[tuple[str, int]]) -> None:
    crowd: Crowd[int] = Crowd(FIRST, IN_TURN)
    ranks = {}
    for number, (move, pick) in enumerate(moves):
        if move == "add":
            would = crowd.plans_until(crowd.rank_of(pick % 3, number))
            ranks[number] = crowd.add(pick % 3, number, number)
            assert crowd.plans_until(ranks[number]) == would
        elif move == "leave" and ranks:
            crowd.remove(ranks.pop(sorted(ranks)[pick % len(ranks)]))
        elif move == "turn":
            crowd.turn()
    said = {number: crowd.plans_until(rank) for number, rank in ranks.items()}
    seen: dict[int, int] = {}
    always = sorted(ranks, key=ranks.__getitem__)[:FIRST]
    for plans in range(max(crowd.plans_for_all, 1)):
        shown = crowd.shown()
        assert len(shown) == len(set(shown)) <= FIRST + IN_TURN
        assert shown[: len(always)] == always
        for number in shown:
            seen.setdefault(number, plans)
        crowd.turn()
    assert seen == said
    assert len(crowd) == len(ranks)


MOVES = st.lists(
    st.tuples(
        st.sampled_from(("ann", "ann", "ann", "bob", "leave", "turn")),
        st.integers(0, 11),
        st.sampled_from((10, 50)),
    ),
    max_size=80,
)


@settings(max_examples=60, deadline=None)
@given(MOVES)
def test_no_job_is_lost_or_doubled_between_the_queues_of_all_and_those_of_a_crowd(
    moves: list[tuple[str, int, int]],
) -> None:
    index = PendingIndex(OWN_MAX, FIRST, IN_TURN)
    waiting: dict[str, tuple[str, int, int]] = {}
    for number, (what, shape, priority) in enumerate(moves):
        if what in ("ann", "bob"):
            waiting[f"job_{number}"] = (what, shape, priority)
            index.add(f"job_{number}", asks(100 + shape), priority, number, what)
        elif what == "turn":
            index.turn()
        elif waiting:
            job_id = sorted(waiting)[shape % len(waiting)]
            del waiting[job_id]
            index.remove(job_id)
    said = {job_id: turn.plans if (turn := index.turn_of(job_id)) else 0 for job_id in waiting}
    seen: dict[str, int] = {}
    users = {user for user, _, _ in waiting.values()}
    for plans in range(max(index.plans_for_all, 1)):
        shown = index.queues()
        assert len(shown) <= len(users | {"ann", "bob"}) * (OWN_MAX + FIRST + IN_TURN)
        names = [job_id for queue in shown for _, job_id in queue.jobs]
        assert len(names) == len(set(names))
        assert [index.shows(job_id) for job_id in waiting] == [job_id in names for job_id in waiting]
        for queue in shown:
            for _, job_id in queue.jobs:
                user, shape, priority = waiting[job_id]
                assert (queue.job_class.options[0].cpu_milli, queue.priority) == (100 + shape, priority)
                assert queue.owner in ("", user)
                assert index.key_of(job_id) == queue.key
                seen.setdefault(job_id, plans)
        index.turn()
    assert seen == said


def test_a_place_that_becomes_free_goes_to_the_first_of_the_crowd_that_has_no_namesake_there() -> None:
    index = PendingIndex(own_max=1, first=1, in_turn=1)
    for number, shape in enumerate((1, 2, 3)):
        index.add(f"ann_{number}", asks(shape), 50, number, "ann")
    index.add("bob_0", asks(2), 50, 3, "bob")
    assert [queue.owner for queue in index.queues()] == ["", "ann", "ann", ""]
    index.remove("ann_0")
    owners = {queue.jobs[0][1]: queue.owner for queue in index.queues()}
    assert owners == {"ann_1": "ann", "ann_2": "ann", "bob_0": ""}
    index.remove("bob_0")
    index.add("ann_3", asks(9), 50, 4, "ann")
    assert index.key_of("ann_3") == (asks(9).without_limit(), 50, "")
    index.remove("ann_3")
    owners = {queue.jobs[0][1]: queue.owner for queue in index.queues()}
    assert owners == {"ann_1": "", "ann_2": "ann"}


def test_what_is_moved_to_another_class_stays_where_it_was_looked_at() -> None:
    index = PendingIndex(own_max=1, first=1, in_turn=1)
    for number in range(2):
        index.add(f"job_{number}", asks(number + 1), 50, number, "ann")
    for number, owner in ((0, ""), (1, "ann")):
        key = index.key_of(f"job_{number}")
        assert key is not None
        index.move([f"job_{number}"], asks(number + 11).without_limit(), key)
        assert index.key_of(f"job_{number}") == (asks(number + 11).without_limit(), 50, owner)
    assert len(index.queues()) == 2


def test_jobs_of_another_join_a_queue_that_every_plan_looks_at_and_open_their_own() -> None:
    index = PendingIndex(own_max=1, first=1, in_turn=1)
    for number in range(6):
        index.add(f"ann_{number}", asks(number), 50, number, "ann")
    index.add("bob_0", asks(0), 50, 6, "bob")
    index.add("bob_1", asks(5), 50, 7, "bob")
    assert (index.shows("bob_0"), index.shows("bob_1"), index.shows("ann_5")) == (True, True, False)
    assert [len(queue.jobs) for queue in index.queues()] == [2, 1, 1, 1]
    asked = index.queues("ann_5")
    assert [name for queue in asked for _, name in queue.jobs] == [
        "ann_0", "bob_0", "ann_1", "ann_2", "ann_5", "bob_1",
    ]  # fmt: skip
    assert index.turn_if("ann", asks(5), 50, 8) is None
    assert index.turn_if("ann", asks(4), 50, 8) == index.turn_of("ann_4") == (6, 2)
    assert index.turn_if("ann", asks(7), 99, 8) == (6, 0)
    assert index.turn_if("ann", asks(7), 1, 8) == (6, 4)
    assert index.turn_if("bob", asks(7), 1, 8) == (1, 0)
