"""Pages of a site that has lived for weeks: its pictures say what its commands say, to the nano."""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import Awaitable, Callable
from decimal import Decimal

from browser import Browser, Tags, server_of
from lived_site import live
from whole_site import Site

from bursar.client.aio import AsyncWireClient
from bursar.clock import DAY_US, HOUR_US, format_instant
from bursar.codec import view
from bursar_web.pages import pictured

Story = Callable[[Site, Browser, AsyncWireClient], Awaitable[None]]
DAYS, JOBS = 10.3, 160


def play(story: Story) -> None:
    async def main() -> None:
        with tempfile.TemporaryDirectory(prefix="b") as folder:
            async with live(folder, DAYS, JOBS, 4) as site:
                await site.engine.durable()
                browser = Browser(site)
                browser.app.state.clock = site.clock
                token = site.token("root", "admin")
                async with (
                    browser.app.router.lifespan_context(browser.app),
                    AsyncWireClient(server_of(site), token) as client,
                ):
                    await browser.log_in(token)
                    await story(site, browser, client)

    asyncio.run(main())


def amounts(text: str) -> list[Decimal]:
    return [Decimal(one) for one in re.findall(r'<data value="([-0-9.]+)"', text)]


def test_the_cost_by_hour_is_that_of_the_command_and_usual_is_the_mean_of_the_week_before() -> None:
    async def story(site: Site, browser: Browser, client: AsyncWireClient) -> None:
        now = site.clock.now()
        found = view.cost(await client.cost(by=["hour"], until=now), ["hour"])
        sums = {row["hour"]: Decimal(row["cost"]["amount"]) for row in found["rows"]}
        made = await pictured.hourly_cost(client, now)
        end = now - now % HOUR_US
        heads = [format_instant(end - (48 - at) * HOUR_US) for at in range(48)]
        text = (await browser.get("/")).text
        assert Tags(text).faults == []
        assert "<strong>Cost by hour</strong>" in text
        assert {one.title for one in made.shapes} == {
            f"{hour} cost: {sums[hour]:f}" for hour in heads if sums.get(hour)
        }
        week = [sums.get(format_instant(end - HOUR_US - days * DAY_US), Decimal()) for days in range(1, 8)]
        mean = sum(week, Decimal()) / 7
        assert f"usual at this time of day {mean:,.2f} USD" in made.sentence, made.sentence
        refreshed = await browser.ask("GET", "/", {"hx-request": "true"})
        assert "Cost by hour" not in refreshed.text
        assert "What runs" in refreshed.text
        first_day = await pictured.hourly_cost(client, now - int(DAYS * DAY_US) + 20 * HOUR_US)
        assert "what is usual is not known yet" in first_day.sentence

    play(story)


def test_gpus_held_are_drawn_for_as_many_days_as_are_asked_for() -> None:
    async def story(site: Site, browser: Browser, client: AsyncWireClient) -> None:
        nodes = [view.node(each) for each in await client.nodes()]
        for days, unit, count in ((1, "hour", 24), (7, "day", 7), (62, "day", 62)):
            text = (await browser.get(f"/nodes?days={days}")).text
            assert f"GPUs held, by node and {unit} of UTC" in text
            made = await pictured.held_gpus(client, nodes, site.clock.now(), days)
            assert len(made.shapes) == count * len(nodes)
        by = ["node", "day"]
        found = view.cost(await client.cost(by=by, include_idle=True), by)
        [row] = [one for one in found["rows"] if one["node"] == "a100-01" and one["day"] == "2026-01-08"]
        told = f"a100-01 01-08: {row['gpu_s'] / (8 * 86_400) * 100:.0f} %"
        assert told in {one.title for one in made.shapes}
        for wrong in ("0", "63", "-1", "x", "1e1"):
            answer = await browser.get(f"/nodes?days={wrong}")
            assert (answer.status, "days:" in answer.text) == (400, True), wrong

    play(story)


def test_a_budget_is_drawn_with_the_band_that_the_command_forecasts() -> None:
    async def story(site: Site, browser: Browser, client: AsyncWireClient) -> None:
        row = view.budget((await client.forecasts(name="vision"))[0])
        expected = row["forecast"]
        assert expected["learned_days"]
        made = await pictured.budget_left(client, row, expected, site.clock.now())
        for name in ("end_p10", "end_p50", "end_p90"):
            assert f"{Decimal(expected[name]['amount']):,.2f} USD" in made.sentence
        assert len(made.areas) == 1
        assert '<polygon class="band"' in (await browser.get("/budgets/vision")).text

    play(story)
