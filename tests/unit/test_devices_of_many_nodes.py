"""Devices of a member: the form for many nodes at once takes what the form for one does."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bursar.resources import GpuRequest
from bursard.scheduler.devices import choose, take_many


@given(
    nodes=st.lists(st.lists(st.integers(0, 1000), min_size=4, max_size=4), min_size=1, max_size=6),
    count=st.integers(1, 4),
    milli=st.sampled_from([1, 250, 500, 999, 1000]),
)
def test_of_many_nodes_at_once_as_much_is_taken_as_of_each(
    nodes: list[list[int]], count: int, milli: int
) -> None:
    asked = GpuRequest(count, milli=milli)
    fits, after = take_many(np.array(nodes, dtype=np.int64), asked)
    for free, fit, left in zip(nodes, fits.tolist(), after.tolist(), strict=True):
        chosen = choose(free, asked)
        assert fit == (chosen is not None)
        if chosen is not None:
            assert left == [each - milli * (at in chosen) for at, each in enumerate(free)]
