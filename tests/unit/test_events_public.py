"""The public form of events: what is kept back is written down here, field by field, for every type."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from typing import Any, get_args

import msgspec
import pytest

from bursar.model import EndCause, JobSpec, ServiceSpec
from bursard.events import (
    AttemptEnded,
    Event,
    ExitReport,
    JobSubmitted,
    JobUpdated,
    MemberEnded,
    NodeEnrolled,
    NodeTokenIssued,
    PolicyApplied,
    PolicyDocument,
    SecretSet,
    StopRequested,
)
from bursard.events import public as listing
from bursard.events.changes import difference
from bursard.events.public import PUBLIC, public
from bursard.events.services import KeyUse, ServiceMetered

SPEC_KEPT_BACK = "env command script arguments setup workdir comment output_file error_file open_mode"
SPEC_KEPT_BACK += " image image_auth mounts"
KEPT_BACK: dict[str, str] = {
    "job-submitted": "key digest " + " ".join(f"spec.{name}" for name in SPEC_KEPT_BACK.split()),
    "job-updated": " ".join(f"fields.{name}" for name in SPEC_KEPT_BACK.split()),
    "attempt-placed": "port",
    "member-ended": "report.message report.steps.told",
    "attempt-ended": "message",
    "policy-applied": "documents.text documents.spec",
    "node-priced": "cost",
    "node-booted": "seen_boot_id seen_boot_us seen_at",
    "key-issued": "sha256",
    "node-token-issued": "sha256",
    "node-token-revoked": "sha256",
    "node-enrolled": "sha256 instance",
    "secret-set": "sealed",
    "budget-opened": "days earlier",
    "budget-granted": "key",
    "budget-transferred": "key",
    "budget-approved": "key",
}
"""By tag: fields that nobody is shown. A new field belongs here or into `bursard.events.public`."""
PARTS_OF = {(JobUpdated, "fields"): JobSpec}
"""Documents whose members are fields of a struct."""


def struct_of(kind: Any) -> type | None:
    """The struct inside `X`, `X | None`, `tuple[X, ...]`; None for plain values."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind
    found = [struct for one in get_args(kind) if (struct := struct_of(one)) is not None]
    return found[0] if len(found) == 1 else None


def kept_back(kind: type, shape: Any, path: str = "") -> Iterator[str]:
    """Paths of a struct that a shape does not show. A struct must be shown field by field, never whole."""
    fields = {
        one.encode_name: PARTS_OF.get((kind, one.name)) or struct_of(one.type)
        for one in msgspec.structs.fields(kind)
    }
    extra = set(shape) - set(fields)
    assert not extra, f"{kind.__name__} has no {extra}"
    for name, inner in fields.items():
        if name not in shape:
            yield path + name
        elif inner is not None:
            assert shape[name] is not None, f"{kind.__name__}.{name} is shown whole"
            yield from kept_back(inner, shape[name], f"{path}{name}.")
        else:
            assert shape[name] is None


@pytest.mark.parametrize("kind", get_args(Event), ids=lambda kind: kind.__struct_config__.tag)
def test_every_field_of_every_event_is_shown_or_kept_back_on_purpose(kind: type) -> None:
    expected = KEPT_BACK.get(kind.__struct_config__.tag, "")  # type: ignore[attr-defined]
    assert set(kept_back(kind, PUBLIC[kind])) == set(expected.split())


def test_what_is_shown_is_written_down_word_by_word_and_not_taken_from_what_there_is() -> None:
    """So that a new field is decided on: here above it fails until then, and nobody sees it meanwhile."""
    assert "__struct_fields__" not in inspect.getsource(listing)


def test_of_what_is_written_as_an_array_no_more_is_shown_than_is_listed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use = KeyUse(
        key_id="key_1", requests=1, failed=2, tokens_in=3, tokens_out=4, tokens_cached=5, busy_us=6,
        counted=7, estimated=8,
    )  # fmt: skip
    event = ServiceMetered(
        job_id="job_1", gateway="g", seq=1, minute=0, busy_us=1, capacity_us=1, uses=(use,)
    )
    assert json.loads(public(event))["uses"] == [["key_1", 1, 2, 3, 4, 5, 6, 7, 8]]
    monkeypatch.setitem(PUBLIC[ServiceMetered], "uses", {"key_id": None, "requests": None})  # type: ignore[arg-type]
    assert json.loads(public(event))["uses"] == [["key_1", 1]]


@pytest.mark.parametrize("name", ["spec", "fields"])
def test_the_probe_of_a_service_is_shown_without_its_query(name: str) -> None:
    spec = JobSpec(name="chat", service=ServiceSpec(probe_path="/health?token=canary"))
    event = JobSubmitted("job_1", 1, "ann", spec)
    told = public(event if name == "spec" else JobUpdated("job_1", difference(JobSpec(name="chat"), spec)))
    assert json.loads(told)[name]["service"]["probe_path"] == "/health"
    assert b"canary" not in told


CANARY = "canary-7f3a"
SPEC = JobSpec(
    name="fine", env=(("K", CANARY),), command=("echo", CANARY), script=CANARY, arguments=(CANARY,),
    setup=CANARY, workdir=CANARY, comment=CANARY,
)  # fmt: skip


@pytest.mark.parametrize(
    "event",
    [
        JobSubmitted("job_1", 1, "ann", SPEC, key=CANARY),
        JobUpdated("job_1", difference(JobSpec(), SPEC)),
        JobUpdated("job_1", {"env": [["K", CANARY]]}, whole=True),
        AttemptEnded("att_1", EndCause.START_FAILED, 1, message=f"{CANARY}: not found"),
        MemberEnded("att_1", 0, ExitReport(cause=EndCause.FAILED, message=CANARY), ()),
        PolicyApplied((PolicyDocument("Budget", "b", 1, 0, CANARY),)),
        NodeTokenIssued("n", CANARY, 1),
        NodeEnrolled("n", CANARY, CANARY),
        SecretSet("nlp", "HF_TOKEN", CANARY),
        StopRequested("att_1", EndCause.FAILED, 0, f"rank 12 ended: failed {CANARY}: not found"),
        StopRequested("att_1", EndCause.START_FAILED, 0, f"rank 0 ended: start_failed\n{CANARY}"),
    ],
    ids=lambda event: type(event).__name__,
)
def test_nothing_private_is_in_the_public_form(event: Event) -> None:
    assert CANARY.encode() not in public(event)
    assert CANARY.encode() in msgspec.json.encode(event)


def test_what_is_shown_is_shown_as_the_log_has_it() -> None:
    shown = json.loads(public(JobSubmitted("job_1", 7, "ann", SPEC, dependencies=(("job_0", "failed"),))))
    assert shown == {
        "type": "job-submitted",
        "job_id": "job_1",
        "number": 7,
        "user": "ann",
        "spec": {"name": "fine"},
        "dependencies": [["job_0", "failed"]],
    }


@pytest.mark.parametrize(
    ("kept", "shown"),
    [
        ("rank 1 ended: out_of_memory /home/ann/x: killed", "rank 1 ended: out_of_memory"),
        ("rank 1 ended: failed", "rank 1 ended: failed"),
        ("node n-1 is drained: rank 1 ended: x y", "node n-1 is drained: rank 1 ended: x y"),
        ("requeued by request", "requeued by request"),
        ("", ""),
    ],
)
def test_why_an_attempt_was_stopped_is_shown_without_what_a_node_said_in_older_logs(
    kept: str, shown: str
) -> None:
    assert json.loads(public(StopRequested("att_1", EndCause.FAILED, 7, kept))) == {
        "type": "stop-requested",
        "attempt_id": "att_1",
        "cause": "failed",
        "grace_us": 7,
        "message": shown,
        "for_job": "",
    }


def test_of_an_end_its_kind_is_shown_and_not_what_a_job_named() -> None:
    report = ExitReport(cause=EndCause.FAILED, exit_code=126, message=f"working directory '/{CANARY}': gone")
    shown = json.loads(public(MemberEnded("att_1", 0, report)))
    assert shown["report"]["message"] == "working directory"
    ended = AttemptEnded("att_1", EndCause.FAILED, 126, report.message)
    assert json.loads(public(ended))["message"] == "working directory"
    other = AttemptEnded("att_1", EndCause.FAILED, 126, f"no such command: {CANARY}")
    assert "message" not in json.loads(public(other))


def test_a_type_that_nobody_wrote_down_shows_its_name_alone() -> None:
    class Later(msgspec.Struct, frozen=True, tag="later"):
        secret: str

    assert json.loads(public(Later(CANARY))) == {"type": "later"}  # type: ignore[arg-type]
