"""In which order nodes are filled: by name, and of nodes of several shapes the same part at a time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bursard.scheduler.world import filling_order

BIG, SMALL = (0, 8, 96, 384), (1, 2, 16, 64)


def order(*nodes: tuple[str, tuple[int, int, int, int]]) -> list[str]:
    columns = np.array([shape for _, shape in nodes], dtype=np.int64).T
    names = ("gpu_type", "gpu_total", "cpu_total", "memory_total")
    site: Any = SimpleNamespace(names=[name for name, _ in nodes], **dict(zip(names, columns, strict=True)))
    place = filling_order(site).tolist()
    return [name for _, name in sorted(zip(place, site.names, strict=True))]


def test_nodes_of_one_shape_are_filled_by_name() -> None:
    assert order(("c", BIG), ("a", BIG), ("b", BIG)) == ["a", "b", "c"]


def test_of_each_shape_the_same_part_is_filled_at_a_time_whatever_its_nodes_are_called() -> None:
    few, many = [(f"big-{i}", BIG) for i in range(2)], [(f"a-{i}", SMALL) for i in range(4)]
    assert order(*few, *many) == ["a-0", "big-0", "a-1", "a-2", "big-1", "a-3"]
    renamed = [(f"z-{i}", SMALL) for i in range(4)]
    assert order(*renamed, *few) == ["z-0", "big-0", "z-1", "z-2", "big-1", "z-3"]


@given(st.lists(st.sampled_from([BIG, SMALL, (2, 0, 8, 32)]), min_size=1, max_size=30))
def test_after_any_part_of_the_order_each_shape_has_had_about_that_part(shapes: list[Any]) -> None:
    nodes = {f"n{i:02}": shape for i, shape in enumerate(shapes)}
    filled = order(*nodes.items())
    for end in range(len(filled) + 1):
        for shape in set(shapes):
            had = sum(nodes[name] == shape for name in filled[:end])
            assert abs(had - shapes.count(shape) * end / len(shapes)) <= len(set(shapes)) / 2
