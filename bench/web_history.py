"""What pages take on a store of many jobs that have ended: CPU of daemon and pages together, and bytes.

Run     python bench/web_history.py;  BURSAR_BENCH_JOBS sets how many jobs have ended (100,000): making them
        takes five minutes of CPU
Prints  for each page its status, the CPU of the second of two calls, its bytes plain and as gzip has them.
Why     `bench/web_pages.py` has many jobs that wait; sums of money are made of those that have ended. Daemon
        and pages share this process, so that other programs on the machine move no figure but by its caches.
"""

from __future__ import annotations

import asyncio
import gzip
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/support"))

from browser import Browser
from lived_site import POLICIES, live

JOBS = int(os.environ.get("BURSAR_BENCH_JOBS", "100000"))
NODES = 48
JOBS_A_DAY = 550
PAGES = (
    "/", "/jobs", "/jobs?state=all", "/jobs?state=failed&project=vision", "/jobs/1000", "/nodes",
    "/nodes?days=30", "/queue", "/budgets", "/budgets/nlp", "/budgets?show=forecast", "/cost", "/cost?by=job",
    "/cost?by=job&period=this-year", "/cost?by=user,experiment&compare=previous", "/waste",
    "/statements/this-month", "/events", "/admin", "/admin?show=doctor", "/policies", "/experiments/chat-7b",
    "/metrics", "/cost.csv?by=job&period=this-year",
)  # fmt: skip


async def main() -> None:
    with tempfile.TemporaryDirectory(prefix="b") as folder:
        began = time.process_time()
        soft = POLICIES.replace("6000 USD, period: month,", "6000 USD, period: month, enforcement: soft,")
        site = live(folder, JOBS / JOBS_A_DAY, JOBS, NODES, soft)
        made = time.process_time() - began
        print(f"{JOBS} jobs, {site.engine.state.version} events, made in {made:.0f} s of CPU", flush=True)
        async with site:
            await site.engine.durable()
            browser = Browser(site)
            browser.app.state.clock = site.clock
            await browser.log_in(site.token("root", "admin"))
            for path in PAGES:
                await browser.get(path)
                began = time.process_time()
                answer = await browser.get(path)
                used = 1000 * (time.process_time() - began)
                zipped = len(gzip.compress(answer.text.encode(), 6)) / 1000
                size = len(answer.text) / 1000
                print(
                    f"{path:42} {answer.status} {used:7.0f} ms CPU {size:8.1f} kB ({zipped:5.1f} gz)",
                    flush=True,
                )


if __name__ == "__main__":
    asyncio.run(main())
