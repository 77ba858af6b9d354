"""Prices of shares: floored parts that never exceed the node."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bursar.model import DeviceShare
from bursar.money import cumulative
from bursard.scheduler import share_rates
from bursard.scheduler.pricing import capped_time_limit_us, longest_hold_us
from bursard.scheduler.testing import GIB, Node, columns

RATES = st.integers(0, 10**14)


def test_share_has_a_part_of_each_component():
    nodes = columns([Node(name="a", gpus=4, cpu_milli=8_000, memory_bytes=8 * GIB, rates=(800, 80, 16))])
    rates = share_rates(nodes, 0, (DeviceShare(0), DeviceShare(1, 500)), 2_000, 2 * GIB)
    assert (rates.gpu, rates.cpu, rates.memory) == (300, 20, 4)


def test_unknown_price_has_no_rate():
    assert share_rates(columns([Node(name="a", gpus=1)]), 0, (DeviceShare(0),), 1, 1).total == 0


@given(RATES, RATES, RATES, st.lists(st.integers(1, 1000), min_size=1, max_size=8), st.data())
def test_shares_never_sum_to_more_than_the_node(gpu, cpu, memory, split, data):
    """Any split of a node's devices, CPUs and memory costs at most the node."""
    nodes = columns([Node(name="a", gpus=len(split), cpu_milli=7_001, rates=(gpu, cpu, memory))])
    total = 0
    cpu_left, memory_left = 7_001, int(nodes.memory_total[0])
    for index, milli in enumerate(split):
        for part in (milli, 1000 - milli):
            taken_cpu, taken_memory = (
                data.draw(st.integers(0, cpu_left)),
                data.draw(st.integers(0, memory_left)),
            )
            cpu_left, memory_left = cpu_left - taken_cpu, memory_left - taken_memory
            total += share_rates(nodes, 0, (DeviceShare(index, part),), taken_cpu, taken_memory).total
    assert total <= gpu + cpu + memory


@given(st.integers(1, 10**15), st.integers(0, 10**15))
def test_longest_hold_is_the_last_that_fits(rate, nanos):
    longest = longest_hold_us(rate, nanos)
    assert cumulative(rate, longest) <= nanos < cumulative(rate, longest + 1)


def test_without_a_cap_the_time_limit_stays():
    assert capped_time_limit_us(10**12, 100, 110, 0) == 100
