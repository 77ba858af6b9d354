"""Quotas through the daemon's own way: documents, what is counted, refusals, reclaim with grace."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from bursar.errors import InvalidRequest, QuotaExceeded
from bursar.model import Device, EndCause, JobState, ReasonCode
from bursar.money import format_nanos
from bursar.resources import ResourceRequest
from bursar_policies.decision import Action, Snapshot
from bursar_policies.document import parse_documents
from bursard.events import AttemptEnded, StopRequested
from bursard.fleet.testing import FACTS, World
from bursard.place import Dropped, verify
from bursard.reports.pages import text_pieces
from bursard.reports.period import Period
from bursard.reports.quota_page import quota_page
from bursard.scheduler import plan, reason_of
from bursard.services.kinds import refuse_unknown_types
from bursard.state import image
from bursard.state.decide.policies import remove

HOUR_US = 3_600_000_000
NLP = "kind: Quota\nname: nlp\nspec: {scope: {project: nlp}, guaranteed: {cpus: 4}, max: {cpus: 6}}\n"
BOB = "kind: Quota\nname: bob\nspec: {scope: {user: bob}, max: {spend_rate: 0.01 USD/h}}\n"


def cpus(count: int) -> tuple[ResourceRequest, ...]:
    return (ResourceRequest(None, count * 1_000, 1 << 20),)


def site(*policies: str) -> World:
    """One node of eight CPUs."""
    world = World()
    world.backend.connect(FACTS)
    for policy in policies:
        world.apply(policy)
    return world


def told(world: World) -> None:
    world.cycle()
    world.backend.report()
    world.writer.flush()


def counted(world: World) -> dict[str, int]:
    return {name: used["cpus"] for name, used in world.state.quotas.used.items()}


def test_what_runs_is_counted_by_those_that_cover_it_until_it_ends():
    world = site(NLP, BOB)
    first = world.submit(project="NLP/ft", options=cpus(4))
    other = world.submit(project="vision", options=cpus(2))
    told(world)
    assert counted(world) == {"nlp": 4_000, "bob": 0}
    holdings = world.state.snapshot().holdings
    assert holdings[first.attempts[0].id].quotas == ("nlp",)
    assert dict(holdings[other.attempts[0].id].uses)["cpus"] == 2_000
    world.backend.finish(first.attempts[0].id, 0)
    told(world)
    assert counted(world) == {"nlp": 0, "bob": 0}
    assert list(world.state.snapshot().holdings) == [other.attempts[0].id]


def test_documents_that_come_and_go_count_what_lives_and_move_what_waits():
    world = site()
    running = world.submit(project="nlp", options=cpus(5))
    told(world)
    waits = world.submit(project="nlp", options=cpus(2))
    assert world.state.snapshot().quotas == {}
    world.apply(NLP)
    assert counted(world) == {"nlp": 5_000}
    told(world)
    assert waits.state is JobState.PENDING, "seven would be above its max"
    (last,) = world.state.snapshot().queues
    assert last.job_class.quotas == ("nlp",)
    world.engine.commit(remove(world.state, "Quota", "nlp"), "ann")
    told(world)
    assert waits.state is JobState.RUNNING
    assert running.state is JobState.RUNNING


def test_a_state_read_from_its_image_counts_the_same():
    world = site(NLP, BOB)
    world.submit(user="bob", project="nlp", options=cpus(2))
    world.submit(project="nlp", options=cpus(1), preemptible=False)
    told(world)
    again = image.decode(image.encode(world.state, world.engine.now()))
    assert again.quotas.used == world.state.quotas.used
    assert again.snapshot().holdings == world.state.snapshot().holdings
    assert again.snapshot().quotas == world.state.snapshot().quotas


def test_what_could_never_start_is_refused_at_the_door_with_the_numbers():
    world = site(NLP)
    with pytest.raises(QuotaExceeded, match=r"quota nlp .* never allows 8 cpus: its max is 6") as refused:
        world.submit(project="nlp/ft", options=cpus(4), nodes=2)
    assert refused.value.facts == {"quota": "nlp", "resource": "cpus", "asked": "8", "max": "6"}
    world.submit(project="nlp", options=(*cpus(8), *cpus(4)))  # one of its alternatives may


def test_spending_is_bounded_by_what_nodes_cost():
    world = site()
    first = world.submit(user="bob", options=cpus(1))
    told(world)
    rate = first.attempts[0].rate
    assert rate > 0
    world.apply(BOB.replace("0.01 USD", f"{format_nanos(2 * rate)} USD"))
    others = [world.submit(user="bob", options=cpus(1)) for _ in range(2)]
    told(world)
    assert [one.state for one in others] == [JobState.RUNNING, JobState.PENDING]
    assert world.state.quotas.used["bob"]["spend_rate"] == 2 * rate
    snapshot = world.state.snapshot()
    made = plan(snapshot, world.engine.now())
    (why,) = [reason_of(snapshot, made, index) for index in made.verdicts]
    assert why.code is ReasonCode.WAITING_FOR_QUOTA


def test_a_rate_in_another_currency_than_the_books_is_refused():
    with pytest.raises(InvalidRequest, match="EUR"):
        site(BOB.replace("USD", "EUR"))


def test_what_was_borrowed_is_given_back_with_its_grace_and_comes_again_later():
    world = site(NLP)
    borrower = world.submit(project="vision", options=cpus(6))
    told(world)
    mine = world.submit(project="nlp", options=cpus(4))
    world.cycle()
    (asked,) = [event for event in world.events if isinstance(event, StopRequested)]
    assert (asked.cause, asked.for_job) == (EndCause.PREEMPTED, mine.id)
    assert asked.message == "gives back what quota nlp guarantees"
    world.backend.report()
    world.writer.flush()
    (end,) = [event for event in world.events if isinstance(event, AttemptEnded)]
    assert (end.cause, end.requeue, end.counts) == (EndCause.PREEMPTED, True, False)
    told(world)
    assert mine.attempt is not None
    assert borrower.state is JobState.PENDING
    world.backend.finish(mine.attempt.id, 0)
    told(world)
    told(world)
    assert borrower.attempt is not None


def test_a_plan_made_before_a_quota_changed_starts_nothing_that_it_now_counts_otherwise():
    world = site(NLP)
    world.submit(project="nlp", options=cpus(6))
    seen = world.state.snapshot()
    (group,) = plan(seen, world.engine.now()).groups
    world.apply(NLP.replace("max: {cpus: 6}", "max: {cpus: 5}"))
    answer = verify(world.state, world.ids, seen, group)
    assert isinstance(answer, Dropped)
    assert "quotas" in answer.reason.message


def test_starts_of_another_pass_are_counted_before_a_later_plan_is_carried_out():
    world = site(NLP)
    world.submit(project="nlp", options=cpus(4))
    seen = world.state.snapshot()
    (group,) = plan(seen, world.engine.now()).groups
    other = world.submit(project="nlp", options=cpus(3), priority=90)
    told(world)
    assert other.attempt is not None
    answer = verify(world.state, world.ids, seen, group)
    assert isinstance(answer, Dropped)


def asks(count: int, memory_gib: int) -> tuple[ResourceRequest, ...]:
    return (ResourceRequest(None, count * 1_000, memory_gib << 30),)


def test_a_guarantee_of_memory_takes_no_cpus_from_anybody():
    world = site("kind: Quota\nname: nlp\nspec: {scope: {project: nlp}, guaranteed: {memory: 1MiB}}\n")
    other = world.submit(user="bob", project="vision", options=cpus(8))
    told(world)
    mine = world.submit(user="ann", project="nlp", options=cpus(8))
    told(world)
    told(world)
    assert (other.state, mine.state) == (JobState.RUNNING, JobState.PENDING)
    assert not [event for event in world.events if isinstance(event, StopRequested)]


def test_a_guarantee_of_cpus_that_are_free_takes_no_memory_from_anybody():
    world = site("kind: Quota\nname: nlp\nspec: {scope: {project: nlp}, guaranteed: {cpus: 4}}\n")
    others = []
    for _ in range(2):
        others.append(world.submit(user="bob", project="vision", options=asks(1, 7)))
        told(world)
    mine = world.submit(user="ann", project="nlp", options=asks(1, 15))
    told(world)
    told(world)
    assert [job.state for job in (*others, mine)] == [JobState.RUNNING, JobState.RUNNING, JobState.PENDING]


def test_what_comes_free_with_what_is_guaranteed_serves_and_no_one_is_stopped_beside_it():
    world = site("kind: Quota\nname: nlp\nspec: {scope: {project: nlp}, guaranteed: {cpus: 1}}\n")
    small = [world.submit(user="bob", project="vision", options=asks(1, 1)) for _ in range(4)]
    large = world.submit(user="bob", project="vision", options=asks(4, 10))
    told(world)
    assert all(job.state is JobState.RUNNING for job in (*small, large))
    mine = world.submit(user="ann", project="nlp", options=asks(1, 8))
    told(world)
    told(world)
    told(world)
    assert mine.state is JobState.RUNNING, "one that gave its CPUs gave enough memory too"
    assert [job.state for job in small] == [JobState.RUNNING] * 4
    assert [event.attempt_id for event in world.events if isinstance(event, StopRequested)] == [
        large.attempts[0].id
    ]


def test_what_may_not_be_stopped_leaves_what_is_guaranteed():
    world = site(NLP)
    records = [world.submit(project="vision", options=cpus(2), preemptible=False) for _ in range(3)]
    told(world)
    assert [one.state for one in records] == [JobState.RUNNING, JobState.RUNNING, JobState.PENDING]
    assert world.state.snapshot().holdings[records[0].attempts[0].id].pinned


def test_the_report_shows_what_is_used_guaranteed_borrowed_and_the_most():
    world = site(NLP, BOB.replace("0.01", "40"))
    world.submit(project="nlp", options=cpus(5))
    told(world)
    period = Period("2026", 0, 1)
    assert quota_page(world.state, period).rows == (
        ("bob", "user bob", "spend_rate", "0 USD/h", "0 USD/h", "0 USD/h", "40 USD/h"),
        ("nlp", "project nlp", "cpus", "5", "4", "1", "6"),
    )
    assert [row[0] for row in quota_page(world.state, period, "NLP").rows] == ["nlp"]
    assert quota_page(world.state, period, "nl").rows == ()


def test_gpus_of_any_type_are_guaranteed_by_their_types_and_a_type_is_bounded_by_all_of_them():
    typed = "guaranteed: {gpus: {A100: 2, H100: 4}}, max: {gpus: 8}"
    any_of = "guaranteed: {gpus: 4}, max: {gpus: {H100: 3}}"
    world = site(*(f"kind: Quota\nname: {n}\nspec: {{scope: {{project: {n}}}, {s}}}\n" for n, s in (
        ("any", any_of), ("typed", typed),
    )))  # fmt: skip
    used = {"gpus": 7_000, "gpus/A100": 1_000, "gpus/H100": 6_000}
    world.state.quotas.used["typed"].update(used)
    world.state.quotas.used["any"].update({"gpus": 5_000, "gpus/H100": 3_000})
    page = quota_page(world.state, Period("2026", 0, 1))
    assert page.rows == (
        ("any", "project any", "gpus", "5", "4", "1", None),
        ("any", "project any", "gpus/H100", "3", None, None, "3"),
        ("typed", "project typed", "gpus", "7", "6", "2", "8"),
        ("typed", "project typed", "gpus/A100", "1", "2", "0", "8"),
        ("typed", "project typed", "gpus/H100", "6", "4", "2", "8"),
    )
    text = b"".join(text_pieces(page)).decode()
    assert "not known" not in text
    assert [line.split() for line in text.splitlines()[3:5]] == [
        ["any", "project", "any", "gpus", "5", "4", "1", "none"],
        ["any", "project", "any", "gpus/H100", "3", "see", "gpus", "see", "gpus", "3"],
    ]


def test_a_gpu_that_nobody_has_heard_of_is_no_type_of_a_quota_and_the_nearest_is_named():
    world = site()
    text = "kind: Quota\nname: q\nspec: {scope: {project: a}, max: {gpus: {H10O: 4, H100: 2}}}\n"
    documents = parse_documents(text, "q.yaml")
    refuse_unknown_types(world.engine, documents)  # nothing is known of kinds at all: they may come
    world.backend.connect(replace(FACTS, name="n-2", devices=(Device(0, "u", "H100", 80 << 30),)))
    with pytest.raises(
        InvalidRequest, match=r"q.yaml:1: Quota q: gpus: no node has a H10O.*did you mean H100"
    ):
        refuse_unknown_types(world.engine, documents)
    refuse_unknown_types(world.engine, parse_documents(text.replace("H10O: 4, ", ""), "q.yaml"))


def _asked_to_give_back() -> tuple[World, Snapshot, tuple[Action, ...]]:
    """A plan has an attempt of vision give back what is guaranteed to nlp; it is not carried out yet."""
    world = site(NLP)
    world.submit(project="vision", options=cpus(6))
    told(world)
    world.submit(project="nlp", options=cpus(4))
    seen = world.state.snapshot()
    (group,) = plan(seen, world.engine.now()).groups
    return world, seen, group


def test_nobody_is_stopped_for_a_guarantee_that_has_changed_since_the_plan():
    world, seen, group = _asked_to_give_back()
    assert not isinstance(verify(world.state, world.ids, seen, group), Dropped), "as it was, it holds"
    world.apply(NLP.replace("guaranteed: {cpus: 4}", "guaranteed: {cpus: 3}"))
    answer = verify(world.state, world.ids, seen, group)
    assert isinstance(answer, Dropped)
    assert answer.reason.message == "what quotas guarantee is otherwise by now"


def test_nobody_is_stopped_for_a_guarantee_that_somebody_else_has_taken_since_the_plan():
    world, seen, group = _asked_to_give_back()
    world.submit(project="nlp/ft", options=cpus(2), priority=90)
    told(world)
    answer = verify(world.state, world.ids, seen, group)
    assert isinstance(answer, Dropped)
    assert answer.reason.message == "more of the guarantee of quota nlp is used by now"


def test_nobody_is_stopped_whom_their_own_guarantee_may_shelter_since_the_plan():
    world = site(NLP, NLP.replace("nlp", "vision").replace("cpus: 6", "cpus: 8"))
    first = world.submit(project="vision", options=cpus(4))
    told(world)
    world.submit(project="vision", options=cpus(2))
    told(world)
    world.submit(project="nlp", options=cpus(4))
    seen = world.state.snapshot()
    (group,) = plan(seen, world.engine.now()).groups
    assert not isinstance(verify(world.state, world.ids, seen, group), Dropped)
    assert first.attempt is not None
    world.backend.finish(first.attempt.id, 0)
    world.backend.report()
    world.writer.flush()
    answer = verify(world.state, world.ids, seen, group)
    assert isinstance(answer, Dropped)
    assert "may be within its own guarantee by now" in answer.reason.message


def test_what_may_not_be_stopped_is_not_started_on_guarantees_whose_node_has_gone_since_the_plan():
    world = site(NLP)
    world.submit(project="vision", options=cpus(2), preemptible=False)
    seen = world.state.snapshot()
    (group,) = plan(seen, world.engine.now()).groups
    world.submit(project="vision", options=cpus(4), preemptible=False, priority=90)
    told(world)
    answer = verify(world.state, world.ids, seen, group)
    assert isinstance(answer, Dropped)
    assert answer.reason.message == "more runs that may not be stopped, so that guarantees have less room"


def test_what_bounds_each_user_bounds_every_one_by_himself():
    each = 'kind: Quota\nname: each\nspec: {scope: {user: "*"}, max: {cpus: 2}}\n'
    world = site(each)
    records = [world.submit(user=user, options=cpus(1)) for user in ("ann", "ann", "ann", "bob", "cy")]
    seen = world.state.snapshot()
    told(world)
    assert [one.state for one in records] == [
        *(JobState.RUNNING, JobState.RUNNING, JobState.PENDING, JobState.RUNNING, JobState.RUNNING)
    ]
    assert counted(world) == {"each/ann": 2_000, "each/bob": 1_000, "each/cy": 1_000}
    snapshot = world.state.snapshot()
    made = plan(snapshot, world.engine.now())
    (why,) = [reason_of(snapshot, made, index) for index in made.verdicts]
    assert why.message == "2 of at most 2 CPUs of quota each/ann (user ann) are used, this asks for 1"
    with pytest.raises(QuotaExceeded, match="quota each/dan"):
        world.submit(user="dan", options=cpus(3))
    assert "each/dan" not in seen.quotas, "a snapshot stays as it was"
    world.engine.commit(remove(world.state, "Quota", "each"), "ann")
    assert world.state.snapshot().quotas == {}


def test_a_new_user_does_not_drop_what_was_planned_before_he_came():
    world = site('kind: Quota\nname: each\nspec: {scope: {user: "*"}, max: {cpus: 2}}\n')
    world.submit(user="ann", options=cpus(1))
    seen = world.state.snapshot()
    (group,) = plan(seen, world.engine.now()).groups
    world.submit(user="bob", options=cpus(1))
    assert not isinstance(verify(world.state, world.ids, seen, group), Dropped)
