"""The gateway's line to its daemon: what it saw goes, what it serves by comes, once a second.

Why     a daemon that is away is no reason to answer nobody: routes and keys of the last answer stay in force
        until the replicas' own leases end, and what was counted waits on disk.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from bursar.aside import MARK, Damaged, clear_for_file, read_object, read_own, set_aside
from bursar.client.aio import AsyncWireClient
from bursar.clock import format_instant
from bursar.errors import BursarError
from bursar.local.files import write_json
from bursar.model.service import PREFIX, session_header
from bursar.money import format_nanos
from bursar.v1 import services_pb2 as pb
from bursar_gateway.core import SECOND_US, Core, Door, Key, Route
from bursar_gateway.http import Gateway
from bursar_gateway.meters import Kept, Meter
from bursar_gateway.purses import Purse

log = logging.getLogger(__name__)

EVERY_S: Final = 1.0
EAGER_S: Final = 0.1
"""While somebody waits for a first replica."""
KEEN_S: Final = 0.4
KEEN_US: Final = 30 * SECOND_US
"""So often, so long after somebody was refused for want of money: a budget that is raised lets in at once."""
MINUTES_MAX: Final = 500
USES_MAX: Final = 4_000
LOADS_MAX: Final = 1_000
"""Of one call, which the daemon takes up to 1 MiB and so many: what is more is told with the next."""


SPOOL_BYTES_MAX: Final = 1 << 30
"""Of what is counted and not yet told. What is larger is not ours."""


class Spool:
    """What must not be lost, in one file that is replaced whole and synced."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "usage.json"
        self._last = b""
        self.found = False
        """The numbers of the process before were read, and go on."""

    def read(self) -> Kept:
        """What the process before left. A damaged file is set aside: what it held is lost, and told.

        Raises `OSError`: it can be neither read nor set aside.
        """
        clear_for_file(self._path)
        try:
            found = msgspec.json.decode(read_own(self._path, SPOOL_BYTES_MAX), type=Kept)
        except FileNotFoundError:
            return Kept(lost=int(any(self._path.parent.glob(f"{self._path.name}{MARK}*"))))
        except (OSError, ValueError, RecursionError) as problem:
            aside = set_aside(self._path)
            log.error("what was counted cannot be read (%s) and lies aside as %s", problem, aside)
            return Kept(lost=1)
        self.found = True
        return found

    def write(self, kept: Kept) -> None:
        """Until it is on disk. Raises `OSError`."""
        data = msgspec.json.encode(kept)
        if data == self._last:
            return
        fresh = self._path.with_suffix(".new")
        clear_for_file(fresh)
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as made:
            made.write(data)
            made.flush()
            os.fsync(made.fileno())
        if self._path.is_dir():
            set_aside(self._path)
        os.replace(fresh, self._path)
        self._last = data


def name_of(folder: Path, goes_on: bool, fresh: Callable[[], str]) -> str:
    """This gateway's name, made at its first start, and anew where its numbers do not go on: the daemon takes
    no number twice from one name. Raises `OSError`.
    """
    path = folder / "gateway.json"
    try:
        found = read_object(path).get("name")
        if goes_on and isinstance(found, str) and 0 < len(found) <= 64:
            return found
    except Damaged:
        set_aside(path)
    name = fresh()
    write_json(path, {"name": name})
    return name


class Link:
    """Asks the daemon for ever."""

    def __init__(
        self,
        client: AsyncWireClient,
        name: str,
        boot_id: str,
        url: str,
        core: Core,
        meter: Meter,
        spool: Spool,
        now: Callable[[], int],
        certificate: str = "",
    ) -> None:
        self._client, self._name, self._boot_id, self._url = client, name, boot_id, url
        self._certificate = certificate
        self._core, self._meter, self._spool, self._now = core, meter, spool, now
        self._told_at = now()
        self._woken = asyncio.Event()
        self._away = self._unwritten = False
        self._keys_tag = ""
        self.gateway: Gateway | None = None

    def wake(self) -> None:
        """Ask at once."""
        self._woken.set()

    async def run(self) -> None:
        """For ever."""
        while True:
            await self.sync()
            cold = any(line.many and not self._reached(job_id) for job_id, line in self._core.lines.items())
            try:
                async with asyncio.timeout(self._pause(cold)):
                    await self._woken.wait()
            except TimeoutError:
                pass
            self._woken.clear()

    def _pause(self, cold: bool) -> float:
        if cold:
            return EAGER_S
        refused_at = self._core.purses.refused_at
        return KEEN_S if refused_at and self._now() - refused_at < KEEN_US else EVERY_S

    def _reached(self, job_id: str) -> bool:
        return any(route.replicas for route in self._core.routes.values() if route.job_id == job_id)

    async def sync(self) -> None:
        """Tell and ask once. What fails is told again with the next."""
        now = self._now()
        self._meter.roll(now)
        request = self._request(now, await asyncio.to_thread(self._write))
        try:
            answer = await self._client.sync_gateway(request)
        except BursarError as error:
            if not self._away:
                log.warning("the daemon does not answer; serving on: %s", error.message)
            self._away = True
            return
        if self._away:
            log.warning("the daemon answers again")
        self._away = False
        self._meter.acknowledged(answer.acknowledged_seq)
        self._learn(answer)

    def _write(self) -> bool:
        """What was counted is on disk: what is not must not be told, or another is told by its number."""
        try:
            self._spool.write(self._meter.kept())
        except OSError as problem:
            if not self._unwritten:
                log.error("what is counted cannot be written, and waits: %s", problem)
            self._unwritten = True
            return False
        self._unwritten = False
        return True

    def _learn(self, answer: pb.SyncResponse) -> None:
        now = self._now()
        routes = [_route(one) for one in answer.routes]
        for route in routes:
            self._meter.room(route.job_id, len(route.replicas) * route.target, now)
        purses = [_purse(one, routes[0].currency if routes else "") for one in answer.budgets]
        if self._keys_tag and answer.keys_tag == self._keys_tag:
            self._core.learn(routes, None, now, purses)
            return
        keys = {
            one.sha256: Key(
                id=one.id,
                job_id=one.job_id,
                requests_per_minute=one.requests_per_minute,
                concurrency=one.concurrency,
                expires_at=one.expires_at,
                budget=one.budget,
            )
            for one in answer.keys
        }
        self._core.learn(routes, keys, now, purses)
        self._keys_tag = answer.keys_tag

    def _request(self, now: int, written: bool) -> pb.SyncRequest:
        elapsed_us, self._told_at = max(now - self._told_at, 0), now
        request = pb.SyncRequest(
            gateway=self._name, boot_id=self._boot_id, url=self._url, keys_tag=self._keys_tag,
            certificate=self._certificate,
        )  # fmt: skip
        gateway = self.gateway
        answers = gateway.answers if gateway is not None else {}
        waited_for = {job_id for job_id, line in self._core.lines.items() if line.many}
        routes = self._core.routes.values()
        # Those that have something to tell are first.
        told = sorted(routes, key=lambda one: not one.replicas and one.job_id not in waited_for)
        for route in told[:LOADS_MAX]:
            job_id = route.job_id
            seen = sorted(gateway.latencies.get(job_id, ())) if gateway is not None else []
            line = self._core.lines.get(job_id)
            load = request.loads.add(
                job_id=job_id,
                elapsed_us=elapsed_us,
                busy_us=self._meter.busy(job_id),
                waiting=line.many if line is not None else 0,
                asked=gateway.asked.pop(job_id, 0) if gateway is not None else 0,
                p50_us=seen[len(seen) // 2] if seen else 0,
                p95_us=seen[len(seen) * 95 // 100] if seen else 0,
            )
            known = [one for one in self._core.outstanding.items() if one[0] in self._of(route)]
            told_of = dict.fromkeys(sorted(answers.keys() & route.replicas.keys()), 0) | dict(known)
            for attempt_id, many in told_of.items():
                one = load.replicas.add(attempt_id=attempt_id, outstanding=many)
                one.answered, one.failed, one.waited_us = answers.pop(attempt_id, (0, 0, 0))
        if written:
            self._tell_minutes(request)
        return request

    def _of(self, route: Route) -> set[str]:
        """Replicas of a service: those that it has, and those that no service has any more."""
        others = {one for each in self._core.routes.values() if each is not route for one in each.replicas}
        return {one for one in self._core.outstanding if one not in others}

    def _tell_minutes(self, request: pb.SyncRequest) -> None:
        uses = 0
        for minute in list(self._meter.pending)[:MINUTES_MAX]:
            uses += len(minute.uses)
            if request.minutes and uses > USES_MAX:
                break
            told = request.minutes.add(
                seq=minute.seq,
                job_id=minute.job_id,
                minute=minute.minute,
                busy_us=minute.busy_us,
                capacity_us=minute.capacity_us,
            )
            for key_id, use in minute.uses.items():
                told.uses.add(key_id=key_id, **msgspec.structs.asdict(use))


def _purse(wire: pb.KeyBudget, currency: str) -> Purse:
    amounts = {name: format_nanos(int(getattr(wire, name).nanos)) for name in ("limit", "settled", "held")}
    renews = {"renews_at": format_instant(wire.renews_at)} if wire.renews_at else {}
    return Purse(
        name=wire.name,
        left=int(wire.left.nanos) if wire.HasField("left") else None,
        facts={"budget": wire.name, **amounts, "currency": currency, **renews},
        renews_at=wire.renews_at,
    )


def _route(wire: pb.Route) -> Route:
    refused: dict[str, str] = {}
    if wire.HasField("refused"):
        refused = {**wire.refused.facts, "code": wire.refused.code, "message": wire.refused.message}
    return Route(
        job_id=wire.job_id,
        name=wire.name,
        api=wire.api,
        target=max(wire.target, 1),
        replicas={one.attempt_id: one.port for one in wire.replicas},
        queue_us=wire.queue_us,
        cold_us=max(wire.cold_us, SECOND_US),
        first_byte_us=wire.first_byte_us,
        idle_us=wire.idle_us,
        total_us=wire.total_us,
        refused=refused,
        units=wire.units,
        session_header=session_header(wire.balance),
        by_prefix=wire.balance == PREFIX,
        fallback=wire.fallback,
        waits=wire.waits.message,
        doors={
            one.attempt_id: Door(one.address, one.forward_port, one.certificate)
            for one in wire.replicas
            if one.forward_port
        },
        rates={one.attempt_id: int(one.rate.nanos) for one in wire.replicas if one.HasField("rate")},
        currency=wire.currency,
        budget_left=int(wire.budget_left.nanos) if wire.HasField("budget_left") else None,
        tried=frozenset(one.attempt_id for one in wire.replicas if one.canary),
        percent=min(wire.canary_percent, 100),
    )
