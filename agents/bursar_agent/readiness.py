"""Whether replicas of services are ready: looked at over the loopback, told when it changes.

Owns    one task for each replica that the daemon asks about, for as long as it runs.
Why     only its own machine reaches a replica. Nothing is kept: the daemon asks again at every connection,
        and whoever routes requests drops a replica that refuses them before any look could tell.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from bursar.clock import SECOND_US
from bursar_agent.stimuli import Key

LOOPBACK: Final = "127.0.0.1"
ANSWER_BYTES_MAX: Final = 4_096
"""Of an answer, so much is read: its first line."""
EAGER_S: Final = 0.2
"""Between two looks at one that has just started, since somebody may wait for it."""
EAGER_FOR_S: Final = 30.0
PROBES_MAX: Final = 4_096
"""Of one node: more than it can start."""


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """An order to look at a replica: by a GET of `path`, or by a connection where that is empty.

    Attributes:
        gateways: certificates of gateways on other machines that may come to it.
    """

    key: Key
    port: int
    path: str
    interval_us: int
    timeout_us: int
    failures: int
    gateways: tuple[str, ...] = ()


async def look(probe: Probe) -> str:
    """What is wrong with a replica now; empty when it is ready."""
    try:
        async with asyncio.timeout(probe.timeout_us / SECOND_US):
            reader, writer = await asyncio.open_connection(LOOPBACK, probe.port, limit=ANSWER_BYTES_MAX)
            try:
                return await _asked(probe.path, reader, writer) if probe.path else ""
            finally:
                writer.close()
    except TimeoutError:
        return f"no answer within {probe.timeout_us / SECOND_US:g} s"
    except OSError as error:
        return f"port {probe.port}: {error.strerror or error}"
    except (ValueError, EOFError):
        return f"{probe.path} is not answered in HTTP"


async def _asked(path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    request = (
        f"GET {path} HTTP/1.1\r\nHost: {LOOPBACK}\r\nConnection: close\r\nUser-Agent: bursar-agent\r\n\r\n"
    )
    writer.write(request.encode("ascii"))
    await writer.drain()
    words = (await reader.readline()).split(maxsplit=2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        return f"{path} is not answered in HTTP"
    status = int(words[1])
    return "" if 200 <= status < 400 else f"{path} answers {status}"


class Readiness:
    """Looks after the replicas of one node. Belongs to the event loop.

    Args:
        tell: is given which member, whether it is ready, and why not.
        live: the members that run.
    """

    def __init__(
        self, tell: Callable[[str, int, bool, str], None], live: Callable[[], Iterable[Key]]
    ) -> None:
        self._tell = tell
        self._live = live
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        self._known: dict[Key, bool] = {}
        self._ports: dict[str, int] = {}

    def take(self, probe: Probe) -> None:
        """An order, perhaps said again: what is known is told at once."""
        if probe.key in self._known:
            self._tell(*probe.key, self._known[probe.key], "")
        if probe.key not in self._tasks and len(self._tasks) < PROBES_MAX:
            task = asyncio.create_task(self._watch(probe), name=f"probe-{probe.key[0]}")
            self._tasks[probe.key] = task
            self._ports[probe.key[0]] = probe.port
            task.add_done_callback(lambda _: self._over(probe.key))

    def port_of(self, attempt_id: str) -> int:
        """Of a replica that is looked at; 0: there is none of that name."""
        return self._ports.get(attempt_id, 0)

    def _over(self, key: Key) -> None:
        self._tasks.pop(key, None)
        self._known.pop(key, None)
        self._ports.pop(key[0], None)

    async def _watch(self, probe: Probe) -> None:
        loop = asyncio.get_running_loop()
        began, failed = loop.time(), 0
        interval_s = probe.interval_us / SECOND_US
        while probe.key in set(self._live()):
            problem = await look(probe)
            failed = failed + 1 if problem else 0
            known = self._known.get(probe.key)
            if not problem and not known:
                self._say(probe.key, True, "")
            elif problem and (known is None or (known and failed >= probe.failures)):
                self._say(probe.key, False, problem)
            new = not self._known.get(probe.key) and loop.time() - began < EAGER_FOR_S
            await asyncio.sleep(min(interval_s, EAGER_S) if new else interval_s)

    def _say(self, key: Key, ready: bool, problem: str) -> None:
        self._known[key] = ready
        self._tell(*key, ready, problem)

    async def close(self) -> None:
        """Let go of all of them."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
