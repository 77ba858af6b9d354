"""What the pages and `/metrics` show of readings, and of money over days.

Why     `test_pages_as_they_are.py` shows a site at rest, within its first hour. What people and scrapers see
        of one that lives stands in tests/golden/pages_live.txt; a change of it is one that a review sees.
        Written anew by `BURSAR_GOLDEN=write pytest -n0 tests/access/test_pages_of_a_living_site.py`.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import tempfile
from pathlib import Path
from types import ModuleType

from browser import Browser
from inhabited import POLICIES, begin, end, failed, inhabit, tell_readings
from whole_site import START, Site

from bursar.clock import DAY_US, HOUR_US
from bursar.model import EndCause
from bursar.resources import GpuRequest, ResourceRequest
from bursar.v1 import money_pb2
from bursar_web.printing import Printer

GOLDEN = Path(__file__).parents[1] / "golden/pages_live.txt"
ASKED = """\
/ /nodes /nodes?pool=p /nodes/g1 /nodes/g2 /nodes/g1.json /jobs/running /jobs/half /jobs/running.json /budgets
/budgets/nlp /budgets/soft /cost?by=day /cost?by=user,day /cost?by=project&compare=previous&period=2026-11
/cost?since=2026-11-01T00:00:00Z&until=2026-11-05T00:00:00Z&by=day /waste?period=2026-11 /events?node=g1
/statements/2026-11 /jobs?state=all&sort-by=-cost
"""
BUSY = re.compile(
    r"^bursar_scheduler_cycle|_created |^bursar_store_commits|^bursar_start|python_|process_", re.M
)
"""Figures of this machine, and of how quick it is."""


def beside(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pages = beside("test_pages_as_they_are")


def days_pass(site: Site) -> None:
    """A job of some hours on each of three days."""
    whole = (ResourceRequest(GpuRequest(1), 1_000, 1 << 30),)
    for hours in (1, 5, 3):
        job = site.job("ann", "nlp", name=f"day-{hours}", options=whole, time_limit_us=9 * HOUR_US)
        attempt = begin(site, job)
        site.clock.advance(hours * HOUR_US)
        end(site, attempt, failed(0, cause=EndCause.COMPLETED))
        site.clock.advance(DAY_US - hours * HOUR_US)
    unpriced = begin(site, site.job("bob", "ops", name="unpriced", constraints=(("pool", "d"),)))
    end(site, unpriced, failed(0, cause=EndCause.COMPLETED))


async def shown(site: Site) -> list[str]:
    browser, found = Browser(site), list[str]()
    browser.app.state.printer = Printer(there=False)  # whatever is installed here
    browser.clock.advance(START + 3 * DAY_US)
    token = site.token("root", "admin")
    async with browser.app.router.lifespan_context(browser.app):
        metrics = await browser.ask("GET", "/metrics", {"authorization": f"Bearer {token}"})
        lines = [line for line in metrics.text.splitlines() if not BUSY.search(line)]
        found += ["=== /metrics", f"{metrics.status} {metrics.headers['content-type']}", *lines]
        await browser.log_in(token)
        for path in ASKED.split():
            found += pages.told(path, await browser.get(path))
    return found


def test_pages_of_a_living_site_show_what_they_showed() -> None:
    async def main() -> list[str]:
        with tempfile.TemporaryDirectory(prefix="b") as folder:
            async with Site(folder) as site:
                files = [money_pb2.PolicySource(name="all.yaml", text=POLICIES)]
                request = money_pb2.ApplyRequest(sources=files)
                await site.ask("Policies.Apply", request, token=site.token("ann", "admin"))
                inhabit(site)
                days_pass(site)
                tell_readings(site)
                return await shown(site)

    found = pages.VARYING.sub("...", "\n".join(asyncio.run(main())) + "\n")
    if os.environ.get("BURSAR_GOLDEN") == "write":
        GOLDEN.write_text(found)
    assert found == GOLDEN.read_text(), "see the head of this file"
