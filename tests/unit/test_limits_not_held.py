"""What a plan and the doctor say of limits that a node cannot hold: fractions of GPUs among them."""

from __future__ import annotations

import pytest
from money_daemon import COST_MODEL, Daemon, in_a_daemon

from bursar.cli.texts import plan_text
from bursar.clock import HOUR_US
from bursar.codec import view
from bursar.model import JobSpec
from bursar.resources import GpuRequest, ResourceRequest
from bursard import doctor
from bursard.services.planning import plan_view

HALF, WHOLE = GpuRequest(1, milli=500), GpuRequest(1)
BASE = ("memory", "cpu", "pids")


@pytest.mark.parametrize(
    ("limits", "simulated", "asked", "missing"),
    [
        (BASE, False, HALF, ["gpu"]),
        (BASE, False, WHOLE, []),
        (BASE, True, HALF, []),
        ((*BASE, "gpu"), False, HALF, []),
        (("gpu",), False, HALF, ["memory", "cpu", "pids"]),
        ((), False, HALF, ["memory", "cpu", "pids", "gpu"]),
    ],
)
def test_a_plan_names_a_limit_that_the_job_needs_and_its_node_cannot_hold(
    limits: tuple[str, ...], simulated: bool, asked: GpuRequest, missing: list[str]
) -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.apply(COST_MODEL)
        daemon.node("a", limits=limits, simulated=simulated)
        options = (ResourceRequest(asked, 1_000, 1 << 30),)
        job = JobSpec(project="p", command=("true",), options=options, time_limit_us=2 * HOUR_US)
        plan = view.plan(await plan_view(daemon.engine, "ann", job))
        assert plan["limits_not_held"] == missing
        said = "share it in time, and its memory is not limited" in plan_text(plan, 0)
        assert said == ("gpu" in missing)

    in_a_daemon(story)


def test_the_doctor_names_nodes_whose_fractions_are_not_limited() -> None:
    async def story(daemon: Daemon) -> None:
        daemon.node("held", limits=(*BASE, "gpu"), simulated=False)
        daemon.node("made-up", limits=BASE)
        assert limits(daemon) == "what jobs ask for holds on all of 2 nodes"
        daemon.node("timed", limits=BASE, simulated=False)
        assert limits(daemon) == (
            "nothing is broken, but jobs can exceed what they asked for on timed (gpu); gpu: fractions of"
            " devices share them in time there, and their memory is not limited"
        )

    def limits(daemon: Daemon) -> str:
        [found] = [one for one in doctor.check_state(daemon.engine.state) if one.check == "limits"]
        return found.message

    in_a_daemon(story)
