"""When a machine was paid for, as far as what its provider says can be so: the door of such instants.

Why     an instant decides over money, and clouds send some that cannot be: the year 1, or one in a century.
        What is not between the order and now is not believed; then what bursard has seen itself counts.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec.structs import replace

from bursar.clock import SECOND_US
from bursard.machines.provider import Instance
from bursard.state import MachineRecord

log = logging.getLogger(__name__)

LEEWAY_US: Final = 300 * SECOND_US
"""By so much a provider's clock may differ from bursard's."""


def believed(listed: Sequence[Instance], machines: Mapping[str, MachineRecord], now: int) -> list[Instance]:
    """What was listed, with instants of payment that can be so.

    Paid for since before its order: since the order; since what is still to come: since now. Paid for until
    before its order, or until what is still to come: until now. `machines`: by id; what is of none of them is
    never billed, and is left as it is.
    """
    return [
        _believed(one, machines[one.machine_id], now) if one.machine_id in machines else one for one in listed
    ]


def _believed(one: Instance, machine: MachineRecord, now: int) -> Instance:
    now = max(now, machine.intended_at)
    first, last = machine.intended_at - LEEWAY_US, now + LEEWAY_US
    since, until = one.billed_from, one.billed_until
    if since and not first <= since <= last:
        since = machine.intended_at if since < first else now
    if until and not first <= until <= last:
        until = now
    if (since, until) == (one.billed_from, one.billed_until):
        return one
    if one.gone or not machine.billed_from:
        log.warning(
            "a provider says of a machine that it was paid for when that cannot be",
            extra={
                "machine": machine.id,
                "provider": machine.provider,
                "said": f"{str(one.billed_from)[:40]} to {str(one.billed_until)[:40]}",
                "counts": f"{since} to {until}",
            },
        )
    return replace(one, billed_from=since, billed_until=until)
