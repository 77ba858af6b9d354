"""What ran where in the last day, as the page of nodes draws it."""

from __future__ import annotations

import asyncio
import tempfile

from browser import server_of
from whole_site import Site

from bursar.client.aio import AsyncWireClient
from bursar.clock import DAY_US
from bursar.codec import view
from bursar.model import ArraySpec
from bursar.pictures import Picture
from bursar_web.pages import pictured


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
                many = site.job("ann", "nlp", name="many", array=ArraySpec((0, 1)))
                found = await drawn(site)
                titles = sorted(one.title for one in found.shapes)
                assert titles == ["2 long running", "3 short ended"], titles
                assert found.sentence.startswith("2 spans of 2 jobs.")
                assert "Tasks of" not in found.sentence
                widest = max(found.shapes, key=lambda one: one.width)
                assert widest.title.startswith("2 long")
                async with AsyncWireClient(server_of(site), site.token("root", "admin")) as client:
                    await client.cancel([many])
                assert "Tasks of 1 array are not in the picture." in (await drawn(site)).sentence

    asyncio.run(main())
