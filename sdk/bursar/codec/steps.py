"""`Steps` to and from what travels."""

from __future__ import annotations

from bursar.errors import InvalidRequest
from bursar.model import Step, Steps
from bursar.model.steps import STEP_STATES, StepState
from bursar.v1 import types_pb2 as pb

_STATES: dict[str, StepState] = {state: state for state in STEP_STATES}
_PLAIN = ("number", "name", "tasks", "nodes", "signal", "after_us", "elapsed_us", "member")


def steps_to_wire(steps: Steps) -> pb.Steps:
    """As a message."""
    return pb.Steps(
        total=steps.total, failed=steps.failed, cut_off=steps.cut_off, told=map(_step_to_wire, steps.told)
    )


def steps_from_wire(wire: pb.Steps) -> Steps:
    """The way back. Ranges are the door's. Raises `InvalidRequest` for a state that is none."""
    told = tuple(map(_step_from_wire, wire.told))
    return Steps(total=wire.total, failed=wire.failed, cut_off=wire.cut_off, told=told)


def _step_to_wire(step: Step) -> pb.Step:
    wire = pb.Step(state=step.state, **{name: getattr(step, name) for name in _PLAIN})
    if step.exit_code >= 0:
        wire.exit_code = step.exit_code
    if step.rank is not None:
        wire.rank = step.rank
    return wire


def _step_from_wire(wire: pb.Step) -> Step:
    state = _STATES.get(wire.state)
    if state is None:
        raise InvalidRequest(
            f"steps.told.state: one of {', '.join(_STATES)}; not {wire.state[:40]!r}",
            {"field": "steps.told.state"},
        )
    return Step(
        state=state,
        exit_code=wire.exit_code if wire.HasField("exit_code") else -1,
        rank=wire.rank if wire.HasField("rank") else None,
        **{name: getattr(wire, name) for name in _PLAIN},
    )
