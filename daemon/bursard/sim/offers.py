"""The rows of OFFERS: machines that a simulation may rent, and when there are any.

Owns    columns, defaults and what each cell may say. Times are microseconds from the start.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from bursar.money import NANOS
from bursar.resources import parse_gpu_type
from bursar_policies.decision import GPU_SLOTS_MAX
from bursard.machines.provider import MARKETS, MachineOffer, Place
from bursard.sim.csvfile import BadCell, Table, integer, seconds_us
from bursard.sim.rows import DEFAULT_GPU_TYPE, MIB, price

COLUMNS: Final = (
    "offer_id", "instance_type", "cpu_milli", "memory_mib", "gpus", "gpu_type", "gpu_memory_mib",
    "price_per_hour", "market", "provision_s", "max_count", "availability", "region", "zone",
)  # fmt: skip
OFFERS_MAX: Final = 2_000
"""As many as a pool of the daemon may name."""
COUNT_MAX: Final = 100_000
BOOT_MAX_US: Final = 24 * 3_600_000_000
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,62}", re.ASCII)


class Times(msgspec.Struct, frozen=True):
    """When machines of an offer can be had: from `starts[i]` until just before `ends[i]`, in order and apart
    from each other. No end: for ever.
    """

    starts: tuple[int, ...] = (0,)
    ends: tuple[int, ...] = ()

    def until(self, at_us: int) -> int | None:
        """Until when they can be had that can be had now; 0: none can be. None: for ever."""
        index = bisect_right(self.starts, at_us) - 1
        if index < 0 or (index < len(self.ends) and self.ends[index] <= at_us):
            return 0
        return self.ends[index] if index < len(self.ends) else None

    def again(self, at_us: int) -> int | None:
        """When they can be had next: now, or later. None: never any more."""
        if self.until(at_us) != 0:
            return at_us
        index = bisect_right(self.starts, at_us)
        return self.starts[index] if index < len(self.starts) else None


class OfferRow(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of machine that may be rented. `max_count`: at once. `provision_us`: until its agent is there,
    and it is paid for from the order on.
    """

    offer_id: str
    place: Place
    cpu_milli: int
    memory_bytes: int
    gpus: int
    gpu_type: str
    gpu_memory_bytes: int
    rate_nanos: int
    provision_us: int
    max_count: int
    times: Times

    def offer(self, currency: str, as_of: int) -> MachineOffer:
        """As a provider says it."""
        return MachineOffer(
            place=self.place,
            cpu_milli=self.cpu_milli,
            memory_bytes=self.memory_bytes,
            gpu_type=self.gpu_type if self.gpus else "",
            gpu_count=self.gpus,
            gpu_memory_bytes=self.gpu_memory_bytes,
            rate_nanos_per_hour=self.rate_nanos,
            currency=currency,
            as_of=as_of,
            source=f"offer {self.offer_id}",
            boot_us=self.provision_us,
        )


def read_offers(path: str) -> list[OfferRow]:
    """What may be rented, in the order of the file. Raises `InvalidRequest` with every fault."""
    required = ("offer_id", "instance_type", "cpu_milli", "memory_mib", "price_per_hour")
    table = Table(path, COLUMNS, required)
    folder = Path() if path == "-" else Path(path).parent
    times: dict[str, Times] = {}
    found: list[OfferRow] = []
    ids: set[str] = set()
    places: set[Place] = set()
    for _ in table.rows():
        row = _offer(table, folder, times)
        if row.offer_id in ids:
            table.wrong("offer_id", f"the offer {row.offer_id!r} is there twice")
        elif row.place in places:
            table.wrong("offer_id", "another offer has this instance_type, market, region and zone already")
        ids.add(row.offer_id)
        places.add(row.place)
        found.append(row)
    if len(found) > OFFERS_MAX:
        table.wrong("offer_id", f"there are {len(found)} offers, at most {OFFERS_MAX}")
    table.finish()
    return found


def _offer(table: Table, folder: Path, times: dict[str, Times]) -> OfferRow:
    offer_id = table.require("offer_id", "", _name)
    region = table.cell("region", offer_id, _name)
    place = Place(
        region=region,
        zone=table.cell("zone", region, _name),
        instance_type=table.require("instance_type", "", _name),
        market=table.cell("market", "on-demand", _market),
    )
    return OfferRow(
        offer_id=offer_id,
        place=place,
        cpu_milli=table.require("cpu_milli", 1, integer(1, 10**9)),
        memory_bytes=table.require("memory_mib", 1, integer(1)) * MIB,
        gpus=table.cell("gpus", 0, integer(0, GPU_SLOTS_MAX)),
        gpu_type=table.cell("gpu_type", DEFAULT_GPU_TYPE, parse_gpu_type),
        gpu_memory_bytes=table.cell("gpu_memory_mib", 0, integer(0)) * MIB,
        rate_nanos=table.require("price_per_hour", NANOS, _price),
        provision_us=table.cell("provision_s", 0, _provision),
        max_count=table.cell("max_count", COUNT_MAX, integer(0, COUNT_MAX)),
        times=table.cell("availability", Times(), lambda text: _times(text, folder, times)),
    )


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise BadCell("must be 1 to 63 letters, digits, dots, dashes, underscores or +")
    return text


def _market(text: str) -> str:
    market = text.replace("_", "-")
    if market not in MARKETS:
        raise BadCell(f"{text[:60]!r} is no market: {' or '.join(MARKETS)}")
    return market


def _price(text: str) -> int:
    nanos = price(text)
    if nanos <= 0:
        raise BadCell(f"{text[:60]} must be more than 0; what costs nothing belongs into NODES")
    return nanos


def _provision(text: str) -> int:
    found = seconds_us(text)
    if found > BOOT_MAX_US:
        raise BadCell(f"{text[:60]} s is out of range; a machine is there within a day, or never")
    return found


def _times(text: str, folder: Path, known: dict[str, Times]) -> Times:
    """The file of one cell, read once. Raises `InvalidRequest` with the faults of that file."""
    if text not in known:
        path = folder / text
        known[text] = _read_times(str(path))
    return known[text]


def _read_times(path: str) -> Times:
    table = Table(path, ("from_s", "to_s"), ("from_s", "to_s"))
    starts: list[int] = []
    ends: list[int] = []
    for _ in table.rows():
        start, end = table.require("from_s", 0, seconds_us), table.require("to_s", 1, seconds_us)
        if end <= start:
            table.wrong("to_s", "must be after from_s")
        elif ends and start < ends[-1]:
            table.wrong("from_s", "is before the to_s of the row above: rows are in order, and apart")
        elif ends and start == ends[-1]:
            ends[-1] = end
        else:
            starts.append(start)
            ends.append(end)
    table.finish()
    return Times(tuple(starts), tuple(ends))


def latest_boot_us(rows: Sequence[OfferRow]) -> int:
    """How long the slowest of them takes to come up."""
    return max((row.provision_us for row in rows), default=0)
