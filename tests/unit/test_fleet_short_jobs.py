"""Jobs that are shorter than a message is on its way are billed for what they held."""

from __future__ import annotations

import pytest

from bursar.model import MemberAllocation
from bursard.fleet import believe
from bursard.state import AttemptRecord, MemberRecord
from bursard.state.decide.nodes import Reading

MEMBER = MemberRecord(MemberAllocation(rank=0, node_id="n"), "b", started_at=1)
ATTEMPT = AttemptRecord(
    id="att_1", job_id="job_1", number=1, option=0, members=[MEMBER], time_limit_us=10_000_000, grace_us=0,
    holds=(), placed_at=0,
)  # fmt: skip
NOW = Reading(at=0, boot_id="d", boot_us=1_003_000)


@pytest.mark.parametrize(
    ("claimed", "billed"), [(2_000, 2_000), (3_000, 3_000), (3_500, 3_003), (900_000, 3_003)]
)
def test_a_node_ahead_of_its_anchor_is_believed_for_as_long_as_its_order_is_old(
    claimed: int, billed: int
) -> None:
    """1. The node's hello was 50 ms on its way, so its clock reads more than its anchor allows.
    2. It was given an order 3 ms ago, and says how long its process has held.
    """
    order = believe.Order(boot_us=1_000_000, heard_boot_us={})
    found = believe.held(
        ATTEMPT, MEMBER, claimed, started_boot_us=500_000, until_boot_us=450_000, order=order, now=NOW
    )
    assert found == (billed, "")


def test_without_a_known_order_the_clock_of_the_node_decides() -> None:
    found = believe.held(
        ATTEMPT, MEMBER, 2_000, started_boot_us=500_000, until_boot_us=501_000, order=None, now=NOW
    )
    assert found == (1_001, "")
