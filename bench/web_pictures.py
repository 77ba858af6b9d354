"""Pictures of the pages for the docs: a cluster that has lived for three weeks, seen in Debian's chromium.

Run     make pictures (it writes docs/pictures);  or python bench/web_pictures.py FOLDER [ADDRESS ...]
Prints  each file with its bytes. A file over 100 kB, or a page that answers anything but 200, fails.
Why     a picture that nobody can make again is wrong one day: these are of the pages as they are, of the same
        seed and virtual time each time.
"""

from __future__ import annotations

import asyncio
import base64
import os
import re
import socket
import sys
import tempfile
from pathlib import Path
from unittest import mock

import uvicorn
from playwright.async_api import Page, async_playwright

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/support"))

from browser import server_of
from lived_site import live

from bursar_web.app import Options, make_app

CHROMIUM = "/usr/bin/chromium"
BYTES_MAX = 100_000
WIDTH, HEIGHT = 1_240, 900
DAYS, JOBS = 20.6, 1_250
SHOWN = {
    "now": "/",
    "cost": "/cost?by=project&since=2026-01-11&until=2026-01-21",
    "budget": "/budgets/nlp",
    "nodes": "/nodes",
    "waste": "/waste",
    "job": "/jobs/1200",
}
"""What stands in the docs, by the name of its file."""


async def take(page: Page, base: str, address: str, file: Path, whole: bool) -> None:
    """One picture of the page there."""
    answer = await page.goto(base + address)
    if answer is None or answer.status != 200:
        raise SystemExit(f"{address}: {answer and answer.status} {await page.inner_text('main')}")
    height = HEIGHT
    if whole:
        height = int(await page.evaluate("document.documentElement.scrollHeight"))
    told = await (await page.context.new_cdp_session(page)).send(
        "Page.captureScreenshot",
        {
            "format": "webp" if file.suffix == ".webp" else "png",
            **({"quality": 80} if file.suffix == ".webp" else {}),
            "captureBeyondViewport": True,
            "clip": {"x": 0, "y": 0, "width": page.viewport_size["width"], "height": height, "scale": 1},  # type: ignore[index]
        },
    )
    keep(file, base64.b64decode(told["data"]))


def keep(file: Path, data: bytes) -> None:
    """Write a picture. Those of the docs are small."""
    file.write_bytes(data)
    print(f"{file} {len(data)} bytes", flush=True)
    if file.suffix == ".webp" and len(data) > BYTES_MAX:
        raise SystemExit(f"{file}: over {BYTES_MAX} bytes")


async def main(folder: Path, addresses: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="b") as there, socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{own.getsockname()[1]}"
        site = live(there, DAYS, JOBS)
        seen = mock.patch("bursar.cli.cluster.now", site.clock.now)  # columns say how long ago
        async with site, async_playwright() as driver:
            seen.start()
            options = Options(server_of(site), (host,), link="once")
            app = make_app(options, site.clock)
            server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on"))
            serving = asyncio.create_task(server.serve(sockets=[own]))
            sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
            chromium = await driver.chromium.launch(executable_path=CHROMIUM, args=sandbox)
            dark = os.environ.get("BURSAR_SHOTS_SCHEME", "light")
            width = int(os.environ.get("BURSAR_SHOTS_WIDTH", str(WIDTH)))
            page = await chromium.new_page(
                viewport={"width": width, "height": HEIGHT},
                color_scheme=dark,  # type: ignore[arg-type]
            )
            base = f"http://{host}"
            await page.goto(f"{base}/login")
            await page.get_by_label("Token").fill(site.token("root", "admin"))
            await page.get_by_role("button", name="Log in").click()
            if addresses:
                for number, address in enumerate(addresses):
                    name = re.sub(r"\W+", "-", address).strip("-") or "now"
                    await take(page, base, address, folder / f"{number:02}-{name}.png", True)
            else:
                for name, address in SHOWN.items():
                    await take(page, base, address, folder / f"{name}.webp", False)
            await chromium.close()
            server.should_exit = True
            await serving


if __name__ == "__main__":
    into = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/pictures")
    into.mkdir(parents=True, exist_ok=True)
    asyncio.run(main(into, sys.argv[2:]))
