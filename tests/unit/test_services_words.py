"""What people are told of a service whose revision crashes, and where they took it for an array."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from service_site import Site

from bursar.cli.services import _text, service_spec, shown
from bursar.clock import SECOND_US
from bursar.codec import view
from bursar.errors import WrongState
from bursar.model import JobState, ReasonCode
from bursar.v1 import jobs_pb2 as pb
from bursard.access.identity import Identity, Role
from bursard.cycle import reason_of
from bursard.services import logs
from bursard.services.attaching import _running
from bursard.services.census import _states
from bursard.services.events import EventsService
from bursard.services.serviceviews import service_view
from bursard.state.arrays import beyond_wanted
from bursard.state.decide import jobs
from bursard.state.decide import services as decide

ME = Identity("ann", Role.ADMIN)


def seen(site: Site) -> Any:
    cycle: Any = None  # without one no plan says why it waits
    return view.service(service_view(site.world.engine, cycle, site.keeper, site.job, ME))


def update(site: Site, *command: str) -> None:
    spec = msgspec.structs.replace(site.job.spec, command=command)
    site.world.engine.commit(decide.update(site.world.state, site.job, spec), "ann")


def crash(site: Site, old: set[str], times: int) -> None:
    """The replicas that are not of old ones end as they start, so often; the last waits for its next try."""
    ended = 0
    while ended < times:
        site.asks()
        site.turn(1)
        for attempt in site.live():
            if attempt.id not in old:
                site.world.backend.finish(attempt.id, 0, exit_code=1)
                site.world.backend.report()
                ended += 1


def broken(times: int) -> tuple[Site, set[str]]:
    """One good replica of revision 1, and revision 2 that crashes."""
    site = Site()
    site.turn(ready=True)
    old = {attempt.id for attempt in site.live()}
    update(site, "false")
    crash(site, old, times)
    return site, old


def waiting(site: Site) -> Any:
    tasks = site.world.state.tasks[site.job.id].values()
    [task] = [task for task in tasks if task.state is JobState.PENDING and task.has_slot]
    return task


def test_a_new_revision_that_crashes_is_said_to_crash_and_not_to_wait_for_room() -> None:
    site, _ = broken(3)
    row = seen(site)
    assert row["state"] == "updating"
    assert row["reason"]["message"].startswith("revision 2 crashes: its replica ended 3 times in a row")
    remedy = row["reason"]["remedy"]
    assert remedy.startswith("`bursar service logs chat` says why; `bursar service rollback chat`")
    assert "max_unavailable" not in remedy


@pytest.mark.parametrize("back", [True, False])
def test_another_revision_does_not_inherit_how_long_a_broken_one_waits(back: bool) -> None:
    site, _ = broken(4)
    assert waiting(site).retry_at > site.world.engine.now()
    if back:
        site.world.engine.commit(decide.rollback(site.world.state, site.job), "ann")
    else:
        update(site, "true", "3")
    task = waiting(site)
    assert (task.free_retries, task.retry_at) == (0, 0)
    site.turn()
    assert len(site.live()) == 2, "it starts at once"
    assert site.findings() == []


def test_the_waits_of_another_revision_are_its_own_when_it_crashes_too() -> None:
    site, old = broken(6)
    update(site, "false", "3")
    crash(site, old, 2)
    task = waiting(site)
    assert task.free_retries == 2
    site.turn(11)
    assert len(site.live()) == 2, "ten seconds later, not when the revision before would have started"


def test_a_replica_of_the_broken_revision_that_ends_after_an_update_leaves_no_wait_behind() -> None:
    site, old = broken(3)
    task = waiting(site)
    site.turn((task.retry_at - site.world.engine.now()) // SECOND_US + 1)
    [late] = [attempt for attempt in site.live() if attempt.id not in old]
    update(site, "true", "3")
    site.world.backend.finish(late.id, 0, exit_code=1)
    site.world.backend.report()
    assert (task.free_retries, task.retry_at) == (0, 0)


def test_other_bounds_are_no_other_revision_and_the_waits_stay() -> None:
    site, _ = broken(4)
    until = waiting(site).retry_at
    site.world.engine.commit(decide.scale(site.world.state, site.job, 1, 2), "ann")
    assert waiting(site).retry_at == until


def test_an_update_that_says_no_directory_keeps_it_and_a_rollback_goes_back_to_its_own() -> None:
    site = Site()
    spec = site.job.spec
    there = msgspec.structs.replace(spec, workdir="/srv/chat")
    site.world.engine.commit(decide.update(site.world.state, site.job, there), "ann")
    update_to = msgspec.structs.replace(spec, workdir="", command=("true", "2"))
    site.world.engine.commit(decide.update(site.world.state, site.job, update_to), "ann")
    assert (site.job.spec.workdir, site.job.spec.command) == ("/srv/chat", ("true", "2"))


def test_a_place_that_is_not_wanted_says_so_in_the_words_of_services() -> None:
    site = Site(replicas_min=1, replicas_max=3)
    place = site.world.state.job(f"{site.job.id}.2")
    assert place is not None
    reason = reason_of(site.world.state, None, place, site.world.engine.now())
    assert reason is not None
    assert reason.code is ReasonCode.NO_REQUESTS
    assert reason.message == "service chat wants 1 replica now, and this place is beyond them"
    assert "bursar service scale chat N..M" in reason.remedy
    assert "array" not in reason.message + reason.remedy


@pytest.mark.parametrize(
    ("least", "most", "beyond", "counts"),
    [(1, 3, 3, {"RUNNING": 1}), (2, 2, 1, {"RUNNING": 2}), (0, 4, 4, {"PENDING": 1})],
)
def test_places_that_no_replica_is_wanted_for_are_not_counted_as_waiting(
    least: int, most: int, beyond: int, counts: dict[str, int]
) -> None:
    site = Site(replicas_min=least, replicas_max=most)
    assert beyond_wanted(site.job) == beyond
    assert dict(_states(site.job)) == counts


def test_who_takes_a_service_for_a_job_is_told_its_own_verbs() -> None:
    site = Site()
    hub: Any = SimpleNamespace()

    async def read() -> None:
        fleet: Any = None
        async for _ in logs.stream(fleet, hub, site.job, pb.LogsRequest(job="chat")):
            pass

    with pytest.raises(WrongState, match="is the service chat; `bursar service logs chat` prints"):
        asyncio.run(read())
    with pytest.raises(WrongState, match=r"is the service chat; attach to one of its replicas .*1\[0\]"):
        _running(site.job, 0)
    with pytest.raises(WrongState, match=r"is the service chat; requeue the replica of one slot, .*1\[0"):
        jobs.requeue(site.world.state, site.job)


def test_what_a_service_cost_is_called_settled_and_says_where_the_rest_is() -> None:
    site = Site()
    assert "settled; with what is not yet: `bursar show 1`" in _text(shown(seen(site)))


@pytest.mark.parametrize(
    ("line", "sent"),
    [("", ""), ("workdir: /srv/new\n", "/srv/new"), ("workdir: below\n", "{cwd}/below")],
)
def test_a_file_of_an_update_names_a_directory_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, sent: str
) -> None:
    """As at a submit what is relative begins where the command is given, not where the file is."""
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "chat.yaml").write_text(f"type: service\nname: chat\nport: 8000\nrun: 'true'\n{line}", "utf-8")
    monkeypatch.chdir(tmp_path)
    assert service_spec(folder / "chat.yaml").workdir == sent.format(cwd=tmp_path)


def test_the_server_counts_no_place_as_waiting_that_no_replica_is_wanted_for() -> None:
    site = Site(replicas_min=1, replicas_max=3)
    none: Any = None
    service = EventsService(
        site.world.engine, none, none, none, started_at=0, state_dir=Path("/"), services=[site.job.id]
    )
    assert service._beyond_wanted() == site.world.state.counts[JobState.PENDING] == 3
