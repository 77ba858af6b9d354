"""`bursar-gateway`: serve the services of one daemon, on this machine.

Run     bursar-gateway --listen 127.0.0.1:7481
        bursar-gateway --listen unix:/run/bursar-gateway.sock      behind a proxy that speaks https
        bursar-gateway --listen 0.0.0.0:8443 --tls-cert FILE --tls-key FILE --url https://name:8443
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bursar import lastword, strays
from bursar.aside import clear_for_file, own_directory
from bursar.clock import SystemClock
from bursar.errors import BursarError, InvalidRequest, StoreUnavailable
from bursar.ids import RandomIds
from bursar.local.pages import loopback
from bursar.pinned import Pair, make_pair
from bursar.systemd import Notifier
from bursar.tracebacks import bound_tracebacks
from bursar_gateway import tls

if TYPE_CHECKING:
    from aiohttp import web

log = logging.getLogger(__name__)

LISTEN = "127.0.0.1:7481"
STATE = "~/.local/state/bursar/gateway"
EVERYWHERE = ("0.0.0.0", "::")
STOP_S = 10.0
"""Answers that are on their way have so long to end."""


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(prog="bursar-gateway", description="Serve the services of one daemon.")
    made.add_argument("--server", metavar="ADDR", help="unix:///path or grpcs://host:7443")
    made.add_argument(
        "--listen", metavar="ADDR", default=LISTEN, help=f"127.0.0.1:PORT or unix:/path [default: {LISTEN}]"
    )
    made.add_argument(
        "--tls-cert", metavar="FILE", help="speak https with this certificate (PEM), at any HOST:PORT"
    )
    made.add_argument("--tls-key", metavar="FILE", help="its key (PEM), for this account alone")
    made.add_argument(
        "--url",
        metavar="URL",
        default="",
        help="what clients call it [default: http://ADDR]",
    )
    made.add_argument(
        "--state-dir", metavar="DIR", default=STATE, help=f"what was counted waits here [default: {STATE}]"
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to stop."""
    lastword.hold()
    given = parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.WARNING,
        format="%(asctime)s %(levelname)s %(message)s",
        stream=lastword.Unblocked(sys.stderr),
    )
    bound_tracebacks()
    strays.overhear()
    try:
        certificate = _certificate(given)
        if certificate is not None:
            host, _ = tls.address(given.listen)
            if host in EVERYWHERE and not given.url:
                raise InvalidRequest(
                    f"--url: name what clients call a gateway that listens at {given.listen}"
                )
        elif not given.listen.startswith("unix:"):
            loopback(given.listen, "--listen")
        elif not given.url:
            raise InvalidRequest("--url: name what clients call a gateway that listens on a socket")
        folder = Path(given.state_dir).expanduser()
        own_directory(folder)
        import aiohttp  # noqa: F401  (said here, where it can be told)
    except ImportError as missing:
        lastword.say(f"bursar-gateway: {missing.name} is not installed: pip install 'bursar[gateway]'")
        return 2
    except (BursarError, OSError) as problem:
        lastword.say(f"bursar-gateway: {problem}")
        return 2
    try:
        import uvloop
    except ImportError:
        runner = asyncio.Runner()
    else:
        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    with runner:
        try:
            return runner.run(serve(given.server, given.listen, given.url, folder, certificate))
        except BursarError as problem:
            lastword.say(f"bursar-gateway: {problem}")
            return problem.exit_code
        except OSError as problem:
            lastword.say(f"bursar-gateway: {folder} cannot be used: {problem}")
            return StoreUnavailable.exit_code


def _certificate(given: argparse.Namespace) -> tls.Certificate | None:
    """What clients are shown; None: they come over the loopback, or a proxy speaks for us."""
    if not given.tls_cert and not given.tls_key:
        return None
    if not given.tls_cert or not given.tls_key:
        raise InvalidRequest("--tls-cert, --tls-key: name both, the certificate and its key")
    if given.listen.startswith("unix:"):
        raise InvalidRequest("--tls-cert: a socket is of this machine alone; leave it out")
    return tls.Certificate(Path(given.tls_cert).expanduser(), Path(given.tls_key).expanduser())


async def serve(
    server: str | None, listen: str, url: str, folder: Path, certificate: tls.Certificate | None = None
) -> int:
    """Until SIGTERM. Raises `BursarError`."""
    from aiohttp import web

    from bursar.client.aio import AsyncWireClient
    from bursar_gateway.core import Core
    from bursar_gateway.http import Gateway
    from bursar_gateway.link import Link, Spool, name_of
    from bursar_gateway.meters import Meter
    from bursar_gateway.purses import Purses

    clock, stop = SystemClock(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    spool = Spool(folder)
    meter = Meter(spool.read(), clock.now())
    core = Core(Purses(lambda key_id: meter.untold.get(key_id, {})))
    boot_id = _boot_id()
    name = name_of(folder, spool.found, lambda: RandomIds().new("gw"))
    async with AsyncWireClient(server) as client:
        pair = _pair(folder)
        shown = pair.certificate if pair is not None else ""
        called = url or f"{'https' if certificate is not None else 'http'}://{listen}"
        link = Link(client, name, boot_id, called, core, meter, spool, clock.now, shown)
        gateway = link.gateway = Gateway(core, meter, clock.now, link.wake, pair)
        await gateway.open()
        runner = web.ServerRunner(gateway.server(), shutdown_timeout=STOP_S)
        await runner.setup()
        try:
            door = await open_at(listen, runner, certificate)
        except OSError as error:
            await runner.cleanup()
            await gateway.close()
            raise StoreUnavailable(f"cannot listen at {listen}: {error.strerror}; choose another") from None
        asking = asyncio.create_task(link.run(), name="link")
        notifier = Notifier(os.environ)
        beating = asyncio.create_task(_alive(notifier), name="alive")
        watching = asyncio.create_task(certificate.watch(), name="certificate") if certificate else None
        try:
            await _until(stop, asking)
        finally:
            beating.cancel()
            if watching is not None:
                watching.cancel()
            if door is not None:
                door.close()
            await runner.cleanup()
            await gateway.close()
            asking.cancel()
        await link.sync()
    return 0


async def open_at(
    listen: str, runner: web.ServerRunner, certificate: tls.Certificate | None
) -> asyncio.Server | None:
    """Let clients in. Returns what is to be closed beside the runner. Raises `OSError`."""
    from aiohttp import web

    from bursar_gateway.http import BACKLOG

    if certificate is not None:
        host, port = tls.address(listen)
        assert runner.server is not None
        # aiohttp's own sites give a client a minute for its handshake.
        return await asyncio.get_running_loop().create_server(
            runner.server, host, port, ssl=certificate.context, backlog=BACKLOG,
            ssl_handshake_timeout=tls.HANDSHAKE_S,
        )  # fmt: skip
    site: web.BaseSite
    if listen.startswith("unix:"):
        site = web.UnixSite(runner, "/" + listen.removeprefix("unix:").lstrip("/"), backlog=BACKLOG)
    else:
        host, port = loopback(listen, "--listen")
        site = web.TCPSite(runner, host, port, backlog=BACKLOG)
    await site.start()
    return None


def _pair(folder: Path) -> Pair | None:
    """What agents of other machines are shown, anew at each start; None: it cannot be made, which is told."""
    path = folder / "replicas.pem"
    try:
        clear_for_file(path)
        return make_pair(path)
    except (ImportError, OSError) as problem:
        log.error("replicas on other machines cannot be reached: %s", problem)
        return None


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


async def _alive(notifier: Notifier) -> None:
    """Tell whoever keeps us that the loop turns."""
    while True:
        notifier.send("READY=1\nWATCHDOG=1")
        await asyncio.sleep(max(1.0, notifier.watchdog_us / 3_000_000))


async def _until(stop: asyncio.Event, asking: asyncio.Task[None]) -> None:
    """Until told to stop; a line that ends is a defect, and ends us."""
    waiting = asyncio.create_task(stop.wait(), name="stop")
    await asyncio.wait((waiting, asking), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if asking.done():
        asking.result()


if __name__ == "__main__":
    sys.exit(main())
