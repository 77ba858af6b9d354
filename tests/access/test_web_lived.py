"""Pages of a site that has lived for weeks: its pictures say what its commands say, to the nano."""

from __future__ import annotations

import asyncio
import html
import json
import re
import tempfile
from collections.abc import Awaitable, Callable
from decimal import Decimal

import pytest
from browser import Browser, Tags, server_of
from lived_site import live
from whole_site import Site

from bursar.cli.forecast import forecast_row
from bursar.client.aio import AsyncWireClient
from bursar.clock import DAY_US, HOUR_US, format_instant
from bursar.codec import view
from bursar_web.pages import money, pictured

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


def test_every_amount_leads_to_its_lines_whose_sum_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(site: Site, browser: Browser, client: AsyncWireClient) -> None:
        async def total(address: str) -> tuple[Decimal, list[Decimal]]:
            """Of the command's own document: what it says in all, and of each row."""
            path, _, query = address.partition("?")
            document = json.loads((await browser.get(f"{path}.json?{query}")).text)
            rows = [Decimal(row["cost"]["amount"]) for row in document["rows"]]
            return Decimal(document["total"]["cost"]["amount"]), rows

        [job] = view.cost(await client.cost(by=["job"], top=1), ["job"])["rows"][:1]
        text = (await browser.get(f"/jobs/{job['job']}")).text
        lines = html.unescape(re.findall(r'href="(/cost\?job=[^"]+)"', text)[0])
        whole, rows = await total(lines)
        assert whole == sum(rows) == Decimal(job["cost"]["amount"])
        assert len(rows) > 1
        assert amounts((await browser.get(lines)).text)[0] == whole

        vision = view.budget((await client.budgets(name="vision"))[0])
        text = (await browser.get("/budgets/vision")).text
        whole, rows = await total(html.unescape(re.findall(r'href="(/cost\?by=job[^"]+)"', text)[0]))
        assert whole == sum(rows) == Decimal(vision["settled"]["amount"])

        text = (await browser.get("/statements/2026-01")).text
        links = [html.unescape(one) for one in re.findall(r'href="(/cost\?period=2026-01&[^"]+)"', text)]
        project = next(one for one in links if "project=speech" in one)
        whole, _ = await total(project)
        document = json.loads((await browser.get("/statements/2026-01.json")).text)
        [group] = [one for one in document["groups"] if one["by"] == "project"]
        [speech] = [row for row in group["rows"] if row["name"] == "speech"]
        assert whole == Decimal(speech["cost"]["amount"])

        everything = (await browser.get("/cost?by=job")).text
        monkeypatch.setattr(money, "ROWS_MAX", 5)
        monkeypatch.setattr(pictured, "ROWS_MAX", 5)
        few = (await browser.get("/cost?by=job")).text
        assert "more in one; the files have them" in few
        assert "Cost by day: the first 5 rows of " in few
        assert len(few) < len(everything) / 2
        assert amounts(few)[0] == amounts(everything)[0]
        runs = (await browser.get("/experiments/segment")).text
        assert "more in one; the files have them" in runs
        whole, rows = await total("/experiments/segment")
        assert len(rows) > 5
        assert whole == sum(rows) == amounts(runs)[0]
        _, rows = await total("/cost?by=job")
        assert len(rows) > 100

    play(story)


def test_where_budgets_end_is_what_the_command_forecasts() -> None:
    async def story(site: Site, browser: Browser, client: AsyncWireClient) -> None:
        text = (await browser.get("/budgets?show=forecast")).text
        assert "<code>bursar forecast</code>" in text
        told = json.loads((await browser.get("/budgets.json?show=forecast")).text)
        expected = [forecast_row(view.budget(each)) for each in await client.forecasts()]
        assert told == json.loads(json.dumps(expected))
        assert f"{Decimal(expected[0]['end_p90']['amount']):,.2f} USD" in text

    play(story)
