"""Nothing is answered before it is on disk: whatever a call made true, and what it read of what others made.

Why     an answer that is early by one commit is right in every test, and wrong after a power cut.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from google.protobuf.message_factory import GetMessageClass
from inhabited import POLICIES, inhabit
from whole_site import METHODS, Site, play

from bursar.v1 import money_pb2

QUESTIONS = Path(__file__).parents[1] / "fixtures/questions.txt"
SPEC = (
    'project: "nlp" nodes: 1 options { cpu_milli: 1000 } time_limit_us: 3600000000'
    ' command: "true" priority: 50'
)
BUDGET = "{kind: Budget, name: b, spec: {limit: 5 USD, scope: {user: u}}}"
MORE = (
    f'Policies.Apply sources {{ name: "f" text: "{BUDGET}" }}',
    'Policies.Delete name: "b"',
    'Jobs.SubmitMany spec { SPEC }',
    'Jobs.SubmitBatches jobs { spec { SPEC } }',
    'Jobs.Watch jobs: "held" jobs: "done"',
    'Money.ApproveBudget budget: "nlp" reason: "r"',
    'Money.Budgets name: "nlp" history: true',
    "Nodes.Machines",
    'Events.Server census: true',
)  # fmt: skip
OF_NOW = {"Events.Server", "Jobs.Plan", "Money.Prices", "Nodes.Top"}
"""What is true now is all that they tell, whether or not it is kept."""


class Watched:
    """What one call does with the log: `commits`, and `waits` for the disk."""

    def __init__(self, site: Site) -> None:
        self.done: list[str] = []
        self.newest = 0
        engine: Any = site.engine
        durable, commit, each = engine.durable, engine.commit, engine.commit_each

        async def waits(seq: int | None = None) -> None:
            self.done.append("waits" if seq is None or seq >= self.newest else "waits for less")
            await durable(seq)

        def commits(events: Any, actor: str) -> int:
            if events:
                self.done.append("commits")
            self.newest = commit(events, actor)
            return self.newest

        def commits_each(decisions: Any, actor: str) -> int:
            self.done.append("commits")
            self.newest = each(decisions, actor)
            return self.newest

        engine.durable, engine.commit, engine.commit_each = waits, commits, commits_each


def test_nothing_is_told_before_it_is_kept() -> None:
    found: defaultdict[str, set[tuple[str, ...]]] = defaultdict(set)

    async def story(site: Site) -> None:
        token = site.token("ann", "admin")
        files = [money_pb2.PolicySource(name="all.yaml", text=POLICIES)]
        await site.call("Policies.Apply", money_pb2.ApplyRequest(sources=files), token=token)
        inhabit(site)
        watched = Watched(site)
        asked = re.sub(r"(?m)^===.*\n", "", QUESTIONS.read_text()).splitlines()
        for question in [*asked, *MORE]:
            method, _, words = question.partition(" ")
            request = GetMessageClass(METHODS[method].input_type)()
            text_format.Merge(words.replace("SPEC", SPEC), request)
            watched.done.clear()
            verdict, _ = await site.ask(method, request, token=token, answers_max=2)
            if verdict[0] == "OK":
                found[method].add(tuple(watched.done))

    play(story)
    assert {method for method, ways in found.items() if ways == {()}} == OF_NOW
    for method in found.keys() - OF_NOW:
        for way in found[method]:
            assert way[-1:] == ("waits",), f"{method} answers after it {', then '.join(way) or 'reads'}"
