"""Which nodes have room for what is asked is what a fresh count says, whatever happens to the nodes."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from bursar.model import ShareRates
from bursar.resources import ResourceRequest
from bursar_policies.decision import NodeColumns, Placement
from bursar_policies.filters import Ask
from bursard.scheduler import devices, fits
from bursard.scheduler.candidates import Candidates
from bursard.scheduler.fits import Fits
from bursard.scheduler.free import Free, fitting_at_first
from bursard.scheduler.testing import GIB, Node, columns, request

NODES = [Node(name=f"n-{at:02}", gpus=at % 5) for at in range(12)]
ASKED = [
    *(request(cpus=cpus, memory_bytes=GIB) for cpus in (1, 8, 16)),
    *(request(gpus=gpus, cpus=1) for gpus in (0.25, 0.5, 1, 2, 4)),
    request(gpus=1, memory_bytes=40 * GIB),
]


def placed(free: Free, row: int, asked: ResourceRequest) -> Placement:
    gpus = asked.gpus
    held = devices.shares(devices.choose(free.state(row).gpus, gpus) or (), gpus) if gpus is not None else ()
    return Placement(row, held, asked.cpu_milli, asked.memory_bytes, ShareRates())


def agrees(found: Fits, free: Free, asked: list[Candidates]) -> None:
    for number, one in enumerate(asked):
        rows = np.flatnonzero(one.usable & free.fitting(one.request)).tolist()
        assert found.listed(number) == rows
        assert found.rows(number).tolist() == rows
        assert found.count(number) == len(rows)
        assert found.on(number, free.every).tolist() == [row in rows for row in range(free.count)]


def happens(draw: Random, nodes: NodeColumns, free: Free, found: Fits) -> None:
    """A start, a gang, or the next snapshot: as it was at first, but for some CPUs."""
    asked = draw.choice(ASKED)
    rows = np.flatnonzero(free.fitting(asked)).tolist()
    what = draw.choice(["start", "start", "start", "gang", "sync"])
    if what == "sync":
        nodes.cpu_free[draw.randrange(free.count)] -= 1_000
        free.sync(nodes)
        found.sync()
    elif what == "gang" and len(rows) > 1:
        free.take_all([placed(free, row, asked) for row in draw.sample(rows, 2)])
        found.take_gang()
    elif what == "start" and rows:
        found.take(free.take(placed(free, draw.choice(rows), asked)))


@pytest.mark.parametrize("few", [1, 3, 1_024])
@pytest.mark.parametrize("seed", range(6))
def test_room_is_known_whatever_happens(few: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fits, "FEW_MAX", few)
    draw, nodes = Random(seed), columns(NODES)
    nodes.cpu_free.flags.writeable = True
    free = Free(nodes)
    found, asked = Fits(free), []
    for number, one in enumerate(ASKED):
        asked.append(Candidates(Ask(one, (), "auto", (), False), nodes))
        assert found.add(asked[-1]) == number
        for _ in range(5):
            happens(draw, nodes, free, found)
            if draw.random() < 0.7:  # what was not looked at since must be right as well
                agrees(found, free, asked)


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_room_at_first_is_that_of_a_fresh_count(asked: ResourceRequest) -> None:
    nodes = columns(NODES)
    rows = np.array([7, 2, 11, 0], dtype=np.intp)
    assert fitting_at_first(nodes, asked, rows).tolist() == Free(nodes).fitting(asked)[rows].tolist()
