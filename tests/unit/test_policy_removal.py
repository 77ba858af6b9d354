"""What follows from taking a policy out of force is said with the answer, and the way back with it."""

from __future__ import annotations

from typing import Any

from whole_site import Site, play

from bursar.v1 import money_pb2

MODEL = """\
kind: CostModel
name: rack
spec: {pool: p, node_capex: 100000 USD, useful_life: 5y}
"""
BUDGET = """\
kind: Budget
name: nlp
spec: {scope: {project: nlp}, limit: 5 USD, period: month}
"""
BACK = "`bursar policy show {0} --version 1 | bursar policy apply -` brings it back"


async def asked(site: Site, method: str, request: Any) -> Any:
    (status, details), answers = await site.ask(method, request, token=site.token("oz", "admin"))
    assert status == "OK", details
    return answers[0]


async def apply(site: Site, text: str) -> Any:
    sources = [money_pb2.PolicySource(name="a.yaml", text=text)]
    return await asked(site, "Policies.Apply", money_pb2.ApplyRequest(sources=sources))


async def remove(site: Site, kind: str, name: str) -> list[str]:
    request = money_pb2.PolicyRequest(kind=kind, name=name)
    return list((await asked(site, "Policies.Delete", request)).notes)


def test_nodes_that_lose_their_price_are_counted_and_the_named_command_brings_it_back() -> None:
    async def story(site: Site) -> None:
        site.node("n2")
        assert list((await apply(site, MODEL)).policies[0].notes) == []
        lost, back = await remove(site, "CostModel", "rack")
        assert lost.startswith("2 nodes have no price from now on: ")
        assert back == BACK.format("CostModel/rack")
        request = money_pb2.PolicyRequest(kind="CostModel", name="rack", version=1)
        found = await asked(site, "Policies.Get", request)
        assert list((await apply(site, found.text)).policies[0].notes) == []
        assert all(node.price_id for node in site.engine.state.nodes.values())

    play(story)


def test_a_change_that_leaves_a_node_without_a_price_says_so_too() -> None:
    async def story(site: Site) -> None:
        await apply(site, MODEL)
        [note] = (await apply(site, MODEL.replace("pool: p", "pool: q"))).policies[0].notes
        assert note.startswith("1 node has no price from now on: ")

    play(story)


def test_of_a_budget_it_is_said_that_nothing_limits_any_more() -> None:
    async def story(site: Site) -> None:
        await apply(site, BUDGET)
        said = "what it covered is spent without this limit from now on"
        assert await remove(site, "Budget", "nlp") == [said, BACK.format("Budget/nlp")]

    play(story)
