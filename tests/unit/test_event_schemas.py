"""Events as bytes: each says which schema wrote it, and older ones are lifted to what is read today."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bursar.model import JobState
from bursard.events import SCHEMA, JobEnded, JobHeld, MemberEnded, NewerSchema, Piece, decode, encode
from bursard.events import upgrade as steps
from bursard.events.codec import schema_of


def test_an_event_ends_with_the_number_of_its_schema() -> None:
    assert encode(JobHeld("job_1")) == b'{"type":"job-held","job_id":"job_1","v":%d}' % SCHEMA
    assert schema_of(encode(JobHeld("job_1"))) == SCHEMA


def test_an_event_without_a_number_is_of_the_first_schema() -> None:
    assert schema_of(b'{"type":"job-held","job_id":"job_1"}') == 1
    assert decode(b'{"type":"job-held","job_id":"job_1"}') == JobHeld("job_1")


def test_a_text_that_ends_like_a_number_is_still_a_text() -> None:
    event = JobEnded("job_1", JobState.FAILED, message=',"v":9}')
    assert decode(encode(event)) == event
    assert schema_of(msgspec.json.encode(event)) == 1


def test_an_event_of_a_later_schema_is_refused_by_its_number() -> None:
    with pytest.raises(NewerSchema, match=rf"schema {SCHEMA + 1}; this version reads up to {SCHEMA}"):
        decode(b'{"type":"job-held","job_id":"job_1","v":%d}' % (SCHEMA + 1))


def test_steps_are_taken_in_order_and_only_for_their_kind() -> None:
    def first(document: dict[str, Any]) -> dict[str, Any]:
        return {"type": "job-held", "job": document["id"] + "-1"}

    def second(document: dict[str, Any]) -> dict[str, Any]:
        return {"type": "job-held", "job_id": document["job"] + "-2"}

    history = {1: {"job-held": first}, 2: {"job-held": second}}
    old = {"type": "job-held", "id": "a"}
    assert steps.upgrade(old, 1, 3, history) == {"type": "job-held", "job_id": "a-1-2"}
    assert steps.upgrade({"type": "job-held", "job": "b"}, 2, 3, history) == {
        "type": "job-held",
        "job_id": "b-2",
    }
    assert steps.is_needed("job-held", 1, 3, history)
    assert not steps.is_needed("job-held", 3, 3, history)
    assert not steps.is_needed("job-ended", 1, 3, history)
    assert steps.upgrade({"type": "job-ended"}, 1, 3, history) == {"type": "job-ended"}


def test_the_last_charges_of_the_first_schema_become_pieces_that_end_with_the_report() -> None:
    def written(held_us: int, *charges: dict[str, Any]) -> bytes:
        report = {"cause": "completed", "exit_code": 0, "held_us": held_us}
        ended = {"type": "member-ended", "attempt_id": "att_1", "rank": 1, "report": report}
        return msgspec.json.encode({**ended, "charges": charges})

    def charge(start: int, end: int, **amounts: int) -> dict[str, Any]:
        return {"kind": "usage", "node_id": "node_1", "start": start, "end": end, "price_id": "p", **amounts}

    event = decode(
        written(90, charge(1_000, 1_030, nanos=6, gpu=1, cpu=2, memory=3), charge(1_030, 1_050, cpu=9))
    )
    assert isinstance(event, MemberEnded)
    assert (event.attempt_id, event.rank, event.report.held_us) == ("att_1", 1, 90)
    assert event.pieces == (Piece(70, 1, 2, 3), Piece(90, 0, 9, 0))
    nothing = decode(written(90))
    assert isinstance(nothing, MemberEnded)
    assert nothing.pieces == ()
    assert decode(encode(event)) == event
