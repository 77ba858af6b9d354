"""What is free, after any takings and snapshots, is what a fresh count of the columns says."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from msgspec.structs import replace

from bursar.model import DeviceShare, ShareRates
from bursar.resources import MILLI
from bursar_policies.decision import NodeColumns, Placement
from bursard.scheduler import free as room
from bursard.scheduler.free import Free
from bursard.scheduler.testing import GIB, Node, columns, request

NODES = [Node(name=f"n-{at}", gpus=at % 3) for at in range(6)]
ASKED = [
    request(),
    request(cpus=8),
    request(gpus=1),
    request(gpus=2),
    request(gpus=0.5),
    request(memory_bytes=40 * GIB),
]


def placement(row: int, cpu: int, memory: int, devices: tuple[tuple[int, int], ...]) -> Placement:
    shares = tuple(DeviceShare(index=index, milli=milli) for index, milli in devices)
    return Placement(row, shares, cpu, memory, ShareRates())


def agrees(free: Free, nodes: NodeColumns) -> None:
    """Every answer is that of somebody who counts anew."""
    fresh = Free(nodes)
    for name in ("cpu", "memory", "gpus"):
        assert np.array_equal(getattr(free, name), getattr(fresh, name)), name
    for asked in ASKED:
        assert free.fitting(asked).tolist() == fresh.fitting(asked).tolist()
        some = np.array([4, 1])
        assert free.fitting(asked, some).tolist() == fresh.fitting(asked)[some].tolist()
        assert free.devices(asked).tolist() == fresh.devices(asked).tolist()
    for row in range(fresh.count):
        assert free.state(row) == fresh.state(row)


def moved(nodes: NodeColumns, random: Random) -> tuple[NodeColumns, list[int]]:
    """A later snapshot with other free shares on some nodes; which."""
    cpu, memory, gpus = nodes.cpu_free.copy(), nodes.memory_free.copy(), nodes.gpu_free.copy()
    rows = []
    for row in range(len(nodes.ids)):
        kind = random.randrange(4 if nodes.gpu_total[row] else 3)
        if kind == 1:
            cpu[row] += 1_000
        elif kind == 2:
            memory[row] -= GIB
        elif kind == 3:
            gpus[row, 0] = 700 if gpus[row, 0] == MILLI else MILLI
        if kind:
            rows.append(row)
    return replace(nodes, cpu_free=cpu, memory_free=memory, gpu_free=gpus), rows


@pytest.mark.parametrize("seed", range(8))
def test_a_snapshot_that_moved_is_taken_over_row_by_row(seed: int) -> None:
    random = Random(seed)
    nodes = columns(NODES)
    free = Free(nodes)
    for asked in ASKED:
        free.devices(asked)  # sizes that are kept must follow
    for _ in range(4):
        before = free.now
        nodes, rows = moved(nodes, random)
        assert free.sync(nodes).tolist() == rows
        assert free.since(before).tolist() == rows
        agrees(free, nodes)
    assert free.sync(nodes).tolist() == []


def test_what_is_taken_is_missing_from_its_node_alone_and_written_down() -> None:
    nodes = columns(NODES)
    free = Free(nodes)
    free.devices(request(gpus=1))
    free.take(placement(2, 3_000, GIB, ((0, 400), (1, MILLI))))
    free.take(placement(3, 1_000, 0, ()))
    gpus = nodes.gpu_free.copy()
    gpus[2, :2] = (600, 0)
    cpu, memory = nodes.cpu_free.copy(), nodes.memory_free.copy()
    cpu[2], cpu[3], memory[2] = 13_000, 15_000, 63 * GIB
    agrees(free, replace(nodes, cpu_free=cpu, memory_free=memory, gpu_free=gpus))
    assert (free.since(0).tolist(), free.since(1).tolist(), free.since(0, 1).tolist()) == ([2, 3], [3], [2])


def test_what_was_written_long_ago_is_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """1. The log holds so many entries. 2. Then it begins anew, and whoever read before it looks at all."""
    monkeypatch.setattr(room, "_LOG_MIN", 3)
    free = Free(columns(NODES[:1]))
    for _ in range(3):
        free.take(placement(0, 1, 0, ()))
    assert free.since(0).tolist() == [0, 0, 0]
    moment = free.now
    free.take(placement(0, 1, 0, ()))
    assert free.since(moment) is free.every
    assert free.since(free.now).tolist() == []
    assert free.since(free.now - 1).tolist() == [0]
    many = Free(columns(NODES))
    many.take(placement(0, 1, 0, ()))
    for _ in range(2):
        many._note(np.arange(6))
    assert many.since(many.now - 6).tolist() == [0, 1, 2, 3, 4, 5]
    assert many.since(0) is many.every


def test_a_site_without_nodes_has_nothing_free() -> None:
    free = Free(columns([]))
    assert (free.count, free.slots, free.fitting(request()).tolist()) == (0, 0, [])
    assert free.sync(columns([])).tolist() == []
