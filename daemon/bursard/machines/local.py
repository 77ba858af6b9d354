"""The provider `local`: a cloud on this machine, whose machines are agents as processes of their own.

Owns    what there is of its machines, in a file that outlives the daemon, and the processes behind them.
Why     it answers as a cloud does, stock-outs, quotas, lost answers and slow ends included, so that what is
        built on it meets a real cloud prepared; and whoever wants to see a machine come and go needs no
        account.

A machine is `pending` until its boot time has passed; the next look at it starts its process. It is noted
before its process is started: one that was started by a daemon that died at once is found again by its
command line.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from bursar.aside import set_aside
from bursar.clock import SECOND_US, format_duration
from bursar.local.files import write_json
from bursard.machines.errors import error_of
from bursard.machines.localfile import LOST, VANISH, LocalCloud, LocalType
from bursard.machines.provider import (
    Billing,
    Capabilities,
    Check,
    CloudError,
    CloudEvent,
    CostRow,
    Instance,
    InstanceState,
    Join,
    MachineOffer,
    Order,
    Place,
    PoolTerms,
    PricePoint,
    Quota,
    Wanted,
)

log = logging.getLogger(__name__)

TAKE_BACK = "take-back"
"""A file of this name in a machine's folder has it taken back now."""
HISTORY_MAX = 1_000
"""Machines that are gone and still listed: the newest."""


class Handle(msgspec.Struct, frozen=True):
    """A process for ever: its pid and when it started, in clock ticks since boot."""

    pid: int
    start: int


class Runs(Protocol):
    """What stands behind a machine. Raises `OSError` when it cannot."""

    def start(self, provider_id: str, join: Join, place: Place, kind: LocalType) -> Handle:
        """Start it, or find the one that was started for this machine already."""

    def notify(self, provider_id: str, said: str, left_us: int) -> None:
        """Tell it that it is taken back in so long."""

    def end(self, provider_id: str, handle: Handle | None) -> None:
        """End it, and all that it started."""

    def alive(self, handle: Handle) -> bool:
        """Does it still run?"""


class _Machine(msgspec.Struct, omit_defaults=True, kw_only=True):
    """One machine as the file has it.

    Attributes:
        join: until its process is started, and not longer.
        ended: nothing of it runs any more.
        taken_at: when it is taken back, as it was told; 0: it was not.
    """

    provider_id: str
    machine_id: str
    cluster: str
    place: Place
    created_at: int
    rate_nanos_per_hour: int
    ends_at: int
    join: Join | None = None
    handle: Handle | None = None
    billed_from: int = 0
    ending_at: int = 0
    ended: bool = False
    taken_at: int = 0
    gone_at: int = 0
    interrupted: bool = False
    message: str = ""


class _Book(msgspec.Struct, omit_defaults=True):
    """All of the file. `used`: by fault of the plan, how often it has happened."""

    began_at: int = 0
    next_number: int = 1
    machines: dict[str, _Machine] = {}
    used: dict[str, int] = {}


class LocalProvider:
    """See `Provider`. `now`: the wall clock in microseconds."""

    name = "local"

    def __init__(self, cloud: LocalCloud, file: Path, runs: Runs, now: Callable[[], int]) -> None:
        self.cloud = cloud
        self.capabilities = Capabilities(
            billing=Billing(), notice_us=cloud.notice_us, own_lifetime=True, calm_us=SECOND_US
        )
        self._file = file
        self._runs = runs
        self._now = now
        self._book = self._read()
        self._rates = {place: (kind, rate) for place, kind, rate in cloud.places()}

    # --- what is asked

    def preflight(self, pools: Sequence[PoolTerms]) -> list[Check]:
        """That the file of its machines can be written."""
        try:
            self._write()
        except CloudError as error:
            return [Check("state", False, error.message, f"make {self._file.parent} writable for the daemon")]
        return [Check("state", True, f"{self._file} can be written")]

    def offers(self, wanted: Wanted) -> list[MachineOffer]:
        """All of the file that is wanted."""
        return [
            MachineOffer(
                place=place,
                cpu_milli=kind.cpu_milli,
                memory_bytes=kind.memory_bytes,
                gpu_type=kind.gpu_type,
                gpu_count=kind.gpu_count,
                rate_nanos_per_hour=rate,
                currency=self.cloud.currency,
                as_of=self._book.began_at,
                source="local cloud",
                boot_us=self.cloud.boot_us,
            )
            for place, (kind, rate) in self._rates.items()
            if wanted.includes(place, kind.gpu_type)
        ]

    def prices(self, since: int) -> list[PricePoint]:
        """Those of the file, since the cloud began: they never change."""
        if self._book.began_at < since:
            return []
        rows = {(place.region, kind.name, place.market): rate for place, (kind, rate) in self._rates.items()}
        return [
            PricePoint(
                place=Place(region=region, instance_type=name, market=market),
                since=self._book.began_at,
                rate_nanos_per_hour=rate,
                currency=self.cloud.currency,
            )
            for (region, name, market), rate in rows.items()
        ]

    def quotas(self, region: str) -> list[Quota]:
        """By market, where the file has one."""
        self._look()
        return [
            Quota(scope=Place(region=region, market=market), limit=limit, used=self._count(region, market))
            for market, limit in self.cloud.quotas
        ]

    def create(self, order: Order) -> str:
        """The process itself starts when the boot time has passed."""
        self._look()
        place = order.place
        for machine in self._book.machines.values():
            if machine.machine_id == order.machine_id and machine.cluster == order.cluster:
                if machine.gone_at or machine.ending_at:
                    raise error_of("local", "AlreadyThere", "this order's machine has ended", place)
                return machine.provider_id
        self._fail("create", place)
        if place not in self._rates:
            raise error_of("local", "NotOffered", f"there is no {place.instance_type} in {place.zone}", place)
        if not self._spot_for(place, self._now() + self.cloud.notice_us):
            raise error_of("local", "NoCapacity", f"no spot machine is left in {place.zone}", place)
        for quota in self.quotas(place.region):
            if quota.scope.covers(place) and not quota.left:
                said = f"{quota.used} of {quota.limit} machines are there"
                raise error_of("local", "QuotaExceeded", said, place)
        provider_id = self._make(order)
        self._fail(LOST, place)
        return provider_id

    def poll(self, provider_id: str) -> Instance:
        """One machine."""
        found = self.query([provider_id])[provider_id]
        if found is None:
            raise error_of("local", "NotFound", f"there is no machine {provider_id}")
        if found.state is InstanceState.FAILED:
            raise error_of("local", "CannotStart", found.message, found.place)
        return found

    def query(self, provider_ids: Sequence[str]) -> dict[str, Instance | None]:
        """Some machines."""
        self._fail("query", Place())
        self._look()
        known = self._book.machines
        return {key: _instance(known[key]) if key in known else None for key in provider_ids}

    def list_owned(self, cluster: str, regions: Collection[str] = ()) -> list[Instance]:
        """Every machine of a cluster, gone ones too for as long as they are remembered."""
        self._fail("list", Place())
        self._look()
        return [_instance(one) for one in self._book.machines.values() if one.cluster == cluster]

    def terminate(self, provider_id: str) -> bool:
        """End its process now; it is listed as gone when its ending time has passed."""
        machine = self._book.machines.get(provider_id)
        if machine is None:
            return True
        self._fail("terminate", machine.place)
        if not machine.ending_at:
            machine.ending_at, machine.join = self._now(), None
            self._write()
        self._end(machine)
        self._write()
        self._look()
        return machine.gone_at != 0

    def events(self, since: int) -> list[CloudEvent]:
        """Machines that were taken back, or could not be started."""
        found = [
            CloudEvent(
                at=one.gone_at or one.ending_at or one.created_at,
                provider_id=one.provider_id,
                kind="interrupted" if one.interrupted else "failed",
                message=one.message,
            )
            for one in self._book.machines.values()
            if one.message
        ]
        return sorted((one for one in found if one.at >= since), key=lambda one: one.at)

    def actuals(self, since: int, until: int) -> Iterable[CostRow]:
        """By its own rule, of machines that are gone."""
        billing = self.capabilities.billing
        for one in self._book.machines.values():
            if not since <= one.created_at < until or not one.gone_at or not one.billed_from:
                continue
            ran_us = one.gone_at - one.billed_from
            yield CostRow(
                provider_id=one.provider_id,
                machine_id=one.machine_id,
                billed_us=billing.billed_us(ran_us, interrupted=one.interrupted),
                nanos=billing.nanos(one.rate_nanos_per_hour, ran_us, interrupted=one.interrupted),
                currency=self.cloud.currency,
            )

    # --- inside

    def _make(self, order: Order) -> str:
        provider_id = f"local-{self._book.next_number:06d}"
        self._book.next_number += 1
        now = self._now()
        self._book.machines[provider_id] = _Machine(
            provider_id=provider_id,
            machine_id=order.machine_id,
            cluster=order.cluster,
            place=order.place,
            created_at=now,
            rate_nanos_per_hour=self._rates[order.place][1],
            ends_at=now + order.lifetime_us,
            join=order.join,
        )
        self._write()
        return provider_id

    def _look(self) -> None:
        """Let happen what time has brought."""
        now, changed = self._now(), False
        for machine in self._book.machines.values():
            if not machine.gone_at:
                try:
                    changed = self._follow(machine, now) or changed
                except CloudError as error:
                    log.warning("a machine does not end", extra={"why": error.message})
        gone = [one for one in self._book.machines.values() if one.gone_at]
        for one in sorted(gone, key=lambda one: one.gone_at)[:-HISTORY_MAX]:
            del self._book.machines[one.provider_id]
        if changed:
            self._write()

    def _follow(self, machine: _Machine, now: int) -> bool:
        if machine.ending_at:
            return self._leave(machine, now)
        if machine.message:
            return False
        if not machine.billed_from:
            return self._boot(machine, now)
        if now >= machine.ends_at:
            self._end(machine)
            machine.ending_at, machine.message = machine.ends_at, "its lifetime is over"
            return True
        if machine.taken_at or self._takes(machine, now + self.cloud.notice_us):
            return self._take(machine, now)
        if machine.handle is not None and not self._runs.alive(machine.handle):
            self._end(machine)
            machine.gone_at = machine.ending_at = now
            machine.message = "its process is gone"
            return True
        return False

    def _takes(self, machine: _Machine, now: int) -> bool:
        """Is it to be taken back by then?"""
        if not self._spot_for(machine.place, now) or self._asked_back(machine):
            return True
        return self._strikes(VANISH, machine.place, now - machine.billed_from) is not None

    def _asked_back(self, machine: _Machine) -> bool:
        """Has somebody asked for it, to see what happens?"""
        return (self._file.parent / machine.provider_id / TAKE_BACK).exists()

    def _spot_for(self, place: Place, now: int) -> bool:
        """Does the trace of its zone have spot machines then? Of another market, and without one: always."""
        times = dict(self.cloud.spot_times).get(place.zone)
        age_us = now - self._book.began_at
        return place.market != "spot" or times is None or any(a <= age_us < b for a, b in times)

    def _take(self, machine: _Machine, now: int) -> bool:
        """Take it back: after its notice, where this cloud gives one."""
        told = machine.taken_at != 0
        if not told:
            machine.taken_at = now + self.cloud.notice_us
            if self.cloud.notice_us:
                left = format_duration(self.cloud.notice_us)
                with contextlib.suppress(OSError):  # then nobody is told
                    self._runs.notify(machine.provider_id, f"a spot machine, in {left}", self.cloud.notice_us)
        if now < machine.taken_at:
            return not told
        self._end(machine)
        machine.gone_at = machine.ending_at = now
        machine.interrupted, machine.message = True, "it was taken back"
        return True

    def _leave(self, machine: _Machine, now: int) -> bool:
        """What a daemon that died at once has not ended is there until somebody does."""
        gone_at = machine.ending_at + self.cloud.ending_us
        if now < gone_at:
            return False
        if not machine.ended:
            self._end(machine)
            gone_at = now
        machine.gone_at = gone_at
        return True

    def _boot(self, machine: _Machine, now: int) -> bool:
        if now < machine.created_at + self.cloud.boot_us or machine.join is None:
            return False
        kind, _ = self._rates[machine.place]
        try:
            machine.handle = self._runs.start(machine.provider_id, machine.join, machine.place, kind)
        except OSError as error:
            machine.message = f"its process cannot be started: {error.strerror}"
        else:
            machine.billed_from = machine.created_at + self.cloud.boot_us
        machine.join = None
        return True

    def _end(self, machine: _Machine) -> None:
        if machine.ended:
            return
        try:
            self._runs.end(machine.provider_id, machine.handle)
        except OSError as error:
            said = f"the process of {machine.provider_id} cannot be ended: {error.strerror}"
            raise error_of("local", "Unavailable", said) from None
        machine.ended = True

    def _count(self, region: str, market: str) -> int:
        return sum(
            not one.gone_at and (one.place.region, one.place.market) == (region, market)
            for one in self._book.machines.values()
        )

    def _fail(self, call: str, place: Place) -> None:
        """Raise what the file says goes wrong with a call now."""
        code = self._strikes(call, place, self._now() - self._book.began_at)
        if code is None:
            return
        error = error_of("local", code, "the fault plan says so", place if place.instance_type else None)
        if call == LOST:
            error.maybe_created = True
        self._write()
        raise error

    def _strikes(self, call: str, place: Place, age_us: int) -> str | None:
        """The code of a fault that happens now, which is counted; None when nothing does."""
        for fault in self.cloud.faults:
            key = msgspec.json.encode(fault).decode()
            used = self._book.used.get(key, 0)
            if (
                fault.call == call
                and used < fault.times
                and age_us >= fault.after_us
                and fault.place.covers(place)
            ):
                self._book.used[key] = used + 1
                return fault.code
        return None

    def _read(self) -> _Book:
        try:
            book = msgspec.json.decode(self._file.read_bytes(), type=_Book)
        except FileNotFoundError:
            book = _Book()
        except (msgspec.MsgspecError, UnicodeDecodeError):
            # What its machines were is lost; their processes are found by whoever looks for them. None that
            # comes now has the name of one that records still know.
            aside = set_aside(self._file)
            log.error(
                "the list of the provider's machines cannot be read and was set aside: those of the records"
                " are given up as gone, unless it lists them again",
                extra={"provider": self.name, "file": str(self._file), "aside": str(aside)},
            )
            book = _Book(next_number=self._now() // SECOND_US)
        book.began_at = book.began_at or self._now()
        return book

    def _write(self) -> None:
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_json(self._file, msgspec.to_builtins(self._book))
        except OSError as error:
            said = f"{self._file} cannot be written: {error.strerror}"
            raise error_of("local", "Unavailable", said) from None


def _instance(machine: _Machine) -> Instance:
    return Instance(
        provider_id=machine.provider_id,
        cluster=machine.cluster,
        machine_id=machine.machine_id,
        place=machine.place,
        state=_state(machine),
        created_at=machine.created_at,
        billed_from=machine.billed_from,
        billed_until=machine.gone_at if machine.billed_from else 0,
        interrupted=machine.interrupted,
        message=machine.message,
    )


def _state(machine: _Machine) -> InstanceState:
    if machine.gone_at:
        return InstanceState.GONE
    if machine.ending_at:
        return InstanceState.ENDING
    if machine.billed_from:
        return InstanceState.RUNNING
    return InstanceState.FAILED if machine.message else InstanceState.PENDING
