"""Offers that can be reckoned with: what a provider offers, without what cannot be so.

Why     one machine at a price that cannot be, or in another currency, must not keep all others from being
        rented.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from bursar.clock import HOUR_US
from bursar.money import NANOS_MAX
from bursar.words import plural
from bursard.machines.provider import MachineOffer

BOOT_MAX_US: Final = 24 * HOUR_US
COUNT_MAX: Final = 1 << 20
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._:/+-]{0,199}")


class Offered(NamedTuple):
    """What a provider offers. `left_out`: what else it said, and why that is none; "" where nothing."""

    offers: Sequence[MachineOffer]
    left_out: str


def sound(offers: Sequence[MachineOffer], currency: str) -> Offered:
    """Those that can be rented in these books."""
    good = list[MachineOffer]()
    bad = list[str]()
    for offer in offers:
        why = _why_not(offer, currency)
        if why:
            bad.append(f"{offer.place.instance_type[:60]!r} in {offer.place.zone[:60]!r}: {why}")
        else:
            good.append(offer)
    return Offered(good, f"{plural(len(bad), 'offer')} left out, such as {bad[0]}" if bad else "")


def _why_not(offer: MachineOffer, currency: str) -> str:
    place, rate = offer.place, offer.rate_nanos_per_hour
    if offer.currency != currency:
        return f"its price is in {offer.currency[:10]!r}, and these books are in {currency}"
    if not 0 < rate <= NANOS_MAX:
        return "its price is none" if rate <= 0 else "its price is beyond any amount"
    names = (place.region, place.zone, place.instance_type, place.market, offer.gpu_type or "none")
    if not all(_NAME.fullmatch(name) for name in names):
        return "its name or place is no name"
    if not (0 < offer.cpu_milli <= COUNT_MAX * 1000 and 0 < offer.memory_bytes <= NANOS_MAX):
        return "its CPUs or memory are none"
    if not (0 <= offer.gpu_count <= COUNT_MAX and 0 <= offer.gpu_memory_bytes <= NANOS_MAX):
        return "its GPUs cannot be so many"
    return "" if 0 <= offer.boot_us <= BOOT_MAX_US else "it would take too long to come up"
