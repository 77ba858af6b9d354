"""A text that one caller writes stands in the answers, the log and the terminals of others: it is one line of
a bounded length. That the door asks it of every field, `test_rpc_bounds.py` tries.
"""

from __future__ import annotations

from typing import Any

import pytest
from whole_site import Site, play

from bursar.codec.bounds import TEXT_MAX, check_texts
from bursar.errors import InvalidRequest
from bursar.v1 import jobs_pb2, money_pb2, nodes_pb2, types_pb2
from bursard.events import NodeScheduling, decode
from bursard.state.decide.why import REASON_MAX, read_reason
from bursard.store import EventFilter


def test_a_text_is_as_long_as_a_path_and_not_longer() -> None:
    check_texts(jobs_pb2.GetJobRequest(job="a" * TEXT_MAX))
    with pytest.raises(InvalidRequest, match=r"^job: 4097 characters; at most 4096$") as caught:
        check_texts(jobs_pb2.GetJobRequest(job="a" * (TEXT_MAX + 1)))
    assert caught.value.facts == {"field": "job"}
    with pytest.raises(
        InvalidRequest, match=r"^sources\.name: 'a\\x1bb' holds a line break or control"
    ) as caught:
        check_texts(money_pb2.ApplyRequest(sources=[money_pb2.PolicySource(name="a\x1bb", text="\x1b")]))
    assert caught.value.facts == {"field": "sources.name"}
    for labels in ({"k": "a\n"}, {"a\n": "v"}):
        with pytest.raises(InvalidRequest, match=r"^labels: 'a\\n' holds"):
            check_texts(jobs_pb2.ListJobsRequest(labels=labels))
    with pytest.raises(InvalidRequest, match=r"^states: "):
        check_texts(jobs_pb2.ListJobsRequest(states=["all", "a\n"]))
    check_texts(jobs_pb2.SubmitRequest(spec=types_pb2.JobSpec(script="a\n"), idempotency_key="\n"))


@pytest.mark.parametrize("method", ["Nodes.Cordon", "Nodes.Drain"])
def test_why_a_node_takes_no_work_is_a_line_of_at_most_500_printable_characters(method: str) -> None:
    async def story(site: Site) -> None:
        token = site.token("oz", "operator")
        kind = nodes_pb2.NodeModeRequest if method == "Nodes.Cordon" else nodes_pb2.DrainRequest

        async def said(reason: str) -> tuple[tuple[str, str], list[Any]]:
            return await site.ask(method, kind(node="n1", reason=reason), token=token)

        assert (await said("x" * 501))[0] == (
            "INVALID_ARGUMENT",
            "reason: 501 characters; at most 500 are kept",
        )
        refused = ("INVALID_ARGUMENT", "reason: 'a\\u202eb' holds a character that cannot be printed")
        assert (await said("a\u202eb"))[0] == refused
        assert site.engine.state.node_by_name("n1").mode == "open"  # type: ignore[union-attr]
        assert (await said("  rack   3 is hot ü💸 "))[1][0].reason == "rack 3 is hot ü💸"
        assert (await said("x" * 500))[1][0].reason == "x" * 500

    play(story)


def test_why_a_node_takes_work_again_is_kept_with_the_event_and_is_no_reason_against_it() -> None:
    async def story(site: Site) -> None:
        token, node = site.token("oz", "operator"), site.engine.state.node_by_name("n1")
        assert node is not None
        cordon = nodes_pb2.NodeModeRequest(node="n1", reason="a fan")
        await site.ask("Nodes.Cordon", cordon, token=token)
        long = nodes_pb2.NodeModeRequest(node="n1", reason="x" * 501)
        assert (await site.ask("Nodes.Resume", long, token=token))[0][0] == "INVALID_ARGUMENT"
        assert node.mode == "cordon"
        again = nodes_pb2.NodeModeRequest(node="n1", reason="  fan   replaced")
        _, (told,) = await site.ask("Nodes.Resume", again, token=token)
        assert (told.state, told.reason, node.mode, node.reason) == ("up", "", "open", "")
        kept = site.engine.views.events(0, 1000, EventFilter(kinds=("node-scheduling",)))
        assert decode(kept[-1].payload) == NodeScheduling(node.id, "open", "fan replaced")

    play(story)


@pytest.mark.parametrize(
    ("name", "told"),
    [("", "document"), ("a.yaml", "a.yaml"), ("d" * 113 + "/a.yaml", "d" * 113 + "/a.yaml"),
     ("d" * 4000 + "/a.yaml", "…" + "d" * 112 + "/a.yaml")],
)  # fmt: skip
def test_a_fault_names_a_file_of_a_long_path_by_its_end(name: str, told: str) -> None:
    async def story(site: Site) -> None:
        request = money_pb2.ApplyRequest(sources=[money_pb2.PolicySource(name=name, text=" ")])
        (_, said), _ = await site.ask("Policies.Apply", request, token=site.token("root", "admin"))
        assert said == f"{told}:1:1: holds no document; a policy has kind, name and spec"

    play(story)


def test_a_reason_of_an_older_log_is_shown_as_far_as_one_may_be_long() -> None:
    async def story(site: Site) -> None:
        node = site.engine.state.node_by_name("n1")
        assert node is not None
        token = site.token("oz", "operator")
        job = site.job("ann", "nlp")
        for length, shown in ((REASON_MAX, "y" * 500), (REASON_MAX + 1, "y" * 499 + "…")):
            site.engine.commit([NodeScheduling(node.id, "cordon", "y" * length)], "oz")
            _, (told,) = await site.ask("Nodes.Get", nodes_pb2.NodeRequest(node="n1"), token=token)
            assert told.reason == shown
            _, (why,) = await site.ask("Jobs.Explain", jobs_pb2.ExplainRequest(job=job), token=token)
            assert why.nodes[0].why_not == f"cordoned ({shown}); `bursar node resume n1` takes it back"

    play(story)


def test_a_reason_is_read_as_one_line() -> None:
    assert read_reason("") == read_reason(" \n") == ""
    assert read_reason(" a\t b\n") == "a b"
    assert read_reason("x" * 7, 7) == "x" * 7
    with pytest.raises(InvalidRequest, match=r"^reason: 8 characters; at most 7 are kept$") as caught:
        read_reason("x" * 8, 7)
    assert caught.value.facts == {"field": "reason"}
    with pytest.raises(
        InvalidRequest, match=r"^reason: .* holds a character that cannot be printed"
    ) as caught:
        read_reason("a\x1b[2J")
    assert caught.value.facts == {"field": "reason"}
