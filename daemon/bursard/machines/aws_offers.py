"""What EC2 has to offer: types, zones, and what they cost, each heard from AWS and remembered for a while.

Owns    the shapes of machine types, where they are, on-demand and spot prices.
Why     a list of all types takes seconds and changes in months, a spot price changes in hours; so each is
        asked for as often as it is worth, and an answer of several pages counts once it is whole.

Prices on demand come from the Pricing API, and where that is not allowed from the price books in force.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation, Overflow
from typing import Any, Final, NamedTuple, TypeVar

from bursar.clock import HOUR_US, SECOND_US
from bursar.errors import InvalidRequest
from bursar.money import NANOS, NANOS_MAX
from bursar.resources import parse_gpu_type
from bursard.machines.aws_wire import Answer, Clients, equals, micros, paged
from bursard.machines.errors import family_of
from bursard.machines.provider import CloudError, Kind, MachineOffer, Needs, Place, PricePoint, Rate, Wanted

TYPES_KEPT_US: Final = 24 * HOUR_US
LISTED_KEPT_US: Final = 12 * HOUR_US
SPOT_KEPT_US: Final = 300 * SECOND_US
REFUSED_KEPT_US: Final = HOUR_US
"""So long the Pricing API is not asked again that we may not ask."""
PRICING_REGION: Final = "us-east-1"
"""The Pricing API is there and in two more regions, and tells of all."""
SPARE_PERCENT: Final = 95
"""A spot price of so much of the on-demand price says that there is no spare capacity."""
KERNEL_PERMILLE: Final = 75
"""What a machine's own system takes of its memory: so much of a type's memory is not offered to jobs."""
GPU_BOOT_US: Final = 240 * SECOND_US
_LINUX: Final = "Linux/UNIX"
_ON_DEMAND: Final = (
    ("operatingSystem", "Linux"),
    ("tenancy", "Shared"),
    ("preInstalledSw", "NA"),
    ("capacitystatus", "Used"),
)


Kept = TypeVar("Kept")


class Shape(NamedTuple):
    """A type of machine. `markets`: in which it can be had."""

    name: str
    cpu_milli: int
    memory_bytes: int
    gpu_type: str
    gpu_count: int
    gpu_memory_bytes: int
    markets: tuple[str, ...]


class _Kept(NamedTuple):
    until: int
    value: Any


class Offers:
    """Of one account. See `AwsProvider`, whose thread it is called in."""

    def __init__(self, clients: Clients, needs: Needs, page: int) -> None:
        self._clients = clients
        self._needs = needs
        self._page = page
        self._kept: dict[tuple[str, ...], _Kept] = {}
        self._began: dict[tuple[str, str], int] = {}
        """By region and type, since when its price on demand holds."""
        self.refused = ""
        """Why the Pricing API is not asked."""

    def of(self, wanted: Wanted) -> list[MachineOffer]:
        """What could be asked for now, as far as its price is known. Raises `CloudError`."""
        return [offer for region in wanted.regions for offer in self._of_region(region, wanted)]

    def _of_region(self, region: str, wanted: Wanted) -> Iterator[MachineOffer]:
        shapes = self.shapes(region, wanted.instance_types)
        shapes = {name: one for name, one in shapes.items() if not wanted.gpus or one.gpu_type in wanted.gpus}
        if not shapes:
            return
        zones = self._zones(region)
        spot = self._spot(region, shapes) if "spot" in (wanted.markets or ("spot",)) else {}
        for name, shape in sorted(shapes.items()):
            for market in shape.markets:
                for zone in sorted(zones.get(name, ())):
                    place = Place(region, zone, family_of(name), name, market)
                    if not wanted.includes(place, shape.gpu_type):
                        continue
                    rate = self.listed(place) if market == "on-demand" else self._spare(place, spot)
                    if rate is not None and rate.currency == self._needs.currency:
                        yield _offer(place, shape, rate)

    # --- types and zones

    def shapes(self, region: str, patterns: tuple[str, ...] = ()) -> Mapping[str, Shape]:
        """Types of a region by name; `patterns`: only those, where AWS knows such patterns."""
        known = not any(sign in pattern for pattern in patterns for sign in "[]")
        chosen = patterns if known else ()
        return self.keep(("types", region, *chosen), TYPES_KEPT_US, lambda: self._shapes(region, chosen))

    def _shapes(self, region: str, patterns: tuple[str, ...]) -> Mapping[str, Shape]:
        more: dict[str, Any] = {"Filters": [equals("instance-type", *patterns)]} if patterns else {}
        rows = paged(
            self._clients.of("ec2", region).describe_instance_types,
            "InstanceTypes",
            MaxResults=min(self._page, 100),
            **more,
        )
        found = (_shape(row) for row in rows)
        return {shape.name: shape for shape in found if shape is not None}

    def _zones(self, region: str) -> Mapping[str, set[str]]:
        return self.keep(("zones", region), TYPES_KEPT_US, lambda: self._ask_zones(region))

    def _ask_zones(self, region: str) -> Mapping[str, set[str]]:
        found: dict[str, set[str]] = {}
        rows = paged(
            self._clients.of("ec2", region).describe_instance_type_offerings,
            "InstanceTypeOfferings",
            LocationType="availability-zone",
            MaxResults=self._page,
        )
        for row in rows:
            found.setdefault(row["InstanceType"], set()).add(row["Location"])
        return found

    # --- prices

    def listed(self, place: Place) -> Rate | None:
        """On demand, there; None: nobody says."""
        at = Place(place.region, "", "", place.instance_type, "on-demand")
        return self._all_listed(place.region).get(place.instance_type) or self._needs.rate(at)

    def _all_listed(self, region: str) -> Mapping[str, Rate]:
        """By type, as the Pricing API says; none of them where we may not ask it."""
        key = "listed", region
        kept = self._kept.get(key)
        if kept is not None and self._needs.now() < kept.until:
            listed: Mapping[str, Rate] = kept.value
            return listed
        try:
            found = self._ask_listed(region)
        except CloudError as error:
            if error.kind is not Kind.AUTH:
                raise
            self.refused = str(error)
            self._kept[key] = _Kept(self._needs.now() + REFUSED_KEPT_US, {})
            return {}
        self.refused = ""
        self._kept[key] = _Kept(self._needs.now() + LISTED_KEPT_US, found)
        return found

    def _ask_listed(self, region: str) -> Mapping[str, Rate]:
        filters = [
            {"Type": "TERM_MATCH", "Field": field, "Value": value}
            for field, value in (*_ON_DEMAND, ("regionCode", region))
        ]
        client = self._clients.of("pricing", PRICING_REGION)
        found: dict[str, Rate] = {}
        for text in paged(
            client.get_products,
            "PriceList",
            ServiceCode="AmazonEC2",
            Filters=filters,
            MaxResults=min(self._page, 100),
        ):
            priced = _listed(json.loads(text) if isinstance(text, str) else text)
            if priced is not None:
                kind, nanos, currency, began = priced
                self._began[region, kind] = began
                found[kind] = Rate(
                    nanos_per_hour=nanos, currency=currency, as_of=self._needs.now(), source="aws price list"
                )
        return found

    def _spot(self, region: str, shapes: Mapping[str, Shape]) -> Mapping[tuple[str, str], Rate]:
        names = tuple(sorted(shapes))
        return self.keep(("spot", region, *names), SPOT_KEPT_US, lambda: self._ask_spot(region, names))

    def _ask_spot(self, region: str, names: tuple[str, ...]) -> Mapping[tuple[str, str], Rate]:
        """By type and zone: what holds now is the newest of each."""
        newest: dict[tuple[str, str], Rate] = {}
        for point in self.history(region, names, self._needs.now()):
            key = point.place.instance_type, point.place.zone
            if key not in newest or newest[key].as_of < point.since:
                newest[key] = Rate(
                    nanos_per_hour=point.rate_nanos_per_hour,
                    currency=point.currency,
                    as_of=point.since,
                    source="aws spot price history",
                )
        now = self._needs.now()
        return {
            key: Rate(
                nanos_per_hour=rate.nanos_per_hour, currency=rate.currency, as_of=now, source=rate.source
            )
            for key, rate in newest.items()
        }

    def history(self, region: str, names: tuple[str, ...], since: int) -> Iterator[PricePoint]:
        """Spot prices that held at an instant or later. Raises `CloudError`."""
        named: dict[str, Any] = {"InstanceTypes": list(names)} if len(names) <= 100 else {}
        rows = paged(
            self._clients.of("ec2", region).describe_spot_price_history,
            "SpotPriceHistory",
            StartTime=datetime.fromtimestamp(since // SECOND_US, UTC),
            ProductDescriptions=[_LINUX],
            MaxResults=self._page,
            **named,
        )
        wanted = set(names)
        for row in rows:
            nanos = nanos_of(row.get("SpotPrice"))
            kind = row["InstanceType"]
            if nanos and row.get("ProductDescription", _LINUX) == _LINUX and (not wanted or kind in wanted):
                yield PricePoint(
                    place=Place(region, row["AvailabilityZone"], family_of(kind), kind, "spot"),
                    since=micros(row["Timestamp"]),
                    rate_nanos_per_hour=nanos,
                    currency="USD",
                )

    def _spare(self, place: Place, spot: Mapping[tuple[str, str], Rate]) -> Rate | None:
        """The spot price there, where it says that there is spare capacity."""
        rate, listed = spot.get((place.instance_type, place.zone)), self.listed(place)
        if rate is None or listed is None:
            return rate
        full = listed.currency == rate.currency and (
            rate.nanos_per_hour * 100 >= listed.nanos_per_hour * SPARE_PERCENT
        )
        return None if full else rate

    def points(self, since: int) -> list[PricePoint]:
        """All prices that began since then, of what was offered so far."""
        found = [
            PricePoint(
                place=Place(key[1], "", family_of(kind), kind, "on-demand"),
                since=self._began.get((key[1], kind), rate.as_of),
                rate_nanos_per_hour=rate.nanos_per_hour,
                currency=rate.currency,
            )
            for key, kept in self._kept.items()
            if key[0] == "listed"
            for kind, rate in kept.value.items()
            if self._began.get((key[1], kind), rate.as_of) >= since
        ]
        regions: dict[str, set[str]] = {}
        for key in self._kept:
            if key[0] == "spot":
                regions.setdefault(key[1], set()).update(key[2:])
        for region, names in sorted(regions.items()):
            found += self.history(region, tuple(sorted(names)), since)
        return sorted(found, key=lambda point: point.since)

    def keep(self, key: tuple[str, ...], us: int, ask: Callable[[], Kept]) -> Kept:
        """What was answered, asked again when it is so old."""
        kept, now = self._kept.get(key), self._needs.now()
        if kept is None or not now < kept.until <= now + us:
            kept = self._kept[key] = _Kept(now + us, ask())
        value: Kept = kept.value
        return value


def nanos_of(text: object) -> int:
    """An amount as AWS writes it, in nanos; 0 for what is none."""
    try:
        value = Decimal(str(text)) * NANOS
    except (InvalidOperation, Overflow):
        return 0
    return int(value.to_integral_value()) if value.is_finite() and 0 < value <= NANOS_MAX else 0


def _offer(place: Place, shape: Shape, rate: Rate) -> MachineOffer:
    more = {"boot_us": GPU_BOOT_US} if shape.gpu_count else {}
    return MachineOffer(
        place=place,
        cpu_milli=shape.cpu_milli,
        memory_bytes=shape.memory_bytes,
        gpu_type=shape.gpu_type,
        gpu_count=shape.gpu_count,
        gpu_memory_bytes=shape.gpu_memory_bytes,
        rate_nanos_per_hour=rate.nanos_per_hour,
        currency=rate.currency,
        as_of=rate.as_of,
        source=rate.source,
        **more,
    )


def _shape(row: Answer) -> Shape | None:
    """A type that jobs can use; None of bare metal, of other makers' devices, and of fractions of a GPU."""
    gpus = (row.get("GpuInfo") or {}).get("Gpus") or ()
    others = any(row.get(key) for key in ("FpgaInfo", "InferenceAcceleratorInfo", "NeuronInfo"))
    if row.get("BareMetal") or others or len(gpus) > 1:
        return None
    gpu_type, count, memory = "", 0, 0
    for gpu in gpus:
        if gpu.get("Manufacturer") != "NVIDIA" or gpu.get("GpuPartitionSize", 1) < 1:
            return None
        try:
            gpu_type = parse_gpu_type(str(gpu["Name"]).replace(" ", ""))
        except InvalidRequest:
            return None
        count, memory = gpu["Count"], gpu["MemoryInfo"]["SizeInMiB"] << 20
    bytes_there = row["MemoryInfo"]["SizeInMiB"] << 20
    return Shape(
        name=row["InstanceType"],
        cpu_milli=row["VCpuInfo"]["DefaultVCpus"] * 1000,
        memory_bytes=bytes_there - bytes_there * KERNEL_PERMILLE // 1000,
        gpu_type=gpu_type,
        gpu_count=count,
        gpu_memory_bytes=memory,
        markets=tuple(one for one in ("on-demand", "spot") if one in row.get("SupportedUsageClasses", ())),
    )


def _listed(product: Answer) -> tuple[str, int, str, int] | None:
    """(type, nanos an hour on demand, currency, since when); None of an entry that is no price of an hour."""
    kind = product.get("product", {}).get("attributes", {}).get("instanceType", "")
    for term in product.get("terms", {}).get("OnDemand", {}).values():
        for dimension in term.get("priceDimensions", {}).values():
            for currency, text in dimension.get("pricePerUnit", {}).items():
                nanos = nanos_of(text)
                if kind and nanos and dimension.get("unit") == "Hrs":
                    since = datetime.fromisoformat(term["effectiveDate"].replace("Z", "+00:00"))
                    return kind, nanos, currency, micros(since)
    return None
