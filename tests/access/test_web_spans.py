"""What ran where in the last day, as the page of nodes draws it."""

from __future__ import annotations

import asyncio
import tempfile

from browser import server_of
from whole_site import Site

from bursar.client.aio import AsyncWireClient
from bursar.clock import DAY_US
from bursar.codec import view
from bursar.model import ArraySpec, EndCause
from bursar.pictures import Picture
from bursar_web.pages import pictured
from bursard.events import ExitReport
from bursard.state.decide import attempts


async def drawn(site: Site) -> Picture:
    await site.engine.durable()
    async with AsyncWireClient(server_of(site), site.token("root", "admin")) as client:
        nodes = [view.node(each) for each in await client.nodes()]
        return await pictured.spans(client, nodes, site.engine.now())


def test_what_has_run_for_days_is_drawn_however_many_wait_behind_it() -> None:
    async def main() -> None:
        with tempfile.TemporaryDirectory(prefix="b") as folder:
            async with Site(folder) as site:
                before = site.job("ann", "nlp", name="before")
                site.run(before)
                long = site.job("ann", "nlp", name="long")
                site.start(site.place(long))
                site.clock.advance(3 * DAY_US)
                short = site.job("ann", "nlp", name="short")
                site.run(short)
                for number in range(pictured.JOBS_MAX + 1):
                    site.job("ann", "nlp", name=f"waits-{number}")
                found = await drawn(site)
                titles = sorted(one.title for one in found.shapes)
                assert titles == ["2 long running", "3 short ended"], titles
                assert found.sentence.startswith("2 spans of 2 jobs.")
                widest = max(found.shapes, key=lambda one: one.width)
                assert widest.title.startswith("2 long")

    asyncio.run(main())


def test_what_was_submitted_before_yesterday_and_ended_today_is_drawn_and_listed() -> None:
    async def main() -> None:
        with tempfile.TemporaryDirectory(prefix="b") as folder:
            async with Site(folder) as site:
                gone = site.job("ann", "nlp", name="gone")
                site.run(gone)
                long = site.place(site.job("ann", "nlp", name="long"))
                site.start(long)
                began = site.clock.boot_us()
                site.clock.advance(2 * DAY_US)
                state = site.engine.state
                node = state.nodes[long.members[0].alloc.node_id]
                report = ExitReport(cause=EndCause.COMPLETED, exit_code=0, held_us=2 * DAY_US)
                site.engine.commit(attempts.exited(state, node, long.id, 0, report, began), "node:n1")
                assert [one.title for one in (await drawn(site)).shapes] == ["2 long ended"]
                async with AsyncWireClient(server_of(site), site.token("root", "admin")) as client:
                    for states in ([], ["SUCCEEDED"]):
                        since = site.engine.now() - DAY_US
                        found, _ = await client.job_page(size=9, since=since, states=states)
                        assert [one.number for one in found] == [2], states

    asyncio.run(main())


def test_tasks_of_arrays_are_drawn_and_those_that_are_not_are_told() -> None:
    async def main() -> None:
        with tempfile.TemporaryDirectory(prefix="b") as folder:
            async with Site(folder) as site:
                for number in range(pictured.ARRAYS_MAX + 1):
                    array = site.job("ann", "nlp", name=f"many-{number}", array=ArraySpec(((0, 2, 1),), 2))
                    site.run(f"{array}.0")
                    site.start(site.place(f"{array}.1"))
                    site.clock.advance(60_000_000)
                found = await drawn(site)
                told = sorted(one.title for one in found.shapes)
                assert told[:2] == ["2[0] many-1 ended", "2[1] many-1 running"], told
                assert len(told) == 2 * pictured.ARRAYS_MAX
                assert "Of 1 array not all tasks are in the picture." in found.sentence

    asyncio.run(main())
