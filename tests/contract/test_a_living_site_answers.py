"""What a daemon says of what lives: readings, rented machines, nodes in trouble, budgets given more.

Why     `test_answers_as_they_were` asks of a site at rest. What only comes while agents speak, machines are
        rented and people decide is one more condition of each answer. What is answered stands in
        tests/golden/answers_live.txt; a change of it is one that people see. Written anew by
        `BURSAR_GOLDEN=write pytest tests/contract/test_a_living_site_answers.py`, and read before it is kept.
"""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from google.protobuf import text_format
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from inhabited import POLICIES, begin, end, failed, inhabit, tell_readings
from rented_site import CLOUD, POOL, Inline, Runs
from whole_site import METHODS, Site, play

from bursar.clock import DAY_US, SECOND_US
from bursar.resources import GpuRequest, ResourceRequest
from bursar.v1 import events_pb2, money_pb2
from bursar_policies.document import parse_documents
from bursard.events import NodeScheduling
from bursard.machines.local import LocalProvider
from bursard.machines.localfile import parse_cloud
from bursard.state.decide import policies

GOLDEN = Path(__file__).parents[1] / "golden/answers_live.txt"
CALLERS = {
    "admin": ("ann", "admin", ""),
    "viewer": ("vic", "viewer", "nlp/a"),
    "submitter": ("bob", "submitter", "nlp"),
}
SECRET = re.compile(r'\b(token|secret|hash): "[^"]*"|\b(id): "[0-9a-f]{12}"|/tmp/[^/"]*')
TIMED = ("commits", "rows")
"""Beside what ends in `_us`, counters that say how quick the machine is."""
SPEC = (
    'project: "nlp" nodes: 1 options { cpu_milli: 1000 } time_limit_us: 3600000000'
    ' command: "true" priority: 50'
)
NINE = "SPEC array { ranges { stop: 9 step: 1 } }"
LIVE = """\
kind: Budget
name: asked
spec:
  scope: {project: cv}
  limit: 0.02 USD
  period: month
  thresholds: [{at: 1%, do: [approval]}]
---
kind: PlacementPolicy
name: nlp
spec: {strategy: spread}
"""


def spec(word: re.Match[str]) -> str:
    """`SPEC`, or `ON_` and a type of GPU."""
    one = f'options {{ gpus {{ count: 1 types: "{word[1]}" milli: 1000 }}'
    return SPEC.replace("options {", one) if word[1] else SPEC


class Speaker:
    """Asks, and keeps what was said."""

    def __init__(self, site: Site) -> None:
        self.site, self.lines = site, list[str]()

    async def ask(self, who: str, *questions: str) -> None:
        for question in questions:
            method, _, words = question.partition(" ")
            request = GetMessageClass(METHODS[method].input_type)()
            text_format.Merge(re.sub(r"ON_(\w+)|SPEC", spec, words.replace("NINE", NINE)), request)
            verdict, answers = await self.site.ask(method, request, token=self.site.token(*CALLERS[who]))
            said = [shown(each) for each in answers]
            self.lines.append(
                "\n".join([f"--- {who}: {question}", f"{verdict[0]} {verdict[1]}".strip(), *said])
            )


def shown(answer: Message) -> str:
    if isinstance(answer, events_pb2.ServerResponse):
        for field in ("pid", "state_dir", "version"):
            answer.ClearField(field)  # type: ignore[arg-type]
        for key in [key for key in answer.counters if key.endswith("_us") or key in TIMED]:
            del answer.counters[key]
    return SECRET.sub(r"\1\2...", text_format.MessageToString(answer, as_one_line=True))


async def readings(site: Site, speaker: Speaker) -> None:
    """Agents tell of their devices and of what runs on them."""
    tell_readings(site)
    asked = ('Jobs.Get job: "running"', 'Jobs.Get job: "half"', 'Nodes.Get node: "g1"', "Nodes.Top")
    await speaker.ask("admin", *asked)
    await speaker.ask("viewer", *asked)
    site.telemetry.drop("g1")
    await speaker.ask("admin", 'Nodes.Get node: "g1"')


async def machines(site: Site, speaker: Speaker) -> None:
    """What fits nowhere gets a machine; people look at it and end it."""
    await speaker.ask("admin", "Nodes.CheckClouds", 'Nodes.EndMachine machine: "nope"')
    folder = Path(site.address.removeprefix("unix:")).parent
    provider = LocalProvider(
        parse_cloud(CLOUD, "cloud.yaml"), folder / "machines.json", Runs(), site.clock.now
    )
    rents = Inline(site.engine, [provider], "unix:///s", lambda: site.cycle.last, lambda node_id: False)
    site.cycle.rents = rents
    pool = parse_documents(POOL, "pool.yaml")
    site.engine.commit(policies.apply_documents(site.engine.state, pool, site.engine.now()), "ann")
    small = (ResourceRequest(GpuRequest(1, ("L4",)), 1_000, 1 << 30),)
    many = (ResourceRequest(GpuRequest(8, ("L4",)), 1_000, 1 << 30),)
    site.job("ann", "nlp", name="fits", options=small)
    site.job("ann", "nlp", name="never", options=many)
    site.job("ann", "nlp", name="cheap", options=small, max_price_nanos_per_hour=1_000_000, currency="USD")
    site.job("ann", "nlp", name="two", options=small, nodes=2)

    async def seconds(count: int) -> None:
        for _ in range(count):
            site.clock.advance(SECOND_US)
            site.cycle.once()
            await rents.look()

    await seconds(1)
    whys = [f'Jobs.Explain job: "{name}"' for name in ("fits", "never", "cheap", "two")]
    await speaker.ask("admin", *whys)
    await speaker.ask(
        "admin",
        "Jobs.Plan spec { ON_L4 }",
        'Jobs.Plan spec { ON_L4 max_price_nanos_per_hour: 1000 currency: "USD" }',
        "Jobs.Plan spec { ON_L4 nodes: 3 }",
        "Jobs.Plan spec { ON_L4 array { ranges { stop: 9 step: 1 } } }",
        'Jobs.Plan spec { ON_L4 spot_policy: "spot" }',
        "Nodes.CheckClouds",
    )
    await seconds(4)
    asked = ("Nodes.Machines", 'Jobs.Explain job: "fits"')
    await speaker.ask("admin", *asked)
    await speaker.ask("viewer", "Nodes.Machines")
    await seconds(30)
    await speaker.ask("admin", *asked)
    name = next(iter(site.engine.state.machines.values())).name
    ending = f'Nodes.EndMachine machine: "{name}" reason: "too dear"'
    await speaker.ask("submitter", ending)
    await speaker.ask("admin", ending, ending, *asked)
    await seconds(30)
    await speaker.ask("admin", *asked, 'Events.List kinds: "machine-gone"')


async def trouble(site: Site, speaker: Speaker) -> None:
    """Nodes that take no work, each for a reason of its own."""
    state = site.engine.state
    for name, mode, why in (
        ("g1", "quarantine", "it lied of job 3"),
        ("g2", "cordon", "looks odd"),
        ("n1", "drain", ""),
    ):
        node = state.node_by_name(name)
        assert node is not None
        site.engine.commit([NodeScheduling(node.id, mode, why)], "bursard")
    cycle = site.cycle
    cycle.once()
    asked = ('Jobs.Explain job: "busy"', 'Jobs.Explain job: "wide"', "Nodes.List", "Events.Doctor")
    await speaker.ask("admin", *asked)
    await speaker.ask("viewer", "Nodes.List")
    await speaker.ask("admin", "Events.Server census: true")
    await speaker.ask("submitter", "Events.Server census: true")
    await speaker.ask(
        "admin", 'Nodes.Drain node: "g1" stop: true reason: "it burns"', 'Jobs.Get job: "running"'
    )


async def given(site: Site, speaker: Speaker) -> None:
    """A budget that waits for an approval, gets it, and gets more; and the same over months."""
    job = site.job("ann", "cv", name="asks")
    end(site, begin(site, job), failed(0))
    waiting = site.job("ann", "cv", name="waits")
    assert waiting
    site.cycle.once()
    five = 'amount { nanos: "5000000000" } currency: "USD" reason: "r" key: "k"'
    approved = f'Money.ApproveBudget budget: "asked" {five}'
    await speaker.ask(
        "admin",
        'Jobs.Explain job: "waits"',
        'Money.Budgets name: "asked"',
        'Money.ApproveBudget budget: "asked" amount { nanos: "0" } currency: "USD" reason: "r"',
        'Money.ApproveBudget budget: "asked" amount { nanos: "5" } currency: "EUR" reason: "r"',
        'Money.ApproveBudget budget: "asked" amount { nanos: "5000000000" } currency: "USD"',
        'Money.ApproveBudget budget: "nope" reason: "r"',
        'Money.ApproveBudget budget: "soft" reason: "r"',
        'Money.ApproveBudget budget: "asked" until: 5 reason: "r"',
        approved,
        approved,
    )
    site.cycle.once()
    await speaker.ask("admin", 'Jobs.Get job: "waits"', 'Money.Budgets name: "asked"')
    await speaker.ask(
        "admin",
        'Money.ApproveBudget budget: "asked" reason: "all"',
        'Money.GrantBudget budget: "asked" amount { nanos: "7000000000" } currency: "USD" reason: "r"',
        'Money.Budgets name: "asked" history: true',
    )
    site.clock.advance(35 * DAY_US)
    await speaker.ask(
        "admin",
        'Money.GrantBudget budget: "asked" amount { nanos: "7000000000" } currency: "USD" reason: "r"',
        'Money.Budgets name: "asked" history: true',
        'Money.Budgets name: "nope" history: true',
        "Money.Budgets history: true",
        "Money.Budgets",
        "Money.Periods",
        'Money.Cost by: "project" compare: "previous" period: "2026-12"',
        'Money.Cost by: "project" compare: "previous" since: 1793494800000000 until: 1796000000000000',
        'Money.Cost by: "project" compare: "previous" since: 5',
    )


async def refusals(site: Site, speaker: Speaker) -> None:
    """What is refused, or told of past runs, and of which no other test asks."""
    await speaker.ask(
        "admin",
        'Access.SetSecret name: "S" project: "nlp" value: "\\377"',
        'Money.Correct job: "code" amount { nanos: "-1" } currency: "USD" reason: "r"',
        'Money.Correct job: "array" to_ppm: 500000 reason: "r" dry_run: true',
        'Money.ClosePeriod period: "2026-11-05"',
        'Money.ClosePeriod period: "2026-11-32"',
        'Money.Periods period: "2026-11-05"',
        'Money.Report kind: "utilization" period: "2026-11" project: "nlp"',
        'Money.Report kind: "utilization" period: "2026-11" format: "json"',
        'Money.Report kind: "models" period: "2026-11" format: "json"',
        'Money.Report kind: "waste" period: "2026-11" format: "json" project: "nlp"',
        'Money.Report kind: "statement" period: "2026" format: "json"',
        'Money.Report kind: "statement" period: "2026-11" timezone: "Asia/Kolkata"',
        'Money.Report kind: "focus" period: "2026-11" format: "csv" focus_version: "1.0"',
        'Money.Report kind: "focus" period: "2026-11" sources { name: "f" text: "" }',
        'Money.Report kind: "whatif" period: "2026-11" by: "job"',
        'Money.Report kind: "whatif" period: "2026-11" by: "pool" sources { name: "f" text: "x: [" }',
        'Policies.Get name: "nlp"',
        'Policies.Delete name: "nlp"',
        'Policies.Delete name: "nlp" kind: "PlacementPolicy"',
        "Policies.Apply",
        'Policies.Check sources { name: "f" text: "kind: Budget\\nname: b\\nspec: {limit: 5 USD}" }',
        "Jobs.Cancel",
        "Jobs.Submit spec { ON_H1000 }",
        "Jobs.Submit spec { ON_H100x4 }",
        "Jobs.Submit spec { ON_Q }",
        'Jobs.Plan spec { SPEC name: "done" }',
        'Jobs.Plan spec { SPEC name: "code" project: "nlp/a" }',
        'Jobs.Plan spec { NINE max_cost_nanos: 5000000 currency: "USD" max_cost_per: "job" }',
        'Jobs.Plan spec { NINE max_cost_nanos: 50000000 currency: "USD" max_cost_per: "job" }',
        "Jobs.Plan spec { SPEC begin_after: 1799000000000000 }",
        'Jobs.Plan spec { SPEC depends_on { job: "held" when: "succeeded" } }',
        'Jobs.Plan spec { SPEC depends_on { job: "code" when: "succeeded" } }',
        'Jobs.Submit spec { SPEC depends_on { job: "code" when: "succeeded" } }',
        'Jobs.Watch jobs: "done" jobs: "code" until_terminal: true',
        "Jobs.Watch until_terminal: true",
        'Jobs.SubmitMany spec { SPEC name: "one" } idempotency_key: "m1"',
        'Jobs.SubmitMany spec { SPEC name: "two words" }',
        "Jobs.SubmitBatches jobs { spec { SPEC } } jobs { spec { } } jobs { spec { SPEC } terse: true }",
        'Jobs.Get job: ""',
        'Jobs.Get job: "last"',
        'Jobs.Get job: "array[99]"',
        'Jobs.Get job: "done[0]"',
        'Jobs.Get job: "same"',
        'Events.List tail: 3 kinds: "attempt-ended"',
        'Events.List tail: 2 kinds: "attempt-placed" after_seq: 40',
        "Nodes.RevokeTokens",
        'Nodes.Drain node: "g2" reason: "a\\nb"',
        'Jobs.Logs job: "running" tail_bytes: 99999999999',
        'Jobs.Logs job: "running" tail_lines: 4000000000',
        'Nodes.Remove node: "cloud"',
    )
    await speaker.ask("viewer", 'Jobs.Get job: "last"', "Events.List tail: 3", 'Jobs.List states: "all"')


STORIES: list[Callable[[Site, Speaker], Awaitable[None]]] = [readings, machines, trouble, given, refusals]


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_a_living_site_answers_as_it_did(story: Callable[[Site, Speaker], Awaitable[None]]) -> None:
    found: list[str] = []

    async def played(site: Site) -> None:
        text = f"{POLICIES}---\n{LIVE}"
        request = money_pb2.ApplyRequest(sources=[money_pb2.PolicySource(name="all.yaml", text=text)])
        assert await site.call("Policies.Apply", request, token=site.token(*CALLERS["admin"])) == ("OK", "")
        inhabit(site)
        speaker = Speaker(site)
        await story(site, speaker)
        found.extend(speaker.lines)

    play(played)
    name = story.__name__
    if os.environ.get("BURSAR_GOLDEN") == "write":
        kept = sections() | {name: found}
        text = "".join(f"=== {each}\n" + "".join(f"{line}\n" for line in kept[each]) for each in sorted(kept))
        GOLDEN.write_text(text)
    assert "\n".join(found) == "\n".join(sections()[name]), "see the head of this file"


def sections() -> dict[str, list[str]]:
    parts = re.split(r"^=== (.*)\n", GOLDEN.read_text() if GOLDEN.exists() else "", flags=re.MULTILINE)
    return dict(zip(parts[1::2], (part.splitlines() for part in parts[2::2]), strict=True))
