"""The file of a `local` cloud: which machines it has, what they cost, and what goes wrong.

Owns    the form of the file and its check, with a line for every fault.
Why     a policy for a cloud is best tried where a stock-out costs nothing: the file says what happens and
        when, so the same story can be told again.
"""

from __future__ import annotations

import csv
from decimal import Decimal
from pathlib import Path
from typing import Final

import msgspec

from bursar.clock import SECOND_US
from bursar.errors import InvalidRequest
from bursar.model import MARKETS
from bursar.resources import MILLI, parse_gpu_type
from bursar.words import decimal_of
from bursar.yamlfile import (
    Faults,
    Fields,
    Node,
    load_yaml,
    nearest,
    raise_if_any,
    read_enum,
    read_int,
    read_items,
    read_money_per,
    read_string,
)
from bursard.machines.errors import TABLES, family_of
from bursard.machines.provider import Place

CALLS: Final = ("create", "list", "query", "terminate")
LOST: Final = "create-lost"
"""The machine is made, and the answer is an error."""
VANISH: Final = "vanish"
"""The machine is taken back without a word."""
_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
_NAME_EXPECTED: Final = "a name of letters, digits, '.', '_' and '-'"
_GPUS: Final = r"[A-Za-z][A-Za-z0-9-]{0,31}(:[1-9][0-9]?)?"
GPUS_MAX: Final = 16
_KEYS: Final = ("regions", "types", "quotas", "boot", "ending", "notice", "spot", "faults")


class LocalType(msgspec.Struct, frozen=True, kw_only=True):
    """A machine type. `rates`: (market, nanos per hour), as the file has them."""

    name: str
    cpu_milli: int
    memory_bytes: int
    gpu_type: str = ""
    gpu_count: int = 0
    rates: tuple[tuple[str, int], ...]


class LocalFault(msgspec.Struct, frozen=True, kw_only=True):
    """Something that goes wrong.

    Attributes:
        call: one of `CALLS`, or `LOST`, or `VANISH`. code: what it says.
        place: of which machines; parts that are empty are any.
        times: how often. after_us: not before the cloud, for `VANISH` the machine, is so old.
    """

    call: str
    code: str
    place: Place
    times: int
    after_us: int


class LocalCloud(msgspec.Struct, frozen=True, kw_only=True):
    """A whole cloud.

    Attributes:
        zones: (region, zone). quotas: (market, machines at once in a region).
        notice_us: how long before it takes a machine back its agent is told.
        spot_times: by zone, when it has spot machines, since the cloud began; of zones not named: always.
    """

    currency: str
    zones: tuple[tuple[str, str], ...]
    types: tuple[LocalType, ...]
    quotas: tuple[tuple[str, int], ...] = ()
    boot_us: int = 0
    ending_us: int = 0
    notice_us: int = 0
    spot_times: tuple[tuple[str, tuple[tuple[int, int], ...]], ...] = ()
    faults: tuple[LocalFault, ...] = ()

    def places(self) -> list[tuple[Place, LocalType, int]]:
        """Every machine that there could be: where, of which type, and nanos per hour."""
        return [
            (Place(region, zone, family_of(kind.name), kind.name, market), kind, rate)
            for region, zone in self.zones
            for kind in self.types
            for market, rate in kind.rates
        ]


def read_cloud(path: Path) -> LocalCloud:
    """The cloud of a file, and of the traces that it names beside it.

    Raises `InvalidRequest` with every fault of it and its line.
    """
    return parse_cloud(_read(path), path.name, path.parent)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"local_cloud: {path} cannot be read: {error.strerror}") from None


def parse_cloud(text: str | bytes, source: str, folder: Path = Path()) -> LocalCloud:
    """The cloud of a text. `folder`: of the traces it names.

    Raises `InvalidRequest` with every fault of it and its line.
    """
    faults = Faults(source)
    roots = load_yaml(text, faults)
    if len(roots) != 1 and not faults:
        faults.add_at(1, 1, "must hold one document: zones, types and prices of the cloud")
    cloud = _cloud(roots[0], faults, folder) if roots else None
    raise_if_any(faults, error=InvalidRequest)
    assert cloud is not None
    return cloud


def _cloud(root: Node, faults: Faults, folder: Path) -> LocalCloud | None:
    fields = Fields(root, faults, _KEYS)
    zones = [
        (region, zone)
        for region, node in fields.entries("regions", required=True).items()
        for zone in _names(node, faults)
    ]
    if not zones and not faults:
        faults.add(root, "has no zone; name one, as in `regions: {home: [home-a]}`", field="regions")
    currencies: set[str] = set()
    kinds = fields.entries("types", required=True)
    types = [one for name, node in kinds.items() if (one := _type(name, node, faults, currencies))]
    if len(currencies) > 1:
        faults.add(root, f"has prices in {' and '.join(sorted(currencies))}; use one currency", field="types")
    quotas = _quotas(fields, faults)
    boot_us, ending_us = fields.duration("boot") or 0, fields.duration("ending") or 0
    spot_times = _spot_times(fields, faults, [zone for _, zone in zones], folder)
    wrong = [_fault(node, faults, zones, [one.name for one in types]) for node in fields.items("faults")]
    if not types:
        if not faults:
            faults.add(root, "has no machine type", field="types")
        return None
    return LocalCloud(
        currency=min(currencies, default=""),
        zones=tuple(zones),
        types=tuple(types),
        quotas=quotas,
        boot_us=boot_us,
        ending_us=ending_us,
        notice_us=fields.duration("notice") or 0,
        spot_times=spot_times,
        faults=tuple(one for one in wrong if one is not None),
    )


def _names(node: Node, faults: Faults) -> list[str]:
    found = [
        read_string(item, faults, pattern=_NAME, expected=_NAME_EXPECTED) for item in read_items(node, faults)
    ]
    return [name for name in found if name is not None]


def _type(name: str, node: Node, faults: Faults, currencies: set[str]) -> LocalType | None:
    fields = Fields(node, faults, ("cpus", "memory", "gpus", "prices"))
    cpus = fields.decimal("cpus", required=True, minimum=Decimal("0.001"), maximum=Decimal(4096))
    memory = fields.size("memory", required=True)
    gpus = fields.string("gpus", pattern=_GPUS, expected="TYPE:COUNT, such as L4:1") or ""
    kind, _, count = gpus.partition(":")
    if gpus and int(count or 1) > GPUS_MAX and (given := fields.get("gpus")) is not None:
        faults.add(given, f"a node has at most {GPUS_MAX} GPUs")
    rates = []
    for market, price in fields.entries("prices", required=True).items():
        money = read_money_per(price, faults, "h", positive=True)
        if market not in MARKETS:
            near = nearest(market, MARKETS)
            faults.add_key(
                price, f"{market[:60]!r} is not a market; known: {', '.join(MARKETS)}", nearest=near
            )
        elif money is not None:
            rates.append((market, money.nanos))
            currencies.add(money.currency)
    if cpus is None or memory is None or not rates:
        return None
    return LocalType(
        name=name,
        cpu_milli=int(cpus * MILLI),
        memory_bytes=memory,
        gpu_type=parse_gpu_type(kind) if kind else "",
        gpu_count=int(count or 1) if kind else 0,
        rates=tuple(rates),
    )


def _quotas(fields: Fields, faults: Faults) -> tuple[tuple[str, int], ...]:
    found = []
    for market, node in fields.entries("quotas").items():
        limit = read_int(node, faults, minimum=0, maximum=100_000)
        if market not in MARKETS:
            near = nearest(market, MARKETS)
            faults.add_key(
                node, f"{market[:60]!r} is not a market; known: {', '.join(MARKETS)}", nearest=near
            )
        elif limit is not None:
            found.append((market, limit))
    return tuple(found)


def _spot_times(
    fields: Fields, faults: Faults, zones: list[str], folder: Path
) -> tuple[tuple[str, tuple[tuple[int, int], ...]], ...]:
    found = []
    for zone, node in fields.entries("spot").items():
        name = read_string(node, faults)
        if zone not in zones:
            near = nearest(zone, zones)
            faults.add_key(node, f"{zone[:60]!r} is no zone of this cloud", nearest=near)
        elif name is not None:
            try:
                found.append((zone, parse_trace(_read(folder / name).decode(errors="replace"), name)))
            except InvalidRequest as error:
                faults.add(node, error.message)
    return tuple(found)


def parse_trace(text: str, source: str) -> tuple[tuple[int, int], ...]:
    """The rows `from_s,to_s` of a trace as microseconds, in order. Raises `InvalidRequest` with the line."""
    try:
        rows = list(csv.reader(text.splitlines()))
    except csv.Error as error:
        raise InvalidRequest(f"{source}: is not CSV: {error}") from None
    if not rows or [cell.strip() for cell in rows[0]] != ["from_s", "to_s"]:
        raise InvalidRequest(f"{source}:1: the first line must be from_s,to_s")
    found: list[tuple[int, int]] = []
    for number, row in enumerate(rows[1:], 2):
        found_s = [seconds for cell in row[:2] if (seconds := decimal_of(cell.strip())) is not None]
        if len(found_s) != 2 or len(row) != 2:
            raise InvalidRequest(f"{source}:{number}: must be two numbers of seconds")
        start, end = (int(seconds * SECOND_US) for seconds in found_s)
        if not (found[-1][1] if found else 0) <= start < end:
            raise InvalidRequest(
                f"{source}:{number}: must begin when the line before has ended, or later, and end after that"
            )
        found.append((start, end))
    return tuple(found)


def _fault(node: Node, faults: Faults, zones: list[tuple[str, str]], types: list[str]) -> LocalFault | None:
    known = ("call", "code", "region", "zone", "instance_type", "market", "times", "after")
    fields = Fields(node, faults, known)
    call = fields.enum("call", (*CALLS, LOST, VANISH), required=True)
    default = "Interrupted" if call == VANISH else "Unavailable"
    code = fields.enum("code", sorted(TABLES["local"])) or default
    choices = {
        "region": sorted({region for region, _ in zones}),
        "zone": [zone for _, zone in zones],
        "instance_type": types,
        "market": MARKETS,
    }
    parts = {
        key: read_enum(given, faults, allowed) or ""
        for key, allowed in choices.items()
        if (given := fields.get(key)) is not None
    }
    times = fields.integer("times", minimum=1, maximum=1_000_000) or 1
    after_us = fields.duration("after") or 0
    if call is None:
        return None
    return LocalFault(call=call, code=code, place=Place(**parts), times=times, after_us=after_us)
