"""What is told of a promise once its job has ended."""

from bursar.model import JobState
from bursard.services.views import promise_view
from bursard.state.records import PromiseRecord


def test_a_promise_whose_job_was_cancelled_is_given_up_and_not_kept() -> None:
    """Nobody kept it: its owner did not want it any more."""
    told = promise_view(PromiseRecord(by=2, given_at=1), JobState.CANCELLED)
    assert (told.state, told.cause) == ("given-up", "cancelled")
    assert promise_view(PromiseRecord(by=2, given_at=1), JobState.SUCCEEDED).state == "kept"
    broken = PromiseRecord(by=2, given_at=1, broken_at=1, cause="node")
    assert promise_view(broken, JobState.CANCELLED).state == "broken"


def test_a_promise_whose_job_failed_was_not_kept_and_is_no_breach() -> None:
    """Its place was there; what ran in it did not do what was to be done by then."""
    told = promise_view(PromiseRecord(by=2, given_at=1), JobState.FAILED)
    assert (told.state, told.cause) == ("given-up", "failed")
    broken = PromiseRecord(by=2, given_at=1, broken_at=1, cause="late")
    assert promise_view(broken, JobState.FAILED).state == "broken"
