"""A cloud that says it is asked too often is asked ever more rarely, until an order is taken."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from rented_site import Site

from bursar.clock import SECOND_US
from bursard.machines.provider import CloudError, Kind


def test_orders_that_are_refused_as_too_many_wait_twice_as_long_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, asked = Site(tmp_path), list[int]()
    create = site.provider.create

    def refused(order: Any) -> str:
        asked.append(site.world.clock.now() // SECOND_US)
        if len(asked) == 9:
            return create(order)
        raise CloudError(Kind.THROTTLED, "RequestLimitExceeded", "too many")

    monkeypatch.setattr(site.provider, "create", refused)
    site.large()
    site.pass_time(400)
    assert len(asked) == 9
    assert [later - earlier for earlier, later in pairwise(asked)] == [2, 4, 8, 16, 32, 60, 60, 60]
    site.large()
    site.pass_time(20)
    assert [later - earlier for earlier, later in pairwise(asked[9:])] == [2, 4, 8]
