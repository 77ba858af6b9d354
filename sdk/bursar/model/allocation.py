"""What an attempt holds: shares of devices and nodes at a frozen price, and promised money."""

from __future__ import annotations

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
