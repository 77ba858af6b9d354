"""What one message of an agent costs the others: their turns of the loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

from bursar.v1 import agents_pb2 as pb
from bursard.services.agents import ENDS_A_TURN, AgentsService
from bursard.telemetry import LiveTelemetry


def test_others_have_their_turns_while_many_ends_of_one_message_are_taken() -> None:
    taken: list[Any] = []
    seen: list[int] = []
    hub = SimpleNamespace(
        engine=None, take=lambda link, end: taken.append(end.rank), wait_s=lambda *_, **__: 0.0
    )
    service = AgentsService(hub, LiveTelemetry(), mqtt_url="")  # type: ignore[arg-type]
    link = SimpleNamespace(name="n", wait_s=lambda now_us, words: 0.0)
    hub.engine = service.engine = SimpleNamespace(clock=SimpleNamespace(boot_us=lambda: 0))  # type: ignore[assignment]
    count = 2 * ENDS_A_TURN + 1
    ends = [pb.Exited(attempt_id="a", rank=rank, cause="completed") for rank in range(count)]

    async def said() -> AsyncIterator[pb.AgentMessage]:
        yield pb.AgentMessage(exits=pb.ExitedBatch(members=ends))

    async def other() -> None:
        while len(taken) < count:
            seen.append(len(taken))
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(service._read(said(), link), other())  # type: ignore[arg-type]

    asyncio.run(main())
    assert taken == list(range(count))
    assert seen == [ENDS_A_TURN, 2 * ENDS_A_TURN]
