"""What one user's waiting jobs may take: tasks and bytes, by user, whatever becomes of a job."""

from __future__ import annotations

import pytest
from findings import of_jobs
from msgspec.structs import replace

from bursar.errors import InvalidRequest, RateLimited
from bursar.model import ArraySpec, EndCause, JobSpec
from bursard import settings
from bursard.fleet.testing import FACTS, World
from bursard.state import Limits, State, image
from bursard.state.decide import jobs
from bursard.state.shares import RANGE_BYTES, Share, bytes_of_spec

SCRIPT = {"command": (), "script": "#!/bin/sh\n" + "x" * 1_000}


def world(pending_max: int = 100, texts_bytes: int = 1 << 20) -> World:
    return World(State(Limits(user_pending_max=pending_max, user_texts_bytes=texts_bytes)))


def test_a_user_may_have_so_many_waiting_and_others_still_may_have_theirs() -> None:
    site = world(pending_max=5)
    array = site.submit(array=ArraySpec(((0, 4, 1),)))
    site.submit()
    for more, tasks in (({}, 1), ({"array": ArraySpec(((0, 2, 1),))}, 2)):
        with pytest.raises(RateLimited) as refused:
            site.submit(**more)
        assert refused.value.message == (
            f"5 of your jobs and tasks are pending, {tasks} more would pass the 5 of one user; wait for some"
            " to start, cancel some, or have `user_pending_max` of the daemon raised"
        )
        assert refused.value.facts == {"pending": "5", "more": str(tasks), "pending_max": "5"}
    site.submit(user="bob")
    site.engine.commit(jobs.cancel(site.state, array, None, "enough"), "ann")
    assert site.state.shares.of("ann").pending == 1
    site.submit()


def test_a_user_s_descriptions_may_take_so_many_bytes_until_their_jobs_have_ended() -> None:
    one = bytes_of_spec(world().submit(**SCRIPT).spec)
    assert 1_010 < one < 1_500
    site = world(texts_bytes=2 * one)
    site.backend.connect(FACTS)
    first = site.submit(**SCRIPT)
    site.submit(**SCRIPT)
    with pytest.raises(RateLimited) as refused:
        site.submit(**SCRIPT)
    assert f"takes {2 * one} bytes, {one} more would pass the {2 * one} of one user;" in refused.value.message
    assert refused.value.facts == {"bytes": str(2 * one), "more": str(one), "bytes_max": str(2 * one)}
    site.submit(user="bob", **SCRIPT)
    with pytest.raises(RateLimited):
        jobs.update(site.state, first, {"comment": "a little more"})
    assert jobs.update(site.state, first, {"script": "#!/bin/sh\nless"})
    site.cycle()
    assert site.state.shares.of("ann") == Share(0, 2 * one), "what runs is kept too"
    attempt = site.state.jobs[first.id].attempt
    assert attempt is not None
    site.exited_of(attempt, EndCause.COMPLETED)
    site.state.evict(first.id)
    assert site.state.shares.of("ann") == Share(0, one)
    site.submit(**SCRIPT)


def test_an_update_changes_what_a_description_takes() -> None:
    site = world()
    job = site.submit(**SCRIPT)
    before = site.state.shares.of("ann").spec_bytes
    site.engine.commit(jobs.update(site.state, job, {"comment": "c" * 50}), "ann")
    assert site.state.shares.of("ann").spec_bytes == bytes_of_spec(site.state.jobs[job.id].spec) > before + 50


def test_an_array_has_its_text_once_and_each_of_its_ranges_counts_as_what_it_is_in_memory() -> None:
    plain = JobSpec(command=("true",), array=ArraySpec(((0, 100_000, 1),)))
    many = replace(plain, array=ArraySpec(tuple((at, at + 1, 1) for at in range(0, 200, 2))))
    assert bytes_of_spec(plain) < 300
    assert bytes_of_spec(many) - bytes_of_spec(plain) > 99 * RANGE_BYTES


def test_a_state_read_again_knows_what_everybody_has_and_doctor_would_see_a_difference() -> None:
    site = world()
    site.backend.connect(FACTS)
    site.submit(array=ArraySpec(((0, 10, 1),), max_parallel=2), **SCRIPT)
    site.submit(user="bob", held=True)
    site.cycle()
    had = site.state.shares.all()
    assert {user: share.pending for user, share in had.items()} == {"ann": 8, "bob": 1}
    assert image.decode(image.encode(site.state, 1)).shares.all() == had
    assert of_jobs(site.state).ok
    site.state.shares.add("bob", 1)
    assert "bob: 1 job pending, 2 are counted" in of_jobs(site.state).message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("user_pending_max", "0"),
        ("user_pending_max", "-1"),
        ("user_pending_max", "x"),
        ("user_texts_max", "x"),
        ("user_changes_max", "0"),
        ("user_changes_max", "x"),
        ("user_log_max", "x"),
    ],
)
def test_settings_that_say_no_number_are_refused_by_their_name(name: str, value: str) -> None:
    with pytest.raises(InvalidRequest, match=name.replace("_", "[-_]")):
        settings.load([f"--{name.replace('_', '-')}={value}"], {})


def test_settings_are_what_decisions_rest_on() -> None:
    limits = settings.load(["--user-pending-max=7", "--user-texts-max=3MiB"], {}).settings.limits
    assert (limits.user_pending_max, limits.user_texts_bytes) == (7, 3 << 20)
    limits = settings.load(["--user-changes-max=8", "--user-log-max=4MiB"], {}).settings.limits
    assert (limits.user_changes_a_day, limits.user_log_bytes_a_day) == (8, 4 << 20)
    assert settings.Settings().limits == Limits()
