"""What an attempt holds: shares of devices and nodes at a frozen price, and promised money."""

from __future__ import annotations

from typing import NamedTuple

import msgspec


class DeviceShare(msgspec.Struct, frozen=True):
    """Part of one device held by one member: `milli` of 1000."""

    index: int
    milli: int = 1000


class ShareRates(msgspec.Struct, frozen=True, omit_defaults=True):
    """A member's price per hour by component, int nanos; their sum is its rate."""

    gpu: int = 0
    cpu: int = 0
    memory: int = 0

    @property
    def total(self) -> int:
        """Nanos per hour of the whole share."""
        return self.gpu + self.cpu + self.memory


class Capacity(NamedTuple):
    """Of one node, or of a share of it: thousandths of GPUs and CPUs, and bytes."""

    gpu_milli: int
    cpu_milli: int
    memory_bytes: int


def part_of(whole: ShareRates, of: Capacity, held: Capacity) -> ShareRates:
    """What a share of a node costs an hour where the node costs `whole`. Each part is rounded down, so that
    the shares of one node never sum to more than the node's own rate.
    """
    return ShareRates(
        gpu=whole.gpu * held.gpu_milli // of.gpu_milli if of.gpu_milli else 0,
        cpu=whole.cpu * held.cpu_milli // of.cpu_milli if of.cpu_milli else 0,
        memory=whole.memory * held.memory_bytes // of.memory_bytes if of.memory_bytes else 0,
    )


FREE = ShareRates()
"""Of a share whose price is unknown. The one object, so that nothing is written for it."""


class MemberAllocation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one rank of an attempt holds on one node, with the price frozen at placement.

    Attributes:
        rates: nanos per hour of this share. price_id: the price book entry or cost model they came
            from; empty when the node's price is unknown (then rates are 0 and the cost is *unknown*).
    """

    rank: int = 0
    node_id: str
    devices: tuple[DeviceShare, ...] = ()
    cpu_milli: int = 0
    memory_bytes: int = 0
    rates: ShareRates = FREE
    price_id: str = ""


class Hold(msgspec.Struct, frozen=True):
    """Money promised to one attempt by one budget in one period."""

    budget: str
    period_start: int
    nanos: int
