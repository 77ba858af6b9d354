"""What follows from taking a policy out of force is said with the answer, and the way back with it."""

from __future__ import annotations

from typing import Any

import pytest
from whole_site import Site, play

from bursar.v1 import money_pb2
from bursar_policies.document import parse_documents
from bursard.services.policies import Applied, PoliciesService
from bursard.state.decide import policies

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


PLACING = "kind: PlacementPolicy\nname: fill\nspec: {strategy: pack}\n"


@pytest.mark.parametrize(
    ("kind", "first", "second"),
    [
        ("Budget", BUDGET, BUDGET.replace("5 USD", "7 USD")),
        ("CostModel", MODEL, MODEL.replace("5y", "4y")),
        ("PlacementPolicy", PLACING, PLACING.replace("pack", "spread")),
    ],
)
def test_a_document_that_comes_back_counts_on_so_that_each_version_names_one_text(
    kind: str, first: str, second: str
) -> None:
    async def story(site: Site) -> None:
        name = first.split("name: ")[1].split("\n")[0]
        texts = [first, second, first]
        for version, text in enumerate(texts, 1):
            [found] = (await apply(site, text)).policies
            assert (found.version, found.change) == (version, "created")
            await remove(site, kind, name)
        sources = [money_pb2.PolicySource(name="a.yaml", text=second)]
        [checked] = (await asked(site, "Policies.Check", money_pb2.ApplyRequest(sources=sources))).policies
        assert checked.version == 4
        for version, text in enumerate(texts, 1):
            request = money_pb2.PolicyRequest(kind=kind, name=name, version=version)
            assert (await asked(site, "Policies.Get", request)).text == text

    play(story)


def test_a_document_that_came_and_went_while_another_was_read_is_counted() -> None:
    async def story(site: Site) -> None:
        service = PoliciesService(site.engine)
        real, visits = service._history, 0

        async def history() -> list[Applied]:
            nonlocal visits
            visits += 1
            found = await real()
            if visits == 1:  # after what is read here
                [document] = parse_documents(BUDGET, "b")
                site.engine.commit(policies.apply_documents(site.engine.state, [document], 1), "ann")
                site.engine.commit(policies.remove(site.engine.state, "Budget", "nlp"), "ann")
            return found

        service._history = history  # type: ignore[method-assign]
        _, used = await service._read_for(parse_documents(BUDGET, "b"))
        assert used == {("Budget", "nlp"): 1}

    play(story)


async def noted(site: Site, method: str, scope: str) -> list[list[str]]:
    """The notes of a model and of a budget of that scope, when both are applied or checked."""
    text = MODEL + "---\n" + BUDGET.replace("{project: nlp}", scope)
    sources = [money_pb2.PolicySource(name="a.yaml", text=text)]
    answer = await asked(site, f"Policies.{method}", money_pb2.ApplyRequest(sources=sources))
    found = {wire.kind: list(wire.notes) for wire in answer.policies}
    return [found["CostModel"], found["Budget"]]


@pytest.mark.parametrize("scope", ["{experiment: e1}", "{model: m}", "{label: team=vision}"])
def test_a_budget_that_goes_by_what_anybody_may_write_says_who_spends_it(scope: str) -> None:
    async def story(site: Site) -> None:
        for method in ("Check", "Apply", "Apply"):
            others, [note] = await noted(site, method, scope)
            assert others == []
            assert (
                "names no project and no user: jobs of anybody, in any project, that say so spend it" in note
            )

    play(story)


@pytest.mark.parametrize("scope", ["{project: nlp}", "{user: ann}", "{project: nlp, experiment: e1}"])
def test_a_budget_of_a_project_or_a_user_says_nothing_of_anybody(scope: str) -> None:
    async def story(site: Site) -> None:
        for method in ("Check", "Apply"):
            assert await noted(site, method, scope) == [[], []]

    play(story)


def test_a_foreign_project_does_not_spend_a_budget_of_a_project_and_an_experiment() -> None:
    scope = parse_documents(BUDGET.replace("nlp}", "nlp, experiment: e1}"), "a.yaml")[0].spec.scope  # type: ignore[union-attr]
    assert scope.covers("nlp/ft", "ann", "e1", "", {})
    assert not scope.covers("vision", "bob", "e1", "", {})
