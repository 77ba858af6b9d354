"""What a repeated key is answered: of the job as it was submitted, whatever has become of it and of names."""

from __future__ import annotations

import msgspec
import pytest
from slow_daemon import Daemon, scenario

from bursar.codec.spec import spec_to_wire
from bursar.errors import InvalidRequest, KeyConflict, NotFound
from bursar.model import Dependency, JobSpec
from bursar.v1 import jobs_pb2
from bursard.engine import key_digest, spec_bytes
from bursard.events import JobSubmitted, decode, encode
from bursard.state.decide import jobs as decide
from bursard.store import KeyRow


async def submit(daemon: Daemon, key: str, priority: int = 50, after: str = "") -> tuple[int, bool]:
    depends_on = (Dependency(after, "finished"),) if after else ()
    spec = JobSpec(name="k", command=("true",), priority=priority, depends_on=depends_on)
    request = jobs_pb2.SubmitRequest(spec=spec_to_wire(spec), idempotency_key=key)
    answer = await daemon.jobs.Submit(request, None)
    return answer.job.number, answer.existed


@pytest.mark.parametrize("learnt", [True, False])
def test_a_key_is_bound_to_the_job_as_submitted_after_an_update_and_after_its_end(learnt: bool) -> None:
    async def play(daemon: Daemon) -> None:
        if not learnt:
            daemon.learn_no_keys()
        assert await submit(daemon, "k1") == (1, False)
        await daemon.jobs.Update(jobs_pb2.UpdateRequest(job="1", priority=77), None)
        assert await submit(daemon, "k1") == (1, True)
        with pytest.raises(KeyConflict, match="idempotency key 'k1' already belongs to"):
            await submit(daemon, "k1", priority=77)
        await daemon.jobs.Cancel(jobs_pb2.CancelRequest(jobs=["1"]), None)
        assert not daemon.engine.state.jobs
        assert await submit(daemon, "k1") == (1, True)

    scenario(play)


def test_a_key_answers_before_names_are_resolved_to_other_jobs_or_to_none() -> None:
    async def play(daemon: Daemon) -> None:
        await daemon.submit(name="prep")
        assert await submit(daemon, "k1", after="prep") == (2, False)
        assert await submit(daemon, "k1", after="prep") == (2, True)
        await daemon.submit(name="prep")
        assert await submit(daemon, "k1", after="prep") == (2, True)
        with pytest.raises(InvalidRequest, match="2 or more jobs are named 'prep'"):
            await submit(daemon, "k2", after="prep")
        await daemon.jobs.Cancel(jobs_pb2.CancelRequest(jobs=["2"]), None)
        assert await submit(daemon, "k1", after="prep") == (2, True)
        with pytest.raises(KeyConflict):
            await submit(daemon, "k1", after="3")
        with pytest.raises(NotFound):
            await submit(daemon, "k1", after="never")
        assert daemon.engine.state.next_number == 4

    scenario(play)


def test_a_key_of_an_earlier_version_is_bound_to_the_ids_behind_the_names() -> None:
    async def play(daemon: Daemon) -> None:
        prep = await daemon.submit(name="prep")
        assert await submit(daemon, "k1", after=prep) == (2, False)
        (row,) = daemon.store.keys("ann", ["k1"]).values()
        job = daemon.engine.state.jobs[row.job_id]
        assert row == KeyRow("ann", "k1", job.id, spec_bytes(job.spec))
        assert await submit(daemon, "k1", after="prep") == (2, True)
        with pytest.raises(KeyConflict):
            await submit(daemon, "k1", after="prep", priority=51)

    scenario(play)


def test_an_event_says_what_was_asked_for_only_where_that_is_another_thing() -> None:
    async def play(daemon: Daemon) -> None:
        prep = await daemon.submit(name="prep")
        await submit(daemon, "named", after="prep")
        await submit(daemon, "by id", after=prep)
        await submit(daemon, "", after="prep")
        found = [decode(row.payload) for row in daemon.store.events(0, 100)]
        jobs = [one for one in found if isinstance(one, JobSubmitted)]
        assert [one.digest for one in jobs] == [b"", key_digest(jobs[1]), b"", b""]
        assert jobs[1].spec == jobs[2].spec
        assert key_digest(jobs[2]) == spec_bytes(jobs[2].spec) != key_digest(jobs[1])
        assert decode(encode(jobs[1])) == jobs[1]

    scenario(play)


def test_a_key_that_is_taken_between_the_question_and_the_decision_is_of_one_job_alone() -> None:
    async def play(daemon: Daemon) -> None:
        assert await submit(daemon, "k1") == (1, False)
        state, ids = daemon.engine.state, daemon.engine.ids
        [(user, _)] = state.keys
        [job] = state.jobs.values()
        assert decide.submit(state, ids, user=user, spec=job.spec, key="k1") == []
        other = msgspec.structs.replace(job.spec, priority=77)
        with pytest.raises(KeyConflict, match=f"idempotency key 'k1' already belongs to {job.id}"):
            decide.submit(state, ids, user=user, spec=other, key="k1")

    scenario(play)
