"""The composition root: builds the agent from its parts and carries events between them.

Owns    every object of the process, its start and its end. Input: settings.
Why     only here does anything get constructed, so every part can be run alone in a test. On SIGTERM
        the agent goes and its jobs stay; the next agent adopts them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import shutil
import signal
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import bursar
from bursar.clock import Clock, SystemClock
from bursar.errors import BursarError, InvalidRequest, NotFound
from bursar.ids import RandomIds
from bursar.local import guard
from bursar.logend import of_another
from bursar.model import NodeFacts
from bursar.steps import modules, programs
from bursar.systemd import Notifier
from bursar_agent import containers, metadata, mps, notices
from bursar_agent import stimuli as s
from bursar_agent.agent import Agent
from bursar_agent.cgroups import limited
from bursar_agent.devices import Devices
from bursar_agent.effects import Members, SpoolWriter, Tasks, missing
from bursar_agent.environment import Accounts, Containers
from bursar_agent.forwarder import Forwarder
from bursar_agent.link import wire
from bursar_agent.link.connection import Link
from bursar_agent.link.identity import Door
from bursar_agent.probes import machine
from bursar_agent.probes.nvml import NvmlGpus
from bursar_agent.probes.readings import GpuProbe
from bursar_agent.probes.sampler import Sampler
from bursar_agent.probes.simulated import SimulatedGpus
from bursar_agent.progress import ProgressFiles
from bursar_agent.publisher import Broker, Publisher
from bursar_agent.readiness import Probe, Readiness
from bursar_agent.runner.handle import ProcessRunner
from bursar_agent.settings import Settings, parse_gpus
from bursar_agent.sharing import LIMIT as SHARING_LIMIT
from bursar_agent.sharing import Sharing
from bursar_agent.spool import Spool
from bursar_agent.statedir import Forgotten, LogEnd, StateDir, unusable
from bursar_agent.steps import Steps
from bursar_agent.writable import Writable

log = logging.getLogger(__name__)

SAMPLE_INTERVAL_S = 1.0
TICK_S_MIN, TICK_S_MAX = 0.05, 1.0
JANITOR_INTERVAL_S = 10.0
FOLDERS_S = 2.0
"""Between two looks whether somebody has removed what is ours."""
STOP_DEADLINE_S = 5.0
GOODBYE_S = 1.0
"""For the status at the broker."""


class App:
    """One agent process. `run` returns when asked to stop; see there for what it raises."""

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        self._settings = settings
        self._clock = clock or SystemClock()
        self._uniform = random.Random().uniform
        self._door = Door(settings.server, settings.token_file, settings.ca_file)
        self._door.check()
        self._state = StateDir(settings.state_dir)
        self._notifier = Notifier(os.environ)
        self._probing = ThreadPoolExecutor(1, thread_name_prefix="probe")
        self._tasks = Tasks()
        self._publisher: Publisher | None = None
        self._publishing: set[asyncio.Task[None]] = set()
        self._mqtt_url = ""
        self._unpersisted: s.PersistEpoch | None = None
        self._cluster_id = ""

    async def run(self) -> None:
        """Live until SIGTERM or SIGINT.

        Raises `BursarError`: refused by the daemon, or the state directory cannot be used.
        """
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        try:
            await self._build()
            self._notifier.send("READY=1")
            await self._live(stop)
        finally:
            self._notifier.send("STOPPING=1")
            try:
                async with asyncio.timeout(STOP_DEADLINE_S):
                    await self._close()
            except TimeoutError:
                log.error("not everything ended in time; leaving it", extra={"deadline_s": STOP_DEADLINE_S})

    # --- building -------------------------------------------------------------------------------

    async def _build(self) -> None:
        settings, clock = self._settings, self._clock
        self._boot_id = machine.boot_id()
        gpus = _gpus(settings, clock)
        cgroups = limited(settings.cgroup_root)
        self._sampler = Sampler(clock)
        try:
            spool = Spool(settings.state_dir / "spool", clock)
            self._forgotten = Forgotten(settings.state_dir / "forgotten", clock)
            remembered = self._state.remembered()
            self._instance = self._state.instance(RandomIds())
            run = self._state.run_directory()
            self._writable = Writable(settings.state_dir, lambda: self._runner.run_fd)
            program = shutil.which(mps.PROGRAM) if settings.mps != "off" else None
            self._sharing = Sharing(self._state.mps_dir, gpus.devices(), program)
            await asyncio.to_thread(self._sharing.trial)
            self._sharing.resume()
            self._devices = Devices(gpus, self._state, clock, self._boot_id, served=self._sharing.serves)
            self._devices.resume()
        except OSError as problem:
            raise unusable(problem, settings.state_dir) from None
        shared = (SHARING_LIMIT,) if self._sharing.limits else ()
        real = {device.index: device.uuid for device in gpus.devices() if not device.simulated}
        runs = await asyncio.to_thread(containers.find, settings.containers, bool(cgroups.roots), bool(real))
        labels = runs.labels(simulated=bool(gpus.devices()) and not real)
        self._facts = facts(settings, gpus, cgroups.limits + shared, labels)
        self._core = Agent(
            self._boot_id,
            epoch=remembered.epoch,
            # Seconds of wall time keep numbers rising even when the spool was lost.
            usage_seq=max(spool.last_seq, clock.now() // 1_000_000),
            spend_lease_us=remembered.spend_lease_us,
            now_boot_us=clock.boot_us(),
            cluster_id=self._state.cluster_id(),
        )
        self._link = Link(
            self._door,
            clock,
            self._emit,
            self._welcomed,
            self._uniform,
            self._log_end_told,
            lambda frame: self._steps.take(frame) if self._cluster_id else None,
            self._probe_ordered,
        )
        self._readiness = Readiness(
            lambda attempt, rank, ready, why: self._link.send(
                wire.readiness(attempt, rank, ready, why, self._forwarder.way)
            ),
            lambda: (one.key for one in self._core.live()),
        )
        self._forwarder = Forwarder(
            settings.state_dir, settings.address, settings.forward_at, self._readiness.port_of
        )
        self._spooling = SpoolWriter(spool, self._emit, self._send_usage)
        self._effects = self._effect_table()
        self._runner = ProcessRunner(
            run,
            lambda event: self._members.heard(event),
            cgroup_root=os.pathsep.join(cgroups.roots) or None,
        )
        self._members = Members(
            self._runner,
            self._state,
            Accounts(os.geteuid()),
            self._boot_id,
            self._emit,
            self._devices,
            self._look,
            self._sharing,
            Containers(runs.runtime, real),
        )
        self._progress = ProgressFiles(
            self._runner.read_progress,
            self._clock.boot_us,
            read_steps=partial(self._runner.read_steps, running=True),
        )
        await self._runner.open()
        self._steps = Steps(
            Path(self._state.steps_dir),
            self._runner,
            lambda frame: self._link.send_step(frame) if self._cluster_id else None,
            lambda: self._link.step_bytes,
            settings.server,
        )
        self._steps.open()
        truths = await self._members.truths()
        kept = tuple(t for t in truths if (t.attempt_id, t.rank) not in self._forgotten)
        self._devices.keep({(truth.attempt_id, truth.rank) for truth in kept})
        await self._sharing.keep({(truth.attempt_id, truth.rank) for truth in kept if truth.running})
        last = spool.last.counters if spool.last else ()
        self._emit(s.Adopted(kept, last, self._state.signals()))
        await self._look()
        log.info(
            "agent ready",
            extra={
                "node": settings.name,
                "gpus": len(self._facts.devices),
                "running": sum(t.running for t in kept),
                "untold_ends": sum(not t.running for t in kept),
            },
        )

    def _effect_table(self) -> Mapping[type, Callable[[Any], None]]:
        link = self._link
        return {
            s.SendHello: self._hello,
            s.PersistEpoch: lambda i: self._persist(i),
            s.StartMembers: lambda i: self._start(i),
            s.StopMember: lambda i: self._members.stop(i),
            s.LimitMember: lambda i: self._members.limit(i),
            s.SendCondition: link.send_condition,
            s.SendNotice: lambda i: link.send(wire.notice(i, self._clock.boot_us())),
            s.Probe: lambda _: self._tasks.spawn(self._look(), "probe"),
            s.SendLimitTaken: link.send_limit_taken,
            s.SendStarted: link.send_started,
            s.SendExited: lambda i: link.send_exited(i, gather=self._core.busy),
            s.ReadMeters: self._read_meters,
            s.SpoolAppend: self._spooling.put,
            s.SpoolTrim: self._spooling.put,
            s.ResendUsage: self._spooling.put,
            s.SendUsage: lambda i: self._send_usage(i.usage),
            s.SendHeartbeat: lambda i: link.send(wire.heartbeat(i.boot_us, self._clock.now())),
            s.ForgetMember: self._forget,
            s.ReadLog: lambda i: self._tasks.spawn(self._read_log(i), "read-log"),
            s.ReadTruth: lambda _: self._members.read_truth(),
            s.Note: _note,
        }

    # --- living ---------------------------------------------------------------------------------

    async def _live(self, stop: asyncio.Event) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                eternal = [
                    group.create_task(work, name=name)
                    for name, work in (
                        ("link", self._link.run()),
                        ("spool", self._spooling.run()),
                        ("tick", self._tick()),
                        ("sample", self._sample()),
                        ("janitor", self._janitor()),
                        ("folders", self._keep_folders()),
                        ("keeper", guard.watch(os.environ, log.warning)),
                        ("notices", self._watch_notices()),
                        ("metadata", self._watch_metadata()),
                        ("sharing", self._sharing.watch()),
                    )
                ]
                await stop.wait()
                log.info("stopping; jobs go on")
                for task in eternal:
                    task.cancel()
        except BaseExceptionGroup as problems:
            expected = problems.subgroup(BursarError)
            raise _first(expected or problems) from None

    def _emit(self, event: s.Event) -> None:
        """One event through the core, its instructions carried out in order."""
        effects = self._effects
        for instruction in self._core.handle(event):
            effects[type(instruction)](instruction)

    async def _tick(self) -> None:
        watchdog_us, fed_at = self._notifier.watchdog_us, 0
        while True:
            now = self._clock.boot_us()
            self._emit(s.Tick(now))
            if watchdog_us and now - fed_at > watchdog_us // 3:
                self._notifier.send("WATCHDOG=1")
                fed_at = now
            shortest_us = min(self._core.meter_interval_us, self._core.heartbeat_interval_us)
            await asyncio.sleep(min(max(shortest_us / 2_000_000, TICK_S_MIN), TICK_S_MAX))

    async def _watch_notices(self) -> None:
        """Its file is looked at for ever: nothing else tells that the machine is about to be taken back."""
        file = self._settings.notice_file
        while file != Path():
            found = await asyncio.to_thread(notices.read, file, self._clock)
            if found is not None:
                self._emit(found)
            await asyncio.sleep(notices.LOOK_EVERY_S)
        await asyncio.Event().wait()

    async def _watch_metadata(self) -> None:
        """The provider's own word, where it is asked for."""
        settings, loop = self._settings, asyncio.get_running_loop()
        if settings.notices:
            watch = metadata.open_watch(settings.notices, settings.metadata_url, self._clock)
            while True:
                found, pause_s = await loop.run_in_executor(None, watch.look)
                if found is not None:
                    self._emit(found)
                await asyncio.sleep(pause_s)
        await asyncio.Event().wait()

    async def _sample(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SAMPLE_INTERVAL_S)
            if not self._cluster_id:
                continue
            live = self._core.live()
            reading, trees = await loop.run_in_executor(self._probing, self._sampler.sample, live)
            reading = await self._devices.read(reading, trees)
            reading = await self._progress.look(reading)
            batch = wire.telemetry(self._cluster_id, self._settings.name, (reading,), self._clock.boot_us())
            # The daemon believes this stream alone: a broker does not say who has published what.
            self._link.send_telemetry(wire.telemetry_message(batch))
            if self._publisher is not None:
                wire.leave_out_steps(batch)  # names of programs are for those who may see the job
                self._publisher.offer(batch.SerializeToString())

    async def _janitor(self) -> None:
        """Remove directories of members whose log nobody needs any more."""
        while True:
            await asyncio.sleep(JANITOR_INTERVAL_S)
            expired = self._forgotten.take_expired()
            if expired:
                await asyncio.to_thread(self._remove, expired)
                try:
                    self._forgotten.rewrite()
                except OSError as problem:
                    log.warning("forgotten members", extra={"problem": problem.strerror})

    def _remove(self, keys: list[s.Key]) -> None:
        for key in keys:
            try:
                self._runner.forget(*key)
            except (BursarError, OSError) as problem:
                if not isinstance(problem, NotFound):
                    log.warning("cannot remove", extra={"attempt_id": key[0], "problem": str(problem)})

    async def _close(self) -> None:
        """In the reverse order of building; parts that were never built are not there."""
        if self._publisher is not None:
            self._publisher.close()
        if self._publishing:
            _, late = await asyncio.wait(self._publishing, timeout=GOODBYE_S)
            for task in late:
                task.cancel()
        await self._tasks.close()
        if hasattr(self, "_readiness"):
            await self._readiness.close()
        if hasattr(self, "_forwarder"):
            await self._forwarder.close()
        if hasattr(self, "_steps"):
            self._steps.close()
        if hasattr(self, "_members"):
            await self._members.tasks.close()
            await self._runner.close()
        self._probing.shutdown(wait=False)
        if hasattr(self, "_devices"):
            self._devices.close()
        if hasattr(self, "_sharing"):
            self._sharing.close()
        if hasattr(self, "_writable"):
            self._writable.close()
        if hasattr(self, "_progress"):
            self._progress.close()
        if hasattr(self, "_spooling"):
            self._spooling.close()
        if hasattr(self, "_forgotten"):
            self._forgotten.close()
        self._state.close()

    # --- effects --------------------------------------------------------------------------------

    def _hello(self, instruction: s.SendHello) -> None:
        self._keep_epoch()
        end, ours = self._state.log_end(), self._core.cluster_id
        if ours and (end is None or end.cluster_id != ours):
            end = LogEnd(ours, 0, b"")
        for message in wire.hello(
            instruction, self._facts, self._boot_id, bursar.__version__, self._instance, end
        ):
            self._link.send(message)

    def _log_end_told(self, seq: int, digest: bytes) -> None:
        if self._cluster_id:
            self._state.remember_log_end(LogEnd(self._cluster_id, seq, digest))

    def _probe_ordered(self, probe: Probe) -> None:
        if self._cluster_id:
            self._tasks.spawn(self._take_probe(probe), "probe-order")

    async def _take_probe(self, probe: Probe) -> None:
        """Let in who may come before the answer says so."""
        await self._forwarder.admit(probe.gateways)
        self._readiness.take(probe)

    def _welcomed(self, welcome: wire.Welcome) -> None:
        log.info("welcome", extra={"node_id": welcome.node_id, "cluster_id": welcome.cluster_id})
        mqtt_url, cluster_id = welcome.mqtt_url, welcome.cluster_id
        if self._core.holds_for_another(cluster_id):
            log.error(
                of_another(self._core.cluster_id, cluster_id, str(self._state.path)),
                extra={"cluster_id": cluster_id},
            )
            mqtt_url = cluster_id = ""  # no readings go to it either
        changed = (mqtt_url, cluster_id) != (self._mqtt_url, self._cluster_id)
        self._mqtt_url, self._cluster_id = mqtt_url, cluster_id
        if not changed:
            return
        if self._publisher is not None:
            self._publisher.close()
            self._publisher = None
        if mqtt_url:
            try:
                broker = Broker.parse(mqtt_url)
            except InvalidRequest as problem:
                log.error("telemetry goes to no broker", extra={"problem": problem.message})
                return
            self._publisher = Publisher(broker, cluster_id, self._settings.name, self._uniform)
            task = asyncio.get_running_loop().create_task(self._publisher.run(), name="publisher")
            self._publishing.add(task)
            task.add_done_callback(self._publishing.discard)

    def _persist(self, instruction: s.PersistEpoch) -> None:
        """What cannot be written is obeyed from memory: members go on, are told of and ended. None is started
        before it is durable, since an agent that came back without it could let a replaced daemon start the
        same once more.
        """
        self._unpersisted = instruction
        trouble = self._keep_epoch()
        if trouble and not self._core.trouble:
            self._emit(s.Probed(self._clock.boot_us(), trouble))

    def _keep_epoch(self) -> str:
        """Write what could not be written before; why it cannot be still, or nothing."""
        kept = self._unpersisted
        if kept is None:
            return ""
        try:
            self._state.persist(kept.epoch, kept.spend_lease_us, kept.cluster_id)
        except OSError as problem:
            return f"its agent cannot write which daemon it obeys (agent.json): {problem.strerror or problem}"
        self._unpersisted = None
        return ""

    def _start(self, instruction: s.StartMembers) -> None:
        if trouble := self._keep_epoch():
            self._members.refuse(instruction, trouble)
        else:
            self._members.start(instruction)

    def _mend(self) -> None:
        """Make anew what somebody removed of our directory while we have it. Raises `InvalidRequest`."""
        try:
            self._state.mend()
            self._runner.mend()
            self._steps.mend()
        except OSError as problem:  # told by whoever looks for what is not there
            log.warning("cannot be made anew", extra={"problem": str(problem)})

    async def _keep_folders(self) -> None:
        while True:
            await asyncio.sleep(FOLDERS_S)
            self._mend()

    async def _look(self, known: str = "") -> None:
        """Try our own directories and tell the core. `known`: what keeps members from being started all the
        same.
        """
        if hasattr(self, "_steps"):
            self._mend()
        found = await self._writable.trouble() or self._keep_epoch() or known
        self._emit(s.Probed(self._clock.boot_us(), found))

    def _read_meters(self, instruction: s.ReadMeters) -> None:
        wanted = set(instruction.keys)
        live = tuple(member for member in self._core.live() if member.key in wanted)
        self._tasks.spawn(self._meter(live), "meter")

    async def _meter(self, live: tuple[s.Live, ...]) -> None:
        def read() -> s.MeterRead:
            return s.MeterRead(*self._sampler.cpu_us(live), self._runner.ended([one.key for one in live]))

        self._emit(await asyncio.get_running_loop().run_in_executor(self._probing, read))

    def _send_usage(self, usage: s.Usage) -> None:
        self._link.flush_starts()
        self._link.send(wire.usage(usage))

    def _forget(self, instruction: s.ForgetMember) -> None:
        key = (instruction.attempt_id, instruction.rank)
        self._devices.forget(key)
        if not self._members.release(key):
            self._forgotten.add(key, instruction.log_bytes)
        if instruction.has_signal:
            self._state.forget_signal(key)

    async def _read_log(self, instruction: s.ReadLog) -> None:
        request_id = instruction.range.request_id
        try:
            data, offset, next_offset, dropped, ended, marks = await self._members.read_log(instruction)
        except NotFound as problem:
            never_ran = instruction.exit is not None or instruction.live
            error = "" if never_ran else f"{problem.message}, or its log is past its retention"
            asked = instruction.range.offset
            end = asked + missing(instruction, asked)
            reply = wire.log_reply(
                request_id,
                offset=end,
                next_offset=end,
                ended=not instruction.live,
                error=error,
                dropped_bytes=end - asked,
            )
            self._link.send(reply)
        except (BursarError, OSError) as problem:
            self._link.send(wire.log_reply(request_id, error=str(problem)))
        else:
            self._link.send(
                wire.log_reply(
                    request_id,
                    data=data,
                    offset=offset,
                    next_offset=next_offset,
                    ended=ended,
                    dropped_bytes=dropped,
                    marks=marks,
                )
            )


def facts(
    settings: Settings,
    gpus: GpuProbe,
    limits: tuple[str, ...] = (),
    found: Mapping[str, str] = MappingProxyType({}),
) -> NodeFacts:
    """What this node offers: what was found, cut to what was set."""
    found_cpu, found_memory = machine.cpu_milli(), machine.memory_bytes()
    return NodeFacts(
        name=settings.name,
        cpu_milli=settings.cpu_milli or found_cpu,
        memory_bytes=settings.memory_limit or found_memory,
        devices=gpus.devices(),
        pool=settings.pool,
        provider=settings.provider,
        region=settings.region,
        zone=settings.zone,
        rack=settings.rack,
        instance_type=settings.instance_type,
        market=settings.market,
        # What was tried is so, whatever somebody wrote into a file.
        labels=tuple(sorted({**_own_labels(), **settings.labels, **found}.items())),
        address=settings.address,
        limits=limits,
    )


def _own_labels() -> dict[str, str]:
    """What the node has that scripts ask for."""
    return {**modules.label_of(modules.find(os.environ)), **programs.label_of(os.environ)}


def _gpus(settings: Settings, clock: Clock) -> GpuProbe:
    kind, count = parse_gpus(settings.simulate_gpus)
    return SimulatedGpus(settings.name, kind, count, clock) if count else NvmlGpus()


def _note(note: s.Note) -> None:
    log.warning(note.message, extra={"attempt_id": note.attempt_id, "rank": note.rank})


def _first(problems: BaseExceptionGroup[BaseException]) -> BaseException:
    problem: BaseException = problems
    while isinstance(problem, BaseExceptionGroup):
        problem = problem.exceptions[0]
    return problem
