"""Quantities of machines: GPUs in thousandths, CPUs in thousandths, memory in bytes, and their text forms.

Why     fractions of a GPU must add up exactly (0.1 + 0.2 of a device is 300/1000, never a float),
        so every quantity is an integer in its smallest unit.
"""

from __future__ import annotations

import re
from decimal import Decimal

import msgspec
from msgspec.structs import replace

from bursar.errors import InvalidRequest

MILLI = 1000
"""Thousandths in one whole CPU or GPU."""
MICRO = 1_000_000
"""Millionths in one, of a factor or a point."""

_SIZE = re.compile(r"^(\d+(?:\.\d+)?)\s*([KMGTP]i?)?B?$", re.ASCII | re.IGNORECASE)
_POWER = {"K": 1, "M": 2, "G": 3, "T": 4, "P": 5}
_GPU_TYPE = re.compile(r"^[A-Za-z][A-Za-z0-9._-]{0,39}$")


class GpuRequest(msgspec.Struct, frozen=True):
    """GPUs wanted on one node.

    Attributes:
        count: devices, >= 1; exactly 1 when `milli` < 1000.
        types: acceptable device types, upper case; empty means any.
        milli: thousandths of each device, 1..1000; 1000 is a whole device.
        memory_bytes: least memory of each device; 0 means any.
    """

    count: int
    types: tuple[str, ...] = ()
    milli: int = MILLI
    memory_bytes: int = 0

    def __str__(self) -> str:
        name = "|".join(self.types) or "any"
        return f"{name}:{self.count}" if self.milli == MILLI else f"{name}:{self.milli / MILLI:g}"


def gpu_sizes(least: int, most: int) -> tuple[int, ...]:
    """The counts of a range of GPUs, most first: its ends, and the powers of two between them."""
    powers = (1 << power for power in range(most.bit_length()))
    return tuple(sorted({most, least, *(count for count in powers if least < count < most)}, reverse=True))


class ResourceRequest(msgspec.Struct, frozen=True):
    """What one node of a job needs: one of a job's alternatives.

    Attributes:
        gpus: None for a job without GPUs.
        cpu_milli: thousandths of a CPU, >= 0.
        memory_bytes: 0 means no reservation.
    """

    gpus: GpuRequest | None = None
    cpu_milli: int = MILLI
    memory_bytes: int = 0

    def __str__(self) -> str:
        parts = [f"{self.cpu_milli / MILLI:g} cpu"]
        if self.gpus:
            parts.insert(0, f"gpu {self.gpus}")
        if self.memory_bytes:
            parts.append(format_size(self.memory_bytes))
        return ", ".join(parts)


def sizes_of(request: ResourceRequest, least: int) -> tuple[ResourceRequest, ...]:
    """A request and its smaller forms, down to so many GPUs: what a range of them means."""
    gpus = request.gpus
    if gpus is None:
        return (request,)
    counts = gpu_sizes(least, gpus.count)
    return tuple(replace(request, gpus=replace(gpus, count=count)) for count in counts)


def least_gpus(options: tuple[ResourceRequest, ...], ordered: bool) -> int:
    """Where alternatives are the sizes of a range of GPUs, the most first, its least; else 0."""
    first, last = options[0].gpus, options[-1].gpus
    if not ordered or first is None or last is None or len(options) < 2:
        return 0
    return last.count if options == sizes_of(options[0], last.count) else 0


def throughput_key(kind: str, gpus: int) -> str:
    """How a job file names GPUs that a speed is of: `A100`, or `A100x4` for four of them in all."""
    return f"{kind}x{gpus}" if gpus else kind


def parse_size(text: str) -> int:
    """Read `128GB` (10^9), `64GiB` (2^30), `1.5TB`, or bare bytes. Raises `InvalidRequest`."""
    match = _SIZE.match(text.strip())
    if match is None:
        raise InvalidRequest(f"{text!r} is not a size; write it as 128GB (10^9) or 128GiB (2^30)")
    unit = (match.group(2) or "").upper()
    base = 1024 if unit.endswith("I") else 1000
    factor = base ** _POWER[unit[0]] if unit else 1
    size = int(Decimal(match.group(1)) * factor)
    if size >= 2**63:
        raise InvalidRequest(f"{text!r} is out of range; the largest size is 9 EB")
    return size


def format_size(size_bytes: int) -> str:
    """The shortest decimal form: `128GB`, `1.5TB`, `512MB`."""
    for unit, power in (("PB", 5), ("TB", 4), ("GB", 3), ("MB", 2), ("KB", 1)):
        if size_bytes >= 1000**power:
            return f"{size_bytes / 1000**power:.3g}{unit}"
    return f"{size_bytes}B"


def parse_milli(text: str) -> int:
    """Read a count of CPUs or a share of a GPU with at most 3 decimals into thousandths."""
    match = re.fullmatch(r"(\d{1,7})(?:\.(\d{1,3}))?", text.strip(), re.ASCII)
    if match is None:
        raise InvalidRequest(f"{text!r} is not a number with at most 3 decimals, such as 16 or 0.5")
    return int(match.group(1)) * MILLI + int((match.group(2) or "").ljust(3, "0"))


def parse_gpu_type(text: str) -> str:
    """One device type in its canonical upper case. Raises `InvalidRequest`."""
    if _GPU_TYPE.match(text.strip()) is None:
        raise InvalidRequest(f"{text!r} is not a GPU type; write a name such as H100 or A100")
    return text.strip().upper()
