"""The composition root: the only place that builds things, and the one TaskGroup they live in.

Order   open the store, restore the state, start the writer, then the services; readiness is told last.
        On the way out: stop accepting, let agents go, flush, snapshot, close, under one deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from functools import partial
from pathlib import Path

import grpc
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from bursar.clock import Clock, SystemClock
from bursar.errors import BursarError, InvalidRequest, StoreUnavailable
from bursar.ids import RandomIds
from bursar.local import guard
from bursar.systemd import Notifier
from bursar.v1 import (
    access_pb2_grpc,
    agents_pb2_grpc,
    events_pb2_grpc,
    jobs_pb2_grpc,
    money_pb2_grpc,
    nodes_pb2_grpc,
    services_pb2_grpc,
)
from bursard import startup
from bursard.access.allowances import Allowances
from bursard.access.connections import HANDSHAKE_MS, Shares
from bursard.access.crowd import Crowd, raise_limit
from bursard.access.identity import Role
from bursard.access.keyset import Keys, fetcher
from bursard.access.oidc import Verifier
from bursard.access.refusals import Refusals
from bursard.access.tokens import Authority, Peers, UserToken, load_users
from bursard.access.vault import Vault, open_vault
from bursard.alerts import AnomalyWatch, Courier
from bursard.alerts.courier import secrets_in
from bursard.cycle import Cycle
from bursard.engine import Engine
from bursard.events import Event
from bursard.events.public import public
from bursard.events.subject import head_of
from bursard.fleet import Agents, Fleet
from bursard.fleet.refresh import Refresh
from bursard.idle import IdleWatch
from bursard.keyfiles import certificates, private_file, tls_pair
from bursard.machines.houses import BookRates
from bursard.machines.opening import open_cloud, open_local, open_needed, refuse_pools
from bursard.machines.provider import Needs, Provider
from bursard.machines.renting import Renting
from bursard.replay import restore
from bursard.services.access import AccessService
from bursard.services.agents import AgentsService
from bursard.services.events import EventsService
from bursard.services.interceptors import ANSWER_BYTES_MAX, Door
from bursard.services.jobs import JobsService
from bursard.services.money import MoneyService
from bursard.services.nodes import NodesService
from bursard.services.policies import PoliciesService
from bursard.services.serving import ServicesService
from bursard.services.spent import keep_read
from bursard.serving.keeper import Keeper
from bursard.settings import Settings
from bursard.sockets import SocketDir
from bursard.store import CommitUnknown, SqliteStore
from bursard.telemetry import LiveTelemetry
from bursard.telemetry.mqtt import MqttBridge
from bursard.writer import Writer

log = logging.getLogger(__name__)

SHUTDOWN_S = 5.0
SOCKET_PATH_MAX = 100
"""Bytes of a unix socket's path that every kernel and gRPC accept."""
MESSAGE_BYTES_MAX = 1024 * 1024
EXIT_COMMIT_UNKNOWN = 70
EXIT_SOCKETS_REMOVED = 75
"""Whoever keeps the daemon starts it again, and it listens where it is looked for."""
SWITCH_S = 0.001
FOLDERS_S = 2.0
"""Between two looks whether somebody has removed what is open."""

SERVER_OPTIONS = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", ANSWER_BYTES_MAX),
    ("grpc.max_metadata_size", 8192),
    ("grpc.max_concurrent_streams", 256),
    ("grpc.so_reuseport", 0),
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
    # No client of ours compresses. What is small on its way may be anything once it is unpacked, and the
    # limit of a message is told of too late then: a call that has been refused for less already.
    ("grpc.compression_enabled_algorithms_bitset", 1),
)
CONCURRENT_CALLS_MAX = 16_384
"""Above all rooms of `access/admission` together: calls that are being refused pass through too."""


async def run(settings: Settings) -> int:
    """Serve until told to stop. Returns the exit code."""
    store = SqliteStore(settings.state_dir)
    startup.refuse_a_clock_before(startup.program_written_at(), store, SystemClock(), settings.state_dir)
    clock, ids = startup.steady_clock(store, SystemClock(), _boot_id()), RandomIds()
    state = restore(store, settings.limits)
    store.drop_damaged_images()
    startup.refuse_other_books(state, store, settings.state_dir)
    writer = Writer(store, on_fault=_die)
    shipped, applied = startup.documents(settings.policies)
    engine = Engine(state, store, writer, clock, ids, shipped)
    engine.on_fault = _die
    if settings.local_cloud == Path():
        refuse_pools(applied)
    startup.settle_time(engine, clock, settings.state_dir)
    startup.first_events(engine, settings.currency, applied)
    # What was restored lives as long as the process: keep the collector from walking it.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    # The loop gets the interpreter back from a thread that works after so long, not five times that: at each
    # of its own waits it gives it away.
    sys.setswitchinterval(SWITCH_S)

    fleet = Fleet(
        engine,
        log_cap_bytes=settings.log_cap_bytes,
        run_as_submitter=settings.run_as_submitter,
        boot_id=_boot_id(),
    )
    cycle = Cycle(engine, hands=fleet)
    hub = Agents(engine, fleet)
    cycle.rents = _renting(engine, cycle, hub, settings)
    vault = open_vault(settings.secrets_key, os.environ.get("CREDENTIALS_DIRECTORY", ""))
    fleet.secrets = partial(vault.values, state)
    keeper = Keeper(engine)
    fleet.replicas.readied, fleet.replicas.gateways = keeper.readied, keeper.board.elsewhere
    keeper.on_gateways = fleet.replicas.probe_all
    telemetry = LiveTelemetry()
    provider = _provider(settings, clock)
    authority = Authority(
        state,
        clock,
        local_role=None if settings.local_role == "none" else Role(settings.local_role),
        users=_users(settings),
        provider=provider,
    )
    allowances = Allowances(clock.boot_us, settings.limits)
    engine.on_written = allowances.charge
    door = Door(authority, ids, clock, allowances)
    engine.listeners.append(door.on_event)
    courier = Courier(state, secrets_in(settings.alert_secrets_dir))
    engine.listeners.append(courier.on_event)
    shares = Shares.of(raise_limit(), tcp=bool(settings.listen))
    server = aio.server(
        interceptors=[door],
        options=(*SERVER_OPTIONS, ("grpc.max_allowed_incoming_connections", shares.unix)),
        maximum_concurrent_rpcs=CONCURRENT_CALLS_MAX,
    )
    services = add_services(
        server, engine, cycle, hub, telemetry, vault, door.refusals, allowances, settings, keeper
    )
    bridge = _bridge(engine, settings)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, partial(_reread, settings, authority, door))
    sockets = _Sockets(settings)
    try:
        await sockets.open(server, authority)
        crowd = Crowd(sockets.path, sockets.port, shares.rooms(), door.proven, clock)
        crowd.start()
        notifier = Notifier(os.environ)
        tasks = [asyncio.create_task(cycle.run(), name="cycle")]
        tasks.append(asyncio.create_task(_watchdog(cycle, notifier), name="watchdog"))
        keeping = startup.keep_time(engine, clock, settings.state_dir)
        tasks.append(asyncio.create_task(keeping, name="time"))
        tasks.append(asyncio.create_task(keep_read(engine), name="accounts"))
        tasks.append(asyncio.create_task(_keep_files(store, sockets, stop), name="files"))
        tasks.append(asyncio.create_task(guard.watch(os.environ, log.warning), name="keeper"))
        tasks.append(asyncio.create_task(door.sessions.run(), name="sessions"))
        tasks.append(asyncio.create_task(fleet.keep_deadlines(), name="deadlines"))
        tasks.append(asyncio.create_task(keeper.run(), name="services"))
        tasks.append(asyncio.create_task(services.books.run(), name="keys"))
        watch = IdleWatch(engine, telemetry.newest, hub.attachments.of)
        tasks.append(asyncio.create_task(watch.run(), name="idle"))
        tasks.append(asyncio.create_task(AnomalyWatch(engine).run(), name="anomalies"))
        if provider is not None:
            tasks.append(asyncio.create_task(provider.keys.run(), name="oidc"))
        if cycle.rents is not None:
            tasks.append(asyncio.create_task(cycle.rents.run(), name="machines"))
        if bridge is not None:
            tasks.append(asyncio.create_task(bridge.run(), name="mqtt"))
        log.info("ready", extra={"address": sockets.address, "events": state.version, "pid": os.getpid()})
        notifier.send("READY=1")
        await _until(stop, tasks)
        notifier.send("STOPPING=1")
        crowd.stop()
    finally:
        courier.close()
        hub.attachments.stop()
        await sockets.close(server)
        await _finish(engine, writer, store)
    return EXIT_SOCKETS_REMOVED if sockets.removed else 0


async def _keep_files(store: SqliteStore, sockets: _Sockets, stop: asyncio.Event) -> None:
    """See to it that what is open can be found. Sockets cannot be bound anew, so without them we end."""
    while True:
        await asyncio.sleep(FOLDERS_S)
        try:
            await asyncio.to_thread(store.keep_names)
        except (CommitUnknown, StoreUnavailable) as error:
            log.critical(str(error))
            _die(error)
        if sockets.look():
            log.critical("a socket was removed: ending, to be started again", extra={"path": sockets.removed})
            stop.set()


def _boot_id() -> str:
    """Of this machine's present boot: what the agents' clocks were anchored by is of use while it lasts."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _reread(settings: Settings, authority: Authority, door: Door) -> None:
    """SIGHUP: the tokens file has changed. One that is wrong changes nothing, and is told."""
    try:
        authority.replace(_users(settings))
    except (OSError, BursarError) as error:
        log.warning(
            "the tokens file was not taken; the tokens of before stay good", extra={"error": str(error)}
        )
        return
    door.sessions.recheck()
    log.info("the tokens file was read again")


def _die(error: BaseException) -> None:
    """Memory may be ahead of the disk. Leave at once; the next start reads what is true."""
    log.critical("what is true is unknown; exiting to start again from what is on disk", exc_info=error)
    logging.shutdown()
    os._exit(EXIT_COMMIT_UNKNOWN)


async def _until(stop: asyncio.Event, tasks: list[asyncio.Task[None]]) -> None:
    """Until told to stop. An eternal task that ends is a defect, and ends the daemon."""
    waiting = asyncio.create_task(stop.wait(), name="stop")
    done, _ = await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
    for task in [waiting, *tasks]:
        task.cancel()
    await asyncio.gather(*tasks, waiting, return_exceptions=True)
    for task in done - {waiting}:
        raise RuntimeError(f"task {task.get_name()} ended") from task.exception()


async def _watchdog(cycle: Cycle, notifier: Notifier) -> None:
    """Feed systemd's watchdog, but only while the cycle turns."""
    seen = -1
    while True:
        await asyncio.sleep(max(notifier.watchdog_us / 2_000_000, 1.0))
        if cycle.stats.turns != seen:
            seen = cycle.stats.turns
            notifier.send("WATCHDOG=1")


async def _finish(engine: Engine, writer: Writer, store: SqliteStore) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SHUTDOWN_S):
            await engine.save_snapshot()
    await writer.close()
    store.close()
    log.info("stopped")


# --- what it starts from


def _users(settings: Settings) -> tuple[UserToken, ...]:
    path = settings.tokens_file
    if path == Path():
        return ()
    private_file("tokens_file", path)
    return load_users(path)


def _provider(settings: Settings, clock: Clock) -> Verifier | None:
    """Who checks tokens of the site's identity provider. Raises `InvalidRequest`."""
    rules = settings.provider
    if rules is None:
        return None
    if rules.ca_file != Path():
        certificates("oidc_ca_file", rules.ca_file)
    return Verifier(rules, Keys(rules.issuer, fetcher(rules.ca_file), clock.boot_us), clock.now)


# --- what it serves


def add_services(
    server: aio.Server,
    engine: Engine,
    cycle: Cycle,
    hub: Agents,
    telemetry: LiveTelemetry,
    vault: Vault,
    refusals: Refusals,
    allowances: Allowances,
    settings: Settings,
    keeper: Keeper | None = None,
) -> ServicesService:
    """Everything the server answers, health included. Returns what looks after keys of services."""
    fleet, keeper = hub.fleet, keeper or Keeper(engine)
    jobs = JobsService(
        engine, cycle, fleet, telemetry.newest, allowances, hub.attachments, telemetry.history,
        keeper.board.cold_us,
    )  # fmt: skip
    jobs_pb2_grpc.add_JobsServicer_to_server(jobs, server)
    nodes_pb2_grpc.add_NodesServicer_to_server(NodesService(engine, cycle, hub, telemetry), server)
    agents = AgentsService(hub, telemetry, mqtt_url=settings.telemetry_mqtt_url)
    agents_pb2_grpc.add_AgentsServicer_to_server(agents, server)
    money_pb2_grpc.add_MoneyServicer_to_server(
        MoneyService(engine, Refresh(engine, hub.settle), fleet.unheard, lambda: cycle.rents), server
    )
    money_pb2_grpc.add_PoliciesServicer_to_server(PoliciesService(engine, cycle.rents), server)
    services = ServicesService(engine, cycle, keeper)
    services_pb2_grpc.add_ServicesServicer_to_server(services, server)
    access_pb2_grpc.add_AccessServicer_to_server(AccessService(engine, vault), server)
    events = EventsService(
        engine, cycle, refusals, vault,
        started_at=engine.now(), state_dir=settings.state_dir, services=keeper.services,
        clocks=fleet.clocks, gateways=keeper.board.gateways.values,
        keeper=lambda: guard.look_for_keeper(os.environ),
    )  # fmt: skip
    events_pb2_grpc.add_EventsServicer_to_server(events, server)
    health_service = health.aio.HealthServicer()  # type: ignore[attr-defined]  # missing in its stubs
    health_pb2_grpc.add_HealthServicer_to_server(health_service, server)
    health_service._server_status[""] = health_pb2.HealthCheckResponse.SERVING
    return services


def _renting(engine: Engine, cycle: Cycle, hub: Agents, settings: Settings) -> Renting:
    """Who rents machines. Without a pool it does nothing."""
    folder, rates = settings.state_dir / "machines", BookRates(engine.now)

    def needs(name: str) -> Needs:
        return Needs(now=engine.now, currency=engine.state.currency, rate=partial(rates.of, name))

    local = open_local(engine.state, settings.local_cloud, folder, engine.now)
    providers: list[Provider] = [local] if local is not None else []
    providers += open_needed(engine.state, needs)
    return Renting(
        engine,
        providers,
        f"unix://{settings.socket_dir / 'bursar.sock'}",
        lambda: cycle.last,
        hub.cut,
        lambda name: open_cloud(name, needs(name)),
        rates,
    )


def _bridge(engine: Engine, settings: Settings) -> MqttBridge | None:
    if not settings.telemetry_mqtt_url:
        return None
    bridge = MqttBridge(settings.telemetry_mqtt_url, engine.state.cluster_id)

    def on_event(seq: int, event: Event, at: int, actor: str) -> None:
        payload = public(event)
        bridge.publish_event(head_of(payload)[0], payload)

    engine.listeners.append(on_event)
    return bridge


class _Sockets:
    """The unix sockets, and TCP when there is TLS."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folder = settings.socket_dir
        self._path = self._folder / "bursar.sock"
        self._auth: Peers | None = None
        self._directory: SocketDir | None = None
        self._started = False
        self.removed = ""
        """The socket that somebody removed."""
        self.path, self.port = str(self._path), 0
        self.address = f"unix://{self._path}"

    async def open(self, server: aio.Server, authority: Authority) -> None:
        """Hold the directory, take over dead sockets, listen."""
        if len(os.fsencode(self._path)) > SOCKET_PATH_MAX:
            raise InvalidRequest(
                f"socket_dir: {self._path} is longer than the {SOCKET_PATH_MAX} bytes a socket's path may"
                " have; give a shorter --socket-dir"
            )
        try:
            directory = self._directory = SocketDir(self._folder, self._settings.state_dir)
            directory.free(self._path.name)
            auth = directory.free("auth.sock")
            server.add_insecure_port(self.address)
            if self._settings.listen:
                self.port = server.add_secure_port(self._settings.listen, self._credentials())
                self.address += f" and grpcs://{self._settings.listen}"
            await server.start()
            self._started = True
            directory.bound(self._path, 0o660)
            self._auth = Peers(authority, str(auth))
            directory.bound(auth, 0o660)
        except (OSError, RuntimeError) as error:
            raise StoreUnavailable(f"cannot listen in {self._folder}: {error}") from error

    def look(self) -> bool:
        """Has somebody removed one?"""
        self.removed = self._directory.removed() if self._directory is not None else ""
        return bool(self.removed)

    def _credentials(self) -> grpc.ServerCredentials:
        pair = tls_pair(self._settings.tls_cert_file, self._settings.tls_key_file)
        return grpc.ssl_server_credentials([pair])

    async def close(self, server: aio.Server) -> None:
        """Stop accepting, let calls end, remove our sockets."""
        if self._auth is not None:
            self._auth.close()
        if self._started:
            await server.stop(0.5)
        if self._directory is not None:
            self._directory.close()
