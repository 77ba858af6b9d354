"""What a daemon with something of everything answers to everybody: each method, each filter, each wrong word.

Why     most lines of an answer are one case of a condition, and most refusals are one comparison: more than
        tests name one by one. What is answered stands in tests/golden/answers.txt; a change of it is one that
        people see. Written anew by `BURSAR_GOLDEN=write pytest tests/contract/test_answers_as_they_were.py`,
        and read before it is kept.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from whole_site import METHODS, Site, play

from bursar.clock import HOUR_US, SECOND_US
from bursar.model import ArraySpec, Dependency, Device, EndCause, NodeFacts, RetrySpec
from bursar.resources import GpuRequest, ResourceRequest
from bursar.v1 import money_pb2
from bursard.events import ExitReport
from bursard.services import ends, failures
from bursard.state.decide import attempts, nodes

GOLDEN = Path(__file__).parents[1] / "golden/answers.txt"
QUESTIONS = Path(__file__).parents[1] / "fixtures/questions.txt"
"""A method and its request on each line, in their order: what only reads, and what changes something."""
POLICIES = """\
kind: CostModel
name: own
spec: {pool: p, node_capex: 100003 USD, useful_life: 5y}
---
kind: Budget
name: nlp
spec: {scope: {project: nlp}, limit: 900 USD, period: month, thresholds: [{at: 1%, do: [notify]}]}
---
kind: Budget
name: small
spec: {scope: {project: cv}, limit: 1 USD, period: one-time}
---
kind: Budget
name: soft
spec: {scope: {user: ann}, limit: 50 USD, enforcement: soft, carry_over: 20%}
---
kind: PriceBook
name: book
spec:
  source: a page
  currency: USD
  defaults: {provider: aws, region: r1, market: on-demand, valid_from: 2026-01-01}
  prices:
    - {instance_type: i1, price: 4 USD/h, cpus: 8, memory: 64GiB, gpus: "H100:2", gpu_memory: 80GB}
    - {instance_type: i1, price: 1 USD/h, market: spot}
    - {instance_type: i2, price: 2 USD/h, region: r2, cpus: 4, memory: 8GiB}
---
kind: SlurmNames
name: names
spec: {partitions: {gpu: {constraints: {pool: p}}}, accounts: {a1: {project: nlp}, a2: {project: hidden}}}
"""
LONG = 1_500
RANDOM = re.compile(r'\b(token|secret|hash): "[^"]*"|\b(id): "[0-9a-f]{12}"')
ONE_GPU = (ResourceRequest(GpuRequest(1), 1_000, 1 << 30),)


def add_node(site: Site, name: str, gpus: int = 0, **facts: Any) -> None:
    devices = tuple(Device(at, f"{name}-{at}", "H100", 80 << 30, simulated=True) for at in range(gpus))
    known: dict[str, Any] = {"cpu_milli": 8_000, "memory_bytes": 64 << 30, "pool": "p"} | facts
    has = NodeFacts(name=name, devices=devices, **known)
    said = nodes.hello(
        site.engine.state, site.engine.ids, site.engine.prices, facts=has,
        boot_id="b", boot_us=site.clock.boot_us(), now=site.engine.now(),
    )  # fmt: skip
    site.engine.commit(said, f"node:{name}")


def begin(site: Site, job_id: str) -> Any:
    state, attempt = site.engine.state, site.place(job_id)
    for member in attempt.members:
        node = state.nodes[member.alloc.node_id]
        told = attempts.started(state, node, attempt.id, member.alloc.rank, site.clock.boot_us(), 1)
        site.engine.commit(told, f"node:{node.facts.name}")
    return attempt


def end(site: Site, attempt: Any, *reports: ExitReport) -> None:
    state, began = site.engine.state, site.clock.boot_us()
    site.clock.advance(60 * SECOND_US)
    for member, report in zip(list(attempt.members), reports, strict=True):
        node = state.nodes[member.alloc.node_id]
        told = attempts.exited(state, node, attempt.id, member.alloc.rank, report, began)
        site.engine.commit(told, f"node:{node.facts.name}")


def failed(
    code: int = -1, signal: int = 0, cause: EndCause = EndCause.FAILED, message: str = ""
) -> ExitReport:
    return ExitReport(
        cause=cause, exit_code=code, signal=signal, held_us=60 * SECOND_US, message=message, cpu_us=5_000_000,
        max_rss_bytes=123_456_789, log_bytes=77,
    )  # fmt: skip


def inhabit(site: Site) -> None:
    """Nodes of several kinds, and jobs in every state and of every end."""
    add_node(site, "g1", 4, rack="r1", zone="z1", labels=(("tier", "gold"),))
    add_node(site, "g2", 4, rack="r1", zone="z2")
    add_node(site, "cloud", provider="aws", region="r1", instance_type="i1", market="spot", pool="c")
    add_node(site, "dear", provider="aws", region="r9", instance_type="none", pool="d")
    done = site.job("ann", "nlp", name="done", experiment="e", model="m", labels=(("k", "v"),))
    end(site, begin(site, done), failed(0, cause=EndCause.COMPLETED))
    for name, report in (
        ("code", failed(3)), ("signal", failed(signal=9)), ("memory", failed(cause=EndCause.OUT_OF_MEMORY)),
        ("program", failed(127, message="prog: not found")), ("time", failed(cause=EndCause.TIME_LIMIT)),
        ("nostart", failed(cause=EndCause.START_FAILED, message="no such directory /x")),
        ("lost", failed(cause=EndCause.NODE_LOST)),
    ):  # fmt: skip
        end(site, begin(site, site.job("bob", "nlp/a", name=name)), report)
    gang = begin(site, site.job("ann", "nlp", name="gang", nodes=2, options=ONE_GPU))
    end(site, gang, failed(0, cause=EndCause.COMPLETED), failed(2))
    array = site.job("ann", "nlp", name="array", array=ArraySpec(((0, 6, 1),), 6))
    fine, missing = failed(0, cause=EndCause.COMPLETED), failed(127, message="x: not found")
    for index, report in enumerate((failed(3), failed(3), failed(signal=9), fine, missing, failed(3))):
        end(site, begin(site, f"{array}.{index}"), report)
    begin(
        site,
        site.job(
            "ann", "nlp", name="running", nodes=2, options=(ResourceRequest(GpuRequest(2), 2_000, 1 << 33),)
        ),
    )
    begin(
        site,
        site.job(
            "bob", "ops", name="half", options=(ResourceRequest(GpuRequest(1, milli=500), 1_000, 1 << 30),)
        ),
    )
    site.job("ann", "nlp", name="again", retry=RetrySpec(on=("failed",), max=2))
    site.job("ann", "nlp", name="large", nodes=9)
    site.job("ann", "nlp", name="wide", options=(ResourceRequest(GpuRequest(8), 1_000, 1 << 30),))
    site.job("ann", "nlp", name="type", options=(ResourceRequest(GpuRequest(1, ("A100",)), 1_000, 1 << 30),))
    site.job("ann", "nlp", name="fast", options=(ResourceRequest(None, 900_000, 1 << 30),))
    site.job("ann", "nlp", name="fat", options=(ResourceRequest(None, 1_000, 1 << 50),))
    site.job("ann", "nlp", name="busy", options=(ResourceRequest(GpuRequest(4), 1_000, 1 << 30),))
    site.job("ann", "nlp", name="odd", constraints=(("zone", "zz"),))
    site.job("ann", "nlp", name="later", begin_after=site.engine.now() + HOUR_US)
    site.job("ann", "nlp", name="held", held=True)
    site.job(
        "ann", "nlp", name="after", depends_on=(Dependency(site.job("ann", "nlp", name="first", held=True)),)
    )
    site.job("ann", "nlp", name="many", array=ArraySpec(((0, 500, 1),), 2))
    site.job("cid", "hidden", name="secret", options=ONE_GPU)


SPEC = (
    'project: "nlp" nodes: 1 options { cpu_milli: 1000 } time_limit_us: 3600000000'
    ' command: "true" priority: 50'
)
CALLERS = {
    "admin": ("ann", "admin", ""),
    "viewer": ("vic", "viewer", "nlp/a"),
    "submitter": ("bob", "submitter", "nlp"),
}
CONVERSATIONS = [
    ("admin", "reads"), ("viewer", "reads"), ("submitter", "reads"),
    ("admin", "writes"), ("submitter", "writes"),
]  # fmt: skip


def questions(kind: str) -> list[str]:
    return QUESTIONS.read_text().partition(f"=== {kind}\n")[2].partition("===")[0].splitlines()


def told(verdict: tuple[str, str], answers: list[Message], whole: bool) -> str:
    """What an administrator is answered; of what is long, and of the same to others, its length."""
    said = [text_format.MessageToString(each, as_one_line=True) for each in answers[:40]]
    said = [RANDOM.sub(r"\1\2: ...", text) for text in said]
    shown = [text if len(text) < LONG else text[:LONG] for text in said] if whole else [""] * len(said)
    lines = [
        each if each == text else f"{each} {len(text)} characters"
        for each, text in zip(shown, said, strict=True)
    ]
    return "\n".join([f"{verdict[0]} {verdict[1]}".strip(), *lines]) + "\n"


async def conversation(site: Site, who: str, kind: str) -> list[str]:
    token, found = site.token(*CALLERS[who]), []
    for question in questions(kind):
        method, _, words = question.partition(" ")
        request = GetMessageClass(METHODS[method].input_type)()
        text_format.Merge(words.replace("SPEC", SPEC), request)
        verdict, answers = await site.ask(method, request, token=token)
        found.append(f"--- {question}\n{told(verdict, answers, who == 'admin')}")
    return found


def sections() -> dict[str, str]:
    parts = re.split(r"^=== (.*)\n", GOLDEN.read_text() if GOLDEN.exists() else "", flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize(("who", "kind"), CONVERSATIONS)
def test_a_daemon_answers_as_it_did(who: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for room in (ends, failures):
        monkeypatch.setattr(room, "TASKS_SHOWN", 4)
    said: list[str] = []

    async def story(site: Site) -> None:
        request = money_pb2.ApplyRequest(sources=[money_pb2.PolicySource(name="all.yaml", text=POLICIES)])
        assert await site.call("Policies.Apply", request, token=site.token(*CALLERS["admin"])) == ("OK", "")
        inhabit(site)
        said.extend(await conversation(site, who, kind))

    play(story)
    name, found = f"{who} {kind}", "".join(said)
    if os.environ.get("BURSAR_GOLDEN") == "write":
        kept = sections() | {name: found}
        GOLDEN.write_text("".join(f"=== {each}\n{kept[each]}" for each in sorted(kept)))
    assert found == sections()[name], "see the head of this file"
