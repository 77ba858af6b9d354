"""The writer's thread beside a loop that never rests: found starved for seconds, so kept from it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from bursard.events import JobHeld, encode
from bursard.store import Batch, EventRow, SqliteStore
from bursard.writer import Writer

COMMITS = 300
TURNS_MAX = 500
"""Of the loop while half of the commits are waited for: about 100 on a busy machine, over 3,000 without help.
One of them may take long, since a disk may.
"""


def test_commits_go_on_beside_a_saturated_loop(tmp_path: Path) -> None:
    """Each turn of the loop is 0.3 ms of work and nothing waits; without help commits took 4 s."""

    async def whole() -> int:
        store = SqliteStore(tmp_path / "state")
        writer = Writer(store)
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        turns, took = 0, []

        def burn() -> None:
            nonlocal turns
            turns += 1
            until = time.perf_counter() + 0.0003
            while time.perf_counter() < until:
                pass
            if not done.done():
                loop.call_soon(burn)

        burn()
        for seq in range(1, COMMITS + 1):
            row = EventRow(seq, seq, "ann", encode(JobHeld(job_id="job_1")))
            before = turns
            writer.enqueue(Batch(events=[row]))
            await writer.durable(seq)
            took.append(turns - before)
        done.set_result(None)
        await writer.close()
        store.close()
        return sorted(took)[COMMITS // 2]

    assert asyncio.run(asyncio.wait_for(whole(), 120)) < TURNS_MAX
