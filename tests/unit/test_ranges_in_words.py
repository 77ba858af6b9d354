"""How a range of GPUs is said to people."""

from __future__ import annotations

from bursar.cli import texts


def test_a_range_of_gpus_is_said_as_one_and_alternatives_as_they_are() -> None:
    def options(*counts: int, kinds: tuple[str, ...] = ("A100",)) -> dict[str, object]:
        each = [{"gpus": n, "cpus": 1, "memory_bytes": 0, "gpu_types": list(kinds)} for n in counts]
        return {**each[0], "any_of": each}

    assert texts.resources_text(options(4, 2)) == "gpu A100:2..4, 1 cpu"
    assert texts.resources_text(options(8, 4, 2)) == "gpu A100:2..8, 1 cpu"
    assert texts.resources_text(options(8, 2)) == "gpu A100:8, 1 cpu", "two alternatives, no range"
    job = {"nodes": 1, "max_nodes": 0, "resources": options(8, 4, 2)}
    assert texts._needs_text(job) == "gpu A100:2..8, 1 cpu"
    job = {"nodes": 1, "max_nodes": 0, "resources": options(8, 2)}
    assert texts._needs_text(job) == "gpu A100:8, 1 cpu or gpu A100:2, 1 cpu"
