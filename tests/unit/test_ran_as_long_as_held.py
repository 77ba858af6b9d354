"""How long something ran is what was held of it, whenever its end was told."""

from __future__ import annotations

from typing import Any

import pytest

from bursar.cli.texts import ran_s

FROM, TOLD = "2026-11-01T00:00:00Z", "2026-11-01T00:05:37Z"


def ended(*held: float, **known: Any) -> dict[str, Any]:
    nodes = [{"held_s": seconds} for seconds in held]
    return {"started_at": FROM, "finished_at": TOLD, "nodes": nodes, **known}


@pytest.mark.parametrize(("held", "ran"), [((270,), 270.0), ((270, 271.0004), 271.0), ((0,), 337.0)])
def test_an_attempt_whose_end_was_told_late_ran_as_long_as_it_was_held(
    held: tuple[float, ...], ran: float
) -> None:
    assert ran_s(ended(*held), 0) == ran
    assert ran_s({**ended(), "nodes": 1, "attempts": [ended(*held)]}, 0) == ran


def test_a_job_that_ran_twice_ran_from_its_first_start() -> None:
    assert ran_s({**ended(), "nodes": 1, "attempts": [ended(100), ended(200)]}, 0) == 337.0
