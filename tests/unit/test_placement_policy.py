"""What a PlacementPolicy may weigh, that it does so, and which of several is in force."""

from __future__ import annotations

import pytest
from tests.unit.test_policy_removal import apply, asked
from whole_site import Site, play

from bursar.errors import PolicyInvalid
from bursar.v1 import money_pb2
from bursar_policies.document import parse_documents
from bursar_policies.scorers import Weights, weighted
from bursard.fleet.testing import World
from bursard.scheduler import PlanCache, plan
from bursard.scheduler.testing import Node, columns, job_class, queue, request, snapshot
from bursard.state import image

POLICY = "kind: PlacementPolicy\nname: {}\nspec:\n  strategy: {}\n  weights: {{{}}}\n"


@pytest.mark.parametrize(
    ("strategy", "weights", "said"),
    [
        ("pack", "fragmentatoin: 2", "did you mean 'fragmentation'"),
        ("pack", "speed: 1", "is not a scorer of pack; known: fragmentation, consolidation, starvation"),
        ("spread", "fragmentation: 1", "is not a scorer of spread; known: best_fit"),
        ("pack", "best_fit: 101", "at most 100"),
        ("pack", "best_fit: 0.0001", "more than three digits"),
    ],
)
def test_what_changes_nothing_is_refused_with_what_there_is(strategy, weights, said):
    with pytest.raises(PolicyInvalid) as caught:
        parse_documents(POLICY.format("a", strategy, weights), "a.yaml")
    assert any(said in str(fault) and fault.line == 5 for fault in caught.value.faults)


def test_an_allocator_that_is_a_word_alone_is_told_how_to_write_it():
    text = "kind: PlacementPolicy\nname: a\nspec: {strategy: pack, allocator: relative-sped}\n"
    with pytest.raises(PolicyInvalid, match=r"write \{name: relative-speed\}"):
        parse_documents(text, "a.yaml")


def test_a_weight_is_times_what_the_strategy_has_of_its_own():
    assert weighted("pack", ()) is None
    assert weighted("pack", (("fragmentation", 500),)) == Weights(fragmentation=Weights().fragmentation // 2)
    made = weighted("spread", (("best_fit", 2_000),))
    assert made is not None
    assert (made.best_fit, made.fragmentation) == (-2_000_000, 0)
    assert weighted("pack", (("speed", 9),)) == Weights()  # of a document of before there was a check


def test_a_weight_decides_where_a_job_goes_with_and_without_what_is_kept_between_plans():
    there = columns([Node(name="a", gpus=4), Node(name="b", gpus=4, gpu_type="A100")])
    there.cpu_free[1] //= 2  # b is fuller, a comes first in the order of filling
    asks = queue(job_class(request(cpus=1)), (1, "j"))
    cache, chosen = PlanCache(), []
    for weights in ((), (("consolidation", 0), ("best_fit", 100_000))):
        world = snapshot(there, asks)
        world = type(world)(
            **{name: getattr(world, name) for name in world.__struct_fields__} | {"weights": weights}
        )
        [start] = plan(world, 0, cache).starts
        assert [start] == list(plan(world, 0).starts)
        chosen.append(there.names[start.members[0].node])
    assert chosen == ["a", "b"]


def test_the_daemon_plans_by_the_weights_in_force_also_after_it_was_read_again():
    world = World()
    world.apply(POLICY.format("a", "pack", "fragmentation: 0.5"))
    assert world.state.snapshot().weights == (("fragmentation", 500),)
    again = image.decode(image.encode(world.state, world.engine.now()))
    assert again.snapshot().weights == (("fragmentation", 500),)
    world.apply("kind: PlacementPolicy\nname: b\nspec: {strategy: spread}\n")
    assert (world.state.snapshot().strategy, world.state.snapshot().weights) == ("spread", ())


def test_of_several_documents_it_is_said_which_is_in_force():
    async def story(site: Site) -> None:
        def notes_of(answer: object) -> dict[str, list[str]]:
            return {one.name: list(one.notes) for one in answer.policies}  # type: ignore[attr-defined]

        asks = money_pb2.ListPoliciesRequest(kind="PlacementPolicy")
        await apply(site, "kind: PlacementPolicy\nname: slow\nspec: {strategy: pack}\n")
        alone = notes_of(await asked(site, "Policies.List", asks))
        await apply(site, "kind: PlacementPolicy\nname: fast\nspec: {strategy: spread}\n")
        both = notes_of(await asked(site, "Policies.List", asks))
        assert both["fast"] == ["PlacementPolicy fast is in force: it was applied last"]
        assert both["slow"] == ["PlacementPolicy slow is not in force: fast was applied after it"]
        assert alone["slow"] != both["slow"]
        await apply(site, "kind: PlacementPolicy\nname: slow\nspec: {strategy: spread}\n")
        asks_one = money_pb2.PolicyRequest(kind="PlacementPolicy", name="fast")
        shown = await asked(site, "Policies.Get", asks_one)
        assert list(shown.notes) == ["PlacementPolicy fast is not in force: slow was applied after it"]

    play(story)
