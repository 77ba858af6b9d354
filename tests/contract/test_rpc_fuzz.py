"""Random calls by random people, many at once: whatever is sent, the daemon answers and goes on.

Every failure prints its seed; BURSAR_FUZZ_ROUNDS=1000 makes a night of it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from random import Random
from typing import Any

import pytest
from google.protobuf.message_factory import GetMessageClass
from whole_site import METHODS, REFUSED_WHILE_WRITING, Site, play
from wire_values import NEVER, scramble

from bursar.v1 import agents_pb2, types_pb2
from bursard.services.agents import PROTOCOL

ROUNDS = int(os.environ.get("BURSAR_FUZZ_ROUNDS", "4"))
CALLS = 150
AT_ONCE = 8
FACTS = types_pb2.NodeFacts(name="n2", cpu_milli=8_000, memory_bytes=1 << 34, pool="p", market="on-demand")
ROLES = ("viewer", "finance", "submitter", "project-admin", "operator", "admin", "auditor", "agent", "none")
AGENT: dict[str, list[Any]] = {
    "protocol": [1, 2],
    "name": ["n2"],
    "cpu_milli": [8000],
    "memory_bytes": [1 << 34],
    "boot_id": ["b"],
    "attempt_id": ["att_0000000001"],
    "instance": ["i"],
    "index": [0, 1],
    "rank": [0],
    "epoch": [0, 1],
    "type": ["H100"],
    "market": ["on-demand"],
    "address": ["127.0.0.1"],
    "pool": ["p"],
    "cause": ["failed"],
}
SPEC = {
    "priority": [50],
    "nodes": [1, 2],
    "cpu_milli": [100, 1000],
    "memory_bytes": [0, 1 << 30],
    "count": [1],
    "milli": [500, 1000],
    "project": ["nlp", "vision/deep"],
    "command": ["true"],
    "script": [""],
    "setup": [""],
    "workdir": ["/tmp"],
    "when": ["succeeded", "finished"],
    "currency": ["USD"],
    "types": ["H100"],
    "user": ["ann", "bob"],
    "role": list(ROLES),
    "page_size": [10],
    "limit": [10],
    "period": ["2026-11"],
    "by": ["project", "job", "node"],
    "kind": ["focus", "statement", "Budget", "usage"],
    "format": ["csv", "json"],
    "max_parallel": [0, 2],
    "indices": [0, 1, 2],
    "follow": [False],
    "until_terminal": [True],
}


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_no_mixture_of_calls_is_a_fault_of_the_daemon(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    random = Random(seed)
    wrong: list[str] = []

    async def story(site: Site) -> None:
        jobs = [site.job(user, project) for user in ("ann", "bob") for project in ("nlp", "vision")]
        refs = [*jobs, "1", "2", "last", f"{jobs[0]}[0]"]
        known: dict[str, list[Any]] = SPEC | {"job": refs, "jobs": refs, "node": ["n1"], "name": ["n1", "a"]}
        turn = asyncio.Semaphore(AT_ONCE)

        async def one(name: str, request: Any, token: str) -> None:
            async with turn:
                wait_s = (
                    1 if name == "Nodes.Top" else 20
                )  # the first is silent until a node has said something
                status, details = await site.call(name, request, token=token, wait_s=wait_s)
            if status in NEVER and status != "DEADLINE_EXCEEDED":
                wrong.append(f"{name}: {status} {details[:200]}\n{str(request)[:400]}")

        calls = []
        for _ in range(CALLS):
            name = random.choice([name for name in METHODS if name != "Agents.Connect"])
            request = GetMessageClass(METHODS[name].input_type)()
            scramble(request, random, known)
            token = site.token(random.choice(("ann", "bob", "eve")), random.choice(ROLES))
            calls.append(asyncio.create_task(one(name, request, token)))
        _, slow = await asyncio.wait(calls, timeout=60)
        for task in slow:
            task.cancel()  # a stream that follows, as asked
        status, details = await site.call("Jobs.Get", None, token=site.token("root", "admin"))
        if status in NEVER:
            wrong.append(f"afterwards: {status} {details}")

    play(story)
    wrong += [f"logged: {record.getMessage()} {record.exc_text or ''}"[:600] for record in caplog.records]
    assert wrong == [], f"seed {seed}"


@pytest.mark.parametrize("seed", range(ROUNDS * 5))
def test_no_stream_of_an_agent_is_a_fault_of_the_daemon(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    random = Random(1_000_000 + seed)
    wrong: list[str] = []

    async def story(site: Site) -> None:
        job = site.job("ann", "nlp")
        now_us = site.clock.boot_us()
        known: dict[str, list[Any]] = AGENT | {
            "boot_us": [now_us], "at_boot_us": [now_us + 1_000_000], "job_id": [job],
        }  # fmt: skip
        messages = [agents_pb2.AgentMessage()]
        scramble(messages[0].hello, random, known)
        if random.random() < 0.8:
            hello = messages[0].hello
            hello.facts.Clear()
            hello.facts.MergeFrom(FACTS)
            hello.protocol, hello.boot_id, hello.instance = PROTOCOL, "b", "i"
            hello.boot_us = site.clock.boot_us()
            del hello.attempts[:]
        for _ in range(20):
            message = agents_pb2.AgentMessage()
            scramble(message, random, known)
            messages.append(message)
        token = site.token("n2", "agent")
        status, details = await site.talk(messages, token=token)
        if status in NEVER and (status, details) != REFUSED_WHILE_WRITING:
            wrong.append(f"{status} {details[:300]}")
        status, details = await site.call("Events.Server", None, token=site.token("root", "admin"))
        if status != "OK":
            wrong.append(f"afterwards: {status} {details}")

    play(story)
    wrong += [f"logged: {record.getMessage()} {record.exc_text or ''}"[:600] for record in caplog.records]
    assert wrong == [], f"seed {seed}"
