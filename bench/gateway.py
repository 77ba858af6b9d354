"""What the gateway costs: CPU for each request and each streamed event, and the time it adds.

Run     python bench/gateway.py [REQUESTS]
Why     on a loaded machine only CPU time compares, so each candidate is its own process, its CPU time is read
        before and after, and candidates take turns. Where there is a HAProxy (`haproxy` on the PATH, or the
        file that BURSAR_BENCH_HAPROXY names) it is in the same turns; it knows no keys and counts no tokens.
Limits  loopback; answers of 1 kB and streams of 100 events, a millisecond apart. Added time is what it took
        through the gateway less what it took straight to the replica, each at its own p50 and p99.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil

EVENTS = 100
STREAMS = 32
ROUNDS = 3
CLIENTS = (1, 50, 500)
KEY = "bsk_bench"
USAGE = {"prompt_tokens": 9, "completion_tokens": EVENTS}
WHOLE = json.dumps({"choices": [{"message": {"content": "x" * 900}}], "usage": USAGE}).encode()
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"word "}}],"usage":null}\n\n'
LAST = b'data: {"choices":[],"usage":' + json.dumps(USAGE).encode() + b"}\n\ndata: [DONE]\n\n"


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """As the gateway's own program."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def replica(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection of a replica: whole answers, and streams for who asks for one."""
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = next(
                (
                    int(line[15:])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length:")
                ),
                0,
            )
            body = await reader.readexactly(length)
            if b'"stream"' not in body:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
                writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(WHOLE), WHOLE))
                continue
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            for _ in range(EVENTS):
                writer.write(b"%x\r\n%b\r\n" % (len(EVENT), EVENT))
                await writer.drain()
                await asyncio.sleep(0.001)
            writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(LAST), LAST))
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


def run_replica(port: int) -> None:
    """A process of it."""

    async def serve() -> None:
        await (await asyncio.start_server(replica, "127.0.0.1", port, backlog=1024)).serve_forever()

    asyncio.Runner(loop_factory=loop_factory()).run(serve())


def run_gateway(port: int, replica_port: int) -> None:
    """A process of the gateway, which has heard of one service with one replica and one key."""
    from aiohttp import web

    from bursar_gateway.core import Core, Key, Route
    from bursar_gateway.http import Gateway
    from bursar_gateway.meters import Kept, Meter

    async def serve() -> None:
        now = lambda: time.time_ns() // 1_000  # noqa: E731
        core, meter, long_us = Core(), Meter(Kept(), now()), 600_000_000
        route = Route(
            job_id="job_1", name="chat", api="openai", target=1_000, replicas={"att_1": replica_port},
            queue_us=long_us, cold_us=long_us, first_byte_us=long_us, idle_us=long_us, total_us=long_us,
        )  # fmt: skip
        digest = hashlib.sha256(KEY.encode()).hexdigest()
        core.learn([route], {digest: Key(id="key_1", job_id="job_1")}, now())
        gateway = Gateway(core, meter, now, lambda: None)
        await gateway.open()
        runner = web.ServerRunner(gateway.server())
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
        await asyncio.Event().wait()

    asyncio.Runner(loop_factory=loop_factory()).run(serve())


HAPROXY = """
global
  nbthread 1
  maxconn 8192
defaults
  mode http
  timeout connect 5s
  timeout client 600s
  timeout server 600s
frontend f
  bind 127.0.0.1:{port}
  default_backend b
backend b
  server r 127.0.0.1:{replica}
"""


def free_port() -> int:
    """One that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


@contextmanager
def process_of(target: Callable[..., None], *ports: int) -> Iterator[int]:
    """A process of our own; its id, once it listens."""
    made = multiprocessing.get_context("spawn").Process(target=target, args=ports, daemon=True)
    made.start()
    try:
        listens(ports[0])
        yield int(made.pid or 0)
    finally:
        made.terminate()
        made.join()


@contextmanager
def haproxy(program: str, port: int, replica_port: int) -> Iterator[int]:
    """A process of HAProxy, of one thread."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "haproxy.cfg"
        path.write_text(HAPROXY.format(port=port, replica=replica_port))
        made = subprocess.Popen([program, "-db", "-q", "-f", str(path)])
        try:
            listens(port)
            yield made.pid
        finally:
            made.terminate()
            made.wait()


def listens(port: int) -> None:
    """Until somebody does."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"nobody listens on port {port}")


async def client(port: int, times: int, stream: bool, took: list[int]) -> None:
    """One connection, one request after the other; how long each took, in microseconds."""
    document: dict[str, Any] = {"messages": [{"role": "user", "content": "y" * 900}]}
    if stream:
        document |= {"stream": True, "stream_options": {"include_usage": True}}
    body = json.dumps(document).encode()
    head = f"POST /chat/v1/chat/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\n"
    asked = f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(times):
        began = time.perf_counter_ns()
        writer.write(asked)
        answer = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in answer[:16]:
            raise SystemExit(f"answered {answer[:200]!r}")
        await (reader.readuntil(b"0\r\n\r\n") if stream else reader.readexactly(len(WHOLE)))
        took.append((time.perf_counter_ns() - began) // 1_000)
    writer.close()


def play(port: int, clients: int, requests: int, stream: bool = False) -> list[int]:
    """So many requests over so many connections; how long each took, sorted."""
    took: list[int] = []

    async def all_of_them() -> None:
        await asyncio.gather(*(client(port, requests // clients, stream, took) for _ in range(clients)))

    asyncio.Runner(loop_factory=loop_factory()).run(all_of_them())
    return sorted(took)


def cpu_us(pid: int) -> int:
    """CPU time of a process so far."""
    times = psutil.Process(pid).cpu_times()
    return int((times.user + times.system) * 1_000_000)


def costs(candidates: dict[str, tuple[int, int]], requests: int) -> None:
    """CPU for a request and for an event, candidates in turns; the least of the rounds."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in candidates}
    for _ in range(ROUNDS):
        for name, (port, pid) in candidates.items():
            before = cpu_us(pid)
            play(port, 50, requests)
            each = (cpu_us(pid) - before) / requests
            before = cpu_us(pid)
            play(port, STREAMS, STREAMS, stream=True)
            found[name].append((each, (cpu_us(pid) - before) / (STREAMS * (EVENTS + 2))))
    least = {name: (min(a for a, _ in rows), min(b for _, b in rows)) for name, rows in found.items()}
    for name, (request, event) in least.items():
        memory = psutil.Process(candidates[name][1]).memory_info().rss >> 20
        print(f"{name}: {request:.0f} us of CPU a request, {event:.1f} us a streamed event, {memory} MiB")
    if "haproxy" in least:
        (request, event), (cheap, cheap_event) = least["gateway"], least["haproxy"]
        ratios = request / max(cheap, 1), event / max(cheap_event, 0.1)
        print(f"ratio to haproxy: {ratios[0]:.1f} a request, {ratios[1]:.1f} an event")


def at(took: list[int], percent: int) -> int:
    """Of what was sorted, so far along."""
    return took[len(took) * percent // 100]


def added(direct: int, through: int, requests: int) -> None:
    """What it takes longer through the gateway."""
    for clients in CLIENTS:
        many = max(requests // clients, 2) * clients
        straight, longer = play(direct, clients, many), play(through, clients, many)
        parts = [f"p{part} +{at(longer, part) - at(straight, part)} us" for part in (50, 99)]
        print(f"{clients} clients: {', '.join(parts)} (p50 {at(straight, 50)} us without)")


def main(requests: int) -> None:
    """All of it."""
    load = os.getloadavg()[0]
    print(f"load of the machine: {load:.1f}; CPU times hold, the times that are added only on a quiet one")
    with ExitStack() as stack:
        ports = [free_port() for _ in range(3)]
        stack.enter_context(process_of(run_replica, ports[0]))
        pid = stack.enter_context(process_of(run_gateway, ports[1], ports[0]))
        candidates = {"gateway": (ports[1], pid)}
        program = os.environ.get("BURSAR_BENCH_HAPROXY") or shutil.which("haproxy")
        if program:
            candidates["haproxy"] = ports[2], stack.enter_context(haproxy(program, ports[2], ports[0]))
        else:
            print("haproxy is not installed: no ratio")
        costs(candidates, requests)
        added(ports[0], ports[1], requests)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2_000)
