"""What pages take when many jobs wait: time, bytes, and the CPU of the process that serves them.

Run     python bench/web_pages.py;  BURSAR_BENCH_JOBS sets how many jobs wait (100,000)
Prints  for each page the time to its last byte (median, 95th percentile), its bytes plain and as gzip
        has them, and the CPU of `bursar-web` for it; and `/metrics`, whose first answer sums all charges.
Why     a page must cost what it shows, not what there is: the list decides whether people come back.
"""

from __future__ import annotations

import gzip
import http.client
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlencode

from bursar.client import WireClient
from bursar.model import JobSpec
from bursar.resources import ResourceRequest

JOBS = int(os.environ.get("BURSAR_BENCH_JOBS", "100000"))
TIMES = 20
ANSWER_S = 60
PROJECTS = 40
BURSAR = Path(sys.executable).with_name("bursar")
PAGES = (
    "/", "/jobs", "/queue", "/jobs?state=pending&project=team-7", "/jobs?state=all&label=kind%3Da", "/jobs/1",
    "/jobs/1/profile", "/services", "/admin", "/admin?show=doctor",
    "/nodes", "/budgets", "/cost", "/waste", "/events", "/policies",
)  # fmt: skip


class Site:
    """A connection to the pages, logged in."""

    def __init__(self, url: str) -> None:
        self.host = url.removeprefix("http://").partition("/")[0]
        self._connection = http.client.HTTPConnection(self.host, timeout=ANSWER_S)
        body = urlencode({"link": url.rpartition("=")[2]})
        headers = {"Sec-Fetch-Site": "same-origin", "Content-Type": "application/x-www-form-urlencoded"}
        self._connection.request("POST", "/login", body, headers)
        answer = self._connection.getresponse()
        answer.read()
        self._cookie = str(answer.headers["set-cookie"]).partition(";")[0]

    def get(self, path: str, **headers: str) -> bytes:
        self._connection.request("GET", path, headers={"Cookie": self._cookie, **headers})
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{path}: {answer.status} {text[:200]!r}")
        return text


def cpu_ms(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()
    return 1000 * (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure(site: Site, path: str, pid: int, **headers: str) -> str:
    site.get(path, **headers)
    times, before, text = [], cpu_ms(pid), b""
    for _ in range(TIMES):
        began = time.perf_counter()
        text = site.get(path, **headers)
        times.append(1000 * (time.perf_counter() - began))
    used = (cpu_ms(pid) - before) / TIMES
    last = statistics.quantiles(times, n=20)[-1]
    zipped = len(gzip.compress(text, 6)) / 1000
    return (
        f"{path:42} {statistics.median(times):7.1f} ms  p95 {last:7.1f} ms  {len(text) / 1000:6.1f} kB"
        f" ({zipped:4.1f} gz)  {used:5.1f} ms CPU"
    )


def bursar(*words: str) -> str:
    return subprocess.run([BURSAR, *words], check=True, capture_output=True, text=True).stdout


def main() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        http_at = f"127.0.0.1:{free.getsockname()[1]}"
    folder = Path(tempfile.mkdtemp(prefix="bursar-bench-"))
    state = folder / "s"
    try:
        bursar("up", "--state-dir", str(state), "--http", http_at, "--detach")
        status = json.loads(bursar("status", "--state-dir", str(state), "-o", "json"))
        wish = (ResourceRequest(None, 900_000, 1 << 30),)  # more than this machine has: it waits
        specs = [
            JobSpec(
                name=f"job-{number}", project=f"team-{number % PROJECTS}", command=("true",), options=wish,
                labels=(("kind", "abcd"[number % 4]),), time_limit_us=3_600_000_000,
            )
            for number in range(JOBS)
        ]  # fmt: skip
        began = time.perf_counter()
        with WireClient(status["server"]) as client:
            accepted = sum(1 for answer in client.submit_many(specs) if not answer.error)
        print(f"{accepted} jobs wait, submitted in {time.perf_counter() - began:.0f} s")
        site = Site(bursar("web", "url", "--state-dir", str(state)).strip())
        pid = int(status["web"]["pid"])
        for path in PAGES:
            try:
                print(measure(site, path, pid), flush=True)
            except TimeoutError:
                print(f"{path:42} no answer within {ANSWER_S} s", flush=True)
                site = Site(bursar("web", "url", "--state-dir", str(state)).strip())
        token = (state / "web/metrics-token").read_text().strip()
        print(measure(site, "/metrics", pid, Authorization=f"Bearer {token}"), "(one scrape in ten seconds)")
        print(f"bursar-web holds {rss_mb(pid):.0f} MB, bursard {rss_mb(int(status['daemon']['pid'])):.0f} MB")
    finally:
        bursar("down", "--state-dir", str(state))
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
