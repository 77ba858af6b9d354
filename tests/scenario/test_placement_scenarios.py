"""Stories of placement: who starts where, and what the others are told."""

from __future__ import annotations

import pytest

from bursar.model import ReasonCode
from bursard.scheduler.testing import request


def test_job_starts_on_the_node_with_its_gpus(scenario):
    scenario.node("a", gpus=4).node("b").job("j", gpus=2).expect("j", on="a")


def test_gang_takes_distinct_nodes_or_none(scenario):
    scenario.node("a", gpus=4).node("b", gpus=4).job("g", gpus=2, nodes=2).expect("g", on="a,b")


def test_gang_never_takes_two_places_on_one_node(scenario):
    scenario.node("a", gpus=8).job("g", gpus=2, nodes=2)
    scenario.expect_waits("g", ReasonCode.EXCEEDS_NODE_CAPACITY, "1 node", "you ask 2")


def test_two_halves_share_one_device(scenario):
    scenario.node("a", gpus=2).job("x", gpus=0.5).job("y", gpus=0.5).expect("x").expect("y")
    devices = [start.members[0].devices for start in scenario.plan.starts]
    assert devices[0] == devices[1]


def test_whole_gpu_job_avoids_shared_device(scenario):
    scenario.node("a", gpus=2).job("x", gpus=0.5).job("w", gpus=1).job("z", gpus=1)
    scenario.expect("x").expect("w")
    scenario.expect_waits("z", ReasonCode.WAITING_FOR_RESOURCES, "lacks free GPUs")


def test_cheaper_node_wins(scenario):
    scenario.node("a", gpus=4, price="9 USD").node("b", gpus=4, price="8 USD")
    scenario.job("j", gpus=1).expect("j", on="b")


def test_known_price_wins_over_unknown(scenario):
    scenario.node("a", gpus=4).node("b", gpus=4, price="80 USD").job("j", gpus=1).expect("j", on="b")


def test_any_of_takes_the_cheapest_that_fits(scenario):
    scenario.node("a", gpus=4, gpu_type="H100", price="40 USD")
    scenario.node("b", gpus=4, gpu_type="A100", price="10 USD")
    scenario.job("j", any_of=(request(2, types="H100"), request(2, types="A100"))).expect("j", on="b")


def test_ordered_takes_the_first_that_fits(scenario):
    scenario.node("a", gpus=4, gpu_type="H100", price="40 USD")
    scenario.node("b", gpus=4, gpu_type="A100", price="10 USD")
    options = (request(2, types="H100"), request(2, types="A100"))
    scenario.job("j", any_of=options, ordered=True).expect("j", on="a")


def test_higher_priority_goes_first_and_the_other_is_told(scenario):
    scenario.node("a", gpus=1).job("low", gpus=1, priority=25).job("high", gpus=1, priority=75)
    scenario.expect("high", on="a")
    scenario.expect_waits("low", ReasonCode.BEHIND_HIGHER_PRIORITY, "high")


@pytest.mark.parametrize(
    ("pattern", "on"),
    [("eu-*", "a"), ("!eu-*", "b"), ("us-*,ap-*", "b"), ("!us-1, !ap-*", "a")],
)
def test_constraint_patterns(scenario, pattern, on):
    scenario.node("a", labels={"zone": "eu-1"}).node("b", labels={"zone": "us-1"})
    scenario.job("j", constraints=(("zone", pattern),)).expect("j", on=on)


def test_constraint_that_matches_nothing_names_what_there_is(scenario):
    scenario.node("a", labels={"zone": "eu-1"}).job("j", constraints=(("zone", "us-*"),))
    scenario.expect_waits("j", ReasonCode.MISCONFIGURED, "zone: us-* matches no node", "eu-1")


def test_spot_policy_keeps_to_its_market(scenario):
    scenario.node("a", market="spot").node("b").job("s", spot_policy="spot")
    scenario.job("d", spot_policy="on-demand").expect("s", on="a").expect("d", on="b")


def test_node_that_is_not_ready_takes_nothing_and_blocks_nobody(scenario):
    scenario.node("a", gpus=4, ready=False).node("b", cpu_milli=2_000)
    scenario.job("j", gpus=1).job("k")
    scenario.expect_waits("j", ReasonCode.WAITING_FOR_RESOURCES, "not ready").expect("k", on="b")


def test_too_many_gpus_names_the_largest_node(scenario):
    scenario.node("a", gpus=4).job("j", gpus=8)
    scenario.expect_waits("j", ReasonCode.EXCEEDS_NODE_CAPACITY, "largest node has 4 H100, you ask 8")


def test_unknown_gpu_type_names_those_here(scenario):
    scenario.node("a", gpus=4).job("j", gpus=1, types="B200")
    scenario.expect_waits("j", ReasonCode.EXCEEDS_NODE_CAPACITY, "no node has B200", "H100")


def test_empty_cluster_says_so(scenario):
    scenario.job("j").expect_waits("j", ReasonCode.EXCEEDS_NODE_CAPACITY, "0 nodes")


def test_waiting_names_the_quantity_that_would_start_it(scenario):
    scenario.node("a", cpu_milli=8_000).running("a", cpus=6).job("j", cpus=4)
    scenario.expect_waits("j", ReasonCode.WAITING_FOR_RESOURCES, "lacks free CPUs", "--cpus 2")


def test_avoided_node_is_not_used(scenario):
    scenario.node("a").node("b").job("j", avoid_nodes=("node_a",)).expect("j", on="b")
