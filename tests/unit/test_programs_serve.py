"""The daemon, the gateway and the pages as programs: what they start from, serve, tell systemd and leave.

Why     what wires a program together runs in processes alone, where no test sees which line it was; here all
        of it runs in this one, with its own sockets, until it is told to stop.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import logging
import os
import signal
import socket
import stat
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bursar.client.aio import AsyncWireClient
from bursar.errors import InvalidRequest, StoreUnavailable, Unauthenticated
from bursar.model import JobSpec
from bursar.resources import ResourceRequest
from bursar.v1 import services_pb2
from bursar_gateway import __main__ as gateway
from bursard import app
from bursard.settings import Settings, load
from bursard.sockets import SocketDir

LIMIT_S = 60
JOB = JobSpec(command=("true",), project="p", options=(ResourceRequest(None, 1_000, 1 << 20),))
BUDGET = "kind: Budget\nname: vision\nspec: {scope: {project: vision}, limit: 5 EUR, period: month}\n"


class Systemd:
    """Hears what a program tells of itself."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(str(folder / "notify"))
        patch.setenv("NOTIFY_SOCKET", str(folder / "notify"))
        patch.setenv("WATCHDOG_USEC", "2000000")
        patch.delenv("WATCHDOG_PID", raising=False)

    async def hear(self) -> str:
        return (await asyncio.get_running_loop().sock_recv(self._socket, 100)).decode()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    """One whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="b") as made:
        yield Path(made)


@pytest.fixture
def systemd(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Systemd]:
    made = Systemd(folder, monkeypatch)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    """The collector is this process's."""
    before = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


def settings(folder: Path, **given: str) -> Settings:
    (folder / "state").mkdir(mode=0o700, exist_ok=True)
    (folder / "policies").mkdir(exist_ok=True)
    (folder / "policies/budget.yaml").write_text(BUDGET)
    words = {"state-dir": "state", "socket-dir": "sockets", "policies": "policies"}
    flags = [f"--{name}={folder / path}" for name, path in words.items()]
    return load(
        [*flags, "--currency=EUR", *(f"--{name}={word}" for name, word in given.items())], {}
    ).settings


@asynccontextmanager
async def daemon(given: Settings, systemd: Systemd) -> AsyncIterator[asyncio.Task[int]]:
    """It serves within, and is told to stop at the end."""
    (given.socket_dir).mkdir(mode=0o700, exist_ok=True)
    running = asyncio.create_task(app.run(given))
    first = asyncio.create_task(systemd.hear())
    await asyncio.wait((running, first), return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        first.cancel()
        running.result()
    assert first.result() == "READY=1"
    try:
        yield running
    finally:
        if not running.done():
            os.kill(os.getpid(), signal.SIGTERM)
            said = ""
            while said != "STOPPING=1":
                said = await systemd.hear()
            assert await running == 0


def play(work: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(LIMIT_S):
            await work()

    asyncio.run(main())


def test_a_daemon_serves_from_its_settings_and_goes_on_where_it_stopped(
    folder: Path, systemd: Systemd
) -> None:
    given = settings(folder)

    async def work() -> None:
        async with daemon(given, systemd):
            assert gc.get_threshold() == (20_000, 20, 20)
            assert gc.get_freeze_count() > 0
            paths = given.socket_dir / "bursar.sock", given.socket_dir / "auth.sock"
            assert [stat.S_IMODE(path.stat().st_mode) for path in paths] == [0o660, 0o660]
            async with AsyncWireClient(f"unix://{paths[0]}") as client:
                about = await client.server()
                assert [(each.name, each.currency) for each in await client.budgets()] == [("vision", "EUR")]
                assert await systemd.hear() == "WATCHDOG=1"
                job = (await client.submit(JOB)).job
                assert (job.user != "", job.number, job.state) == (True, 1, "PENDING")
                assert (await client.get("1")).reason.code != ""
        assert not (given.socket_dir / "bursar.sock").exists()
        assert not (given.socket_dir / "auth.sock").exists()
        async with (
            daemon(given, systemd),
            AsyncWireClient(f"unix://{given.socket_dir}/bursar.sock") as client,
        ):
            assert (await client.get("1")).id == job.id
            assert (await client.server()).cluster_id == about.cluster_id

    play(work)


def test_a_daemon_reads_its_tokens_again_when_told_and_keeps_them_when_they_are_wrong(
    folder: Path, systemd: Systemd, caplog: pytest.LogCaptureFixture
) -> None:
    file = folder / "tokens.toml"
    first, second = "one-secret", "another-secret"

    def write(user: str, secret: str) -> None:
        digest = hashlib.sha256(secret.encode()).hexdigest()
        file.write_text(f'[[token]]\nuser = "{user}"\nrole = "admin"\nsha256 = "{digest}"\n')
        file.chmod(0o600)

    write("ann", first)
    given = settings(folder, **{"tokens-file": str(file), "local-role": "none"})

    async def who(token: str) -> str:
        async with AsyncWireClient(f"unix://{given.socket_dir}/bursar.sock", token) as client:
            return (await client.submit(JOB)).job.user

    async def told(word: str) -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        while word not in caplog.text:  # noqa: ASYNC110  (a record of the log is no event)
            await asyncio.sleep(0.01)

    async def work() -> None:
        async with daemon(given, systemd):
            assert await who(first) == "ann"
            write("bob", second)
            await told("the tokens file was read again")
            assert await who(second) == "bob"
            with pytest.raises(Unauthenticated):
                await who(first)
            file.write_text("nonsense")
            await told("the tokens file was not taken")
            assert await who(second) == "bob"

    with caplog.at_level(logging.INFO):
        play(work)


def test_an_eternal_task_that_ends_ends_the_daemon_with_its_name(
    folder: Path, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ends(*_: Any) -> None:
        raise ValueError("why")

    monkeypatch.setattr(app, "_watchdog", ends)

    async def work() -> None:
        with pytest.raises(RuntimeError, match="task watchdog ended") as caught:
            async with daemon(settings(folder), systemd) as running:
                await running
        assert str(caught.value.__cause__) == "why"

    play(work)


def test_a_daemon_that_cannot_listen_says_why(folder: Path) -> None:
    given = settings(folder)

    given.socket_dir.mkdir(mode=0o700)
    held = SocketDir(given.socket_dir, folder / "another")
    try:
        with pytest.raises(StoreUnavailable, match=r"another"):
            asyncio.run(app.run(given))
    finally:
        held.close()
    deep = load([f"--state-dir={folder / 'x'}", f"--socket-dir=/{'d' * 89}"], {}).settings
    with pytest.raises(InvalidRequest, match="longer than the 100 bytes"):
        asyncio.run(app._Sockets(deep).open(None, None))  # type: ignore[arg-type]


class Daemon:
    """What a gateway asks: one service, and a key."""

    asked: list[Any] = []
    given: list[Any] = []

    def __init__(self, server: str | None) -> None:
        self.given.append(server)

    async def __aenter__(self) -> Daemon:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def sync_gateway(self, request: services_pb2.SyncRequest) -> services_pb2.SyncResponse:
        self.asked.append(request)
        return services_pb2.SyncResponse(keys_tag="t")


async def over(path: Path, words: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(words)
    found = await reader.read()
    writer.close()
    return found


def test_a_gateway_serves_tells_its_daemon_and_stops_when_told(
    folder: Path, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bursar.client.aio.AsyncWireClient", Daemon)
    monkeypatch.setattr(Daemon, "asked", [])
    monkeypatch.setattr(Daemon, "given", [])

    async def work() -> None:
        path = folder / "g.sock"
        running = asyncio.create_task(
            gateway.serve("unix:///d", f"unix:{path}", "https://llm.example", folder)
        )
        assert await systemd.hear() == "READY=1\nWATCHDOG=1"
        while not Daemon.asked:  # noqa: ASYNC110  (the double has no event: it is made by the program)
            await asyncio.sleep(0.01)
        answer = await over(path, b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 401 ")
        first = Daemon.asked[0]
        assert (Daemon.given, first.url) == (["unix:///d"], "https://llm.example")
        assert first.boot_id == gateway._boot_id() != ""
        asked = len(Daemon.asked)
        os.kill(os.getpid(), signal.SIGTERM)
        assert await running == 0
        assert len(Daemon.asked) > asked, "the last word is told"
        name = json.loads((folder / "gateway.json").read_text())["name"]
        assert {each.gateway for each in Daemon.asked} == {name}

    play(work)


def test_a_gateway_that_cannot_listen_or_whose_line_ends_says_so(
    folder: Path, systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bursar.client.aio.AsyncWireClient", Daemon)

    async def taken() -> None:
        with socket.socket() as held:
            held.bind(("127.0.0.1", 0))
            held.listen()
            port = held.getsockname()[1]
            with pytest.raises(
                StoreUnavailable, match=f"cannot listen at 127.0.0.1:{port}: .*choose another"
            ):
                await gateway.serve(None, f"127.0.0.1:{port}", "", folder)

    async def ends() -> None:
        async def broken(self: Any) -> None:
            raise ValueError("a defect")

        monkeypatch.setattr("bursar_gateway.link.Link.run", broken)
        with pytest.raises(ValueError, match="a defect"):
            await gateway.serve(None, f"unix:{folder}/h.sock", "", folder)

    play(taken)
    play(ends)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--listen 0.0.0.0:80", "--listen"),
        ("--listen nonsense", "--listen"),
        ("--listen unix:/g.sock", "--url: name what clients call a gateway that listens on a socket"),
        ("--state-dir /proc/none/x", "bursar-gateway: "),
    ],
)
def test_what_a_gateway_cannot_start_from_is_told(
    words: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gateway.main(words.split()) == 2
    assert said in capsys.readouterr().err


def test_a_gateway_ends_with_the_code_of_what_stopped_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[tuple[Any, ...]] = []

    async def serve(*what: Any) -> int:
        given.append(what)
        raise StoreUnavailable("taken")

    monkeypatch.setattr(gateway, "serve", serve)
    assert gateway.main(["--state-dir", str(folder / "g"), "--server", "unix:///s"]) == 5
    assert capsys.readouterr().err == "bursar-gateway: taken\n"
    assert given == [("unix:///s", "127.0.0.1:7481", "", folder / "g", None)]
    assert stat.S_IMODE((folder / "g").stat().st_mode) == 0o700
