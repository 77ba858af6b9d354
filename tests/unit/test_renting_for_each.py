"""Nobody has a pool rent more than is for each: a machine is of whose job had it rented, till it is gone."""

from __future__ import annotations

from pathlib import Path

import pytest
from rented_site import POOL, Site

from bursar.clock import SECOND_US
from bursar.model import EndCause
from bursard.state import image as state_image

LARGE_OF = "jobs of %s would have 3 machines, its %s is 2"


@pytest.mark.parametrize(
    ("limit", "mine", "others", "why"),
    [
        ("per_user_machines", {"user": "ann", "project": "a"}, {"user": "bob", "project": "a"}, "user ann"),
        ("per_project_machines", {"project": "a/x"}, {"project": "b"}, "project a"),
    ],
)
def test_nobody_has_more_machines_rented_than_are_for_each_and_those_of_ended_jobs_count(
    tmp_path: Path, limit: str, mine: dict[str, str], others: dict[str, str], why: str
) -> None:
    site = Site(tmp_path, POOL.replace("machines: 2", f"machines: 9, {limit}: 2"))
    for round_of in range(2):
        found = [site.large(**mine) for _ in range(2)]
        site.pass_time(30)
        assert len(site.machines) == 2, "and no third one for whoever waits then"
        for job in found:
            if job.attempt is not None and not round_of:
                site.world.exited_of(job.attempt, EndCause.COMPLETED, held_us=SECOND_US)
    again = state_image.decode(state_image.encode(site.world.state, site.world.engine.now()))
    assert again.machines == site.world.state.machines, "whose it is outlives the daemon and the job"
    if "project" in mine and limit == "per_project_machines":
        mine = {"project": "a/y"}
    more = site.large(**mine)
    site.pass_time(10)
    assert len(site.machines) == 2
    assert site.renting.notes[more.id] == "pool rented: " + LARGE_OF % (why, limit)
    site.large(**others)
    site.pass_time(10)
    assert len(site.machines) == 3, "another has his own"


def test_of_an_image_that_does_not_say_whose_a_machine_is_its_jobs_owner_is(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.large(user="eve", project="q")
    site.pass_time(10)
    (machine,) = site.machines
    assert (machine.user, machine.project) == ("eve", "q")
    machine.user = machine.project = ""
    old = state_image.encode(site.world.state, site.world.engine.now())
    (found,) = state_image.decode(old).machines.values()
    assert (found.user, found.project) == ("eve", "q")
