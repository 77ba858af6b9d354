"""Whether a replica is ready: what counts as an answer, when it is told, and when it is let go."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from bursar_agent.readiness import Probe, Readiness, look

Told = tuple[str, int, bool, str]
KEY = ("att_1", 0)


class Replica:
    """Listens on the loopback and answers what it is told to, or nothing, or refuses."""

    def __init__(self) -> None:
        self.says: bytes | None = b"HTTP/1.1 200 OK\r\n\r\n"
        self.asked: list[bytes] = []
        self.again = asyncio.Event()

    async def open(self, port: int = 0) -> int:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", port)
        found: int = self._server.sockets[0].getsockname()[1]
        return found

    async def close(self) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.again.set()
        said = await reader.read(200)
        if said:
            self.asked.append(said)
        if self.says is None:
            await reader.read()
        else:
            writer.write(self.says)
        writer.close()


def probe(port: int, path: str = "/health", **changes: int) -> Probe:
    given = {"interval_us": 1_000, "timeout_us": 5_000_000, "failures": 2} | changes
    return Probe(key=KEY, port=port, path=path, **given)


def play(work: Callable[[Replica, int], Awaitable[None]]) -> None:
    async def main() -> None:
        replica = Replica()
        port = await replica.open()
        try:
            await asyncio.wait_for(work(replica, port), 20)
        finally:
            await replica.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("says", "problem"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", ""),
        (b"HTTP/1.0 399 x\r\n", ""),
        (b"HTTP/1.1 199 x\r\n", "/health answers 199"),
        (b"HTTP/1.1 400 x\r\n", "/health answers 400"),
        (b"HTTP/1.1 503 busy\r\n", "/health answers 503"),
        (b"HTTP/1.1 204\r\n", ""),
        (b"HTTP/1.1 OK 200\r\n", "/health is not answered in HTTP"),
        (b"SSH-2.0-OpenSSH 200\r\n", "/health is not answered in HTTP"),
        (b"HTTP/1.1\r\n", "/health is not answered in HTTP"),
        (b"", "/health is not answered in HTTP"),
        (b"x" * 10_000, "/health is not answered in HTTP"),
    ],
)
def test_an_answer_is_a_status_that_is_no_error(says: bytes, problem: str) -> None:
    async def work(replica: Replica, port: int) -> None:
        replica.says = says
        assert await look(probe(port)) == problem
        (request,) = replica.asked
        assert request.decode().split("\r\n") == [
            "GET /health HTTP/1.1", "Host: 127.0.0.1", "Connection: close", "User-Agent: bursar-agent",
            "", "",
        ]  # fmt: skip

    play(work)


def test_without_a_path_a_connection_is_enough() -> None:
    async def work(replica: Replica, port: int) -> None:
        replica.says = b"no"
        assert await look(probe(port, "")) == ""
        await replica.again.wait()
        assert replica.asked == []

    play(work)


def test_who_does_not_answer_in_time_or_does_not_listen_is_told_so() -> None:
    async def work(replica: Replica, port: int) -> None:
        replica.says = None
        assert await look(probe(port, timeout_us=50_000)) == "no answer within 0.05 s"
        await replica.close()
        problem = await look(probe(port))
        assert problem.startswith(f"port {port}: ")
        assert "refused" in problem or "Connect" in problem
        await replica.open(port)

    play(work)


def test_a_change_is_told_once_and_a_ready_one_may_fail_so_often() -> None:
    async def work(replica: Replica, port: int) -> None:
        told: asyncio.Queue[Told] = asyncio.Queue()
        live = {KEY}
        watch = Readiness(lambda *said: told.put_nowait(said), lambda: live)
        replica.says = b"HTTP/1.1 503 x\r\n"
        watch.take(probe(port))
        assert await told.get() == (*KEY, False, "/health answers 503")
        replica.says = b"HTTP/1.1 200 x\r\n"
        assert await told.get() == (*KEY, True, "")

        watch.take(probe(port))  # the daemon asks again: what is known, at once, and no second task
        assert told.get_nowait() == (*KEY, True, "")
        assert len(watch._tasks) == 1
        asked = len(replica.asked)
        replica.says = b"HTTP/1.1 500 x\r\n"
        assert await told.get() == (*KEY, False, "/health answers 500")
        assert len(replica.asked) >= asked + 2, "once is not enough"
        assert told.empty()

        live.clear()
        await asyncio.wait(watch._tasks.values())
        await asyncio.sleep(0)  # its last word is said by the loop
        assert watch._known == {}
        await watch.close()

    play(work)


def test_all_are_let_go_at_the_end() -> None:
    async def work(replica: Replica, port: int) -> None:
        watch = Readiness(lambda *said: None, lambda: {KEY})
        watch.take(probe(port, interval_us=3_600_000_000))
        await replica.again.wait()
        (task,) = watch._tasks.values()
        await watch.close()
        assert task.cancelled()
        assert watch._tasks == {}

    play(work)
