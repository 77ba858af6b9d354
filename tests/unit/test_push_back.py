"""A disk that is behind holds whoever changes something back before it is decided: no queue is endless."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from bursard.access.rules import METHODS, Writes
from bursard.services.access import AccessService
from bursard.services.jobs import JobsService
from bursard.services.money import MoneyService
from bursard.services.nodes import NodesService
from bursard.services.policies import PoliciesService

SERVICES = {
    "Jobs": JobsService, "Nodes": NodesService, "Policies": PoliciesService, "Access": AccessService,
    "Money": MoneyService,
}  # fmt: skip
STREAMS = {("Jobs", "SubmitMany"), ("Jobs", "SubmitBatches"), ("Jobs", "Attach")}
"""Those of submissions wait for each of their requests."""
METHODS_OF = {tuple(name.removeprefix("/bursar.v1.").split("/")): rule for name, rule in METHODS.items()}
CHANGES = sorted(
    (service, method)
    for (service, method), rule in METHODS_OF.items()
    if service in SERVICES and rule.writes is not Writes.NOTHING and (service, method) not in STREAMS
)


@pytest.mark.parametrize(("service", "method"), CHANGES)
def test_a_change_waits_for_room_before_it_looks_at_anything(service: str, method: str) -> None:
    class Full(Exception):
        """What the writer says here instead of making the caller wait."""

    async def room() -> None:
        raise Full

    made: Any = object.__new__(SERVICES[service])
    made.engine = SimpleNamespace(writer=SimpleNamespace(room=room))
    with pytest.raises(Full):
        asyncio.run(getattr(made, method)(None, None))


@pytest.mark.parametrize("verb", ["submit", "hold", "update", "cancel"])
def test_it_waits_and_then_is_decided(at_a_desk: Callable[..., None], verb: str) -> None:
    async def story(desk: Any) -> None:
        number = await desk.submit()
        gate, asked = asyncio.Event(), asyncio.Event()

        async def room() -> None:
            asked.set()
            await gate.wait()

        desk.engine.writer.room = room
        before = desk.state.version
        task = asyncio.create_task(desk.submit() if verb == "submit" else desk.verb(verb, number))
        await asyncio.wait({task, asyncio.create_task(asked.wait())}, return_when=asyncio.FIRST_COMPLETED)
        assert asked.is_set()
        assert desk.state.version == before
        gate.set()
        await task
        assert desk.state.version > before

    at_a_desk(story)
