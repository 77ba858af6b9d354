"""How a range of GPUs is said to people."""

from __future__ import annotations

from bursar.cli import texts
from bursar.codec import view
from bursar.codec.spec import spec_to_wire
from bursar.jobfile import parse_job


def test_a_range_of_gpus_is_said_as_one_and_alternatives_as_they_are() -> None:
    def options(*counts: int, kinds: tuple[str, ...] = ("A100",)) -> dict[str, object]:
        each = [{"gpus": n, "cpus": 1, "memory_bytes": 0, "gpu_types": list(kinds)} for n in counts]
        return {**each[0], "any_of": each, "ordered": True}

    assert texts.resources_text(options(4, 2)) == "gpu A100:2..4, 1 cpu"
    assert texts.resources_text(options(8, 4, 2)) == "gpu A100:2..8, 1 cpu"
    assert texts.resources_text(options(8, 2)) == "gpu A100:8, 1 cpu", "two alternatives, no range"
    job = {"nodes": 1, "max_nodes": 0, "resources": options(8, 4, 2)}
    assert texts.needs_text(job) == "gpu A100:2..8, 1 cpu"
    job = {"nodes": 1, "max_nodes": 0, "resources": options(8, 2)}
    assert texts.needs_text(job) == "gpu A100:8, 1 cpu or gpu A100:2, 1 cpu"


def test_alternatives_of_which_the_cheapest_is_taken_are_no_range() -> None:
    spec = parse_job("resources: {any_of: [{gpus: 'A100:4'}, {gpus: 'A100:2'}]}\nrun: x", "j", "")
    wire = spec_to_wire(spec)
    shown = view.resources(wire.options, wire.ordered)
    assert shown["ordered"] is False
    assert texts.resources_text(shown) == "gpu A100:4, 1 cpu"
    job = {"nodes": 1, "max_nodes": 0, "resources": shown}
    assert texts.needs_text(job) == "gpu A100:4, 1 cpu or gpu A100:2, 1 cpu"
    ranged = spec_to_wire(parse_job("resources: {gpus: 'A100:2..4'}\nrun: x", "j", ""))
    assert texts.resources_text(view.resources(ranged.options, ranged.ordered)) == "gpu A100:2..4, 1 cpu"
