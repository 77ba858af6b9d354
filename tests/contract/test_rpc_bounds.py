"""Every field of every call at its bounds: a status that names what is wrong, never a fault of the daemon.

Why     anybody who may connect may send 2^63 where 5 was meant. A field that is new is met here without being
        listed: the fields are walked in the descriptors of the wire.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from whole_site import METHODS, Site, play
from wire_values import NEVER, TEXTS, values

from bursar.codec.bounds import check_numbers
from bursar.errors import InvalidRequest
from bursar.v1 import access_pb2, agents_pb2, events_pb2, jobs_pb2, money_pb2, nodes_pb2, types_pb2

Setter = Callable[[Message], None]

STREAMS = (
    "Jobs.Watch",
    "Jobs.Logs",
    "Events.List",
    "Nodes.Top",
    "Jobs.SubmitMany",
    "Jobs.SubmitBatches",
    "Jobs.Attach",
)


def base(name: str, site: Site, job: str) -> Message:
    """A request that is right but for the field under test, so that the field is reached."""
    spec = types_pb2.JobSpec(
        command=["true"],
        project="nlp",
        priority=50,
        nodes=1,
        options=[types_pb2.ResourceRequest(cpu_milli=100, gpus=types_pb2.GpuRequest(count=1))],
    )
    made: dict[str, Message] = {
        "Jobs.Submit": jobs_pb2.SubmitRequest(spec=spec),
        "Jobs.SubmitMany": jobs_pb2.SubmitRequest(spec=spec),
        "Jobs.SubmitBatches": jobs_pb2.SubmitBatch(jobs=[jobs_pb2.SubmitRequest(spec=spec)]),
        "Jobs.Plan": jobs_pb2.PlanRequest(spec=spec),
        "Jobs.Get": jobs_pb2.GetJobRequest(job=job),
        "Jobs.Watch": jobs_pb2.WatchJobsRequest(jobs=[job]),
        "Jobs.Explain": jobs_pb2.ExplainRequest(job=job),
        "Jobs.Update": jobs_pb2.UpdateRequest(job=job),
        "Jobs.Cancel": jobs_pb2.CancelRequest(jobs=[job]),
        "Jobs.Logs": jobs_pb2.LogsRequest(job=job),
        "Jobs.Attach": jobs_pb2.AttachRequest(open=jobs_pb2.AttachOpen(job=job)),
        "Money.Report": money_pb2.ReportRequest(kind="focus", period="2026-11", format="csv"),
        "Money.GrantBudget": money_pb2.GrantBudgetRequest(
            budget="b", amount=types_pb2.Amount(nanos="1"), currency="USD", reason="r"
        ),
        "Money.TransferBudget": money_pb2.TransferBudgetRequest(
            budget="b", to="c", amount=types_pb2.Amount(nanos="1"), currency="USD", reason="r"
        ),
        "Policies.Apply": money_pb2.ApplyRequest(
            sources=[money_pb2.PolicySource(name="a.yaml", text="kind: Budget\n")]
        ),
        "Nodes.Drain": nodes_pb2.DrainRequest(node="n1"),
        "Events.List": events_pb2.ListEventsRequest(limit=5),
    }
    found = made.get(name) or GetMessageClass(METHODS[name].input_type)()
    right = {"job": job, "jobs": job, "node": "n1", "user": "ann", "role": "viewer", "project": "nlp"}
    for field in found.DESCRIPTOR.fields:
        held = getattr(found, field.name)
        if field.name in right and not held:
            if field.is_repeated:
                held.append(right[field.name])
            else:
                setattr(found, field.name, right[field.name])
    return found


def variants(message: Message, depth: int = 0) -> Iterator[tuple[str, Setter]]:
    """(path and value, what sets it) for each scalar of a message and of what it holds."""
    for field in message.DESCRIPTOR.fields:
        yield from of_field(field, depth)


def of_field(field: FieldDescriptor, depth: int) -> Iterator[tuple[str, Setter]]:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        for text in TEXTS:
            yield f"{field.name}[{text[:20]!r}]", lambda m, f=field.name, t=text: _map(m, f, t, "v")
            yield f"{field.name}[k]={text[:20]!r}", lambda m, f=field.name, t=text: _map(m, f, "k", t)
    elif field.message_type is not None:
        if depth < 4:
            inner = GetMessageClass(field.message_type)()
            for path, setter in variants(inner, depth + 1):
                yield f"{field.name}.{path}", lambda m, f=field, s=setter: s(_inside(m, f))
    else:
        for value in values(field):
            yield f"{field.name}={str(value)[:24]!r}", lambda m, f=field, v=value: _set(m, f, v)
        if field.is_repeated:
            value = values(field)[1]
            yield f"{field.name}*20000", lambda m, f=field, v=value: getattr(m, f.name).extend([v] * 20_000)


def _inside(message: Message, field: FieldDescriptor) -> Message:
    child = getattr(message, field.name)
    if field.is_repeated:
        return child[0] if child else child.add()  # type: ignore[no-any-return]
    child.SetInParent()
    return child  # type: ignore[no-any-return]


def _set(message: Message, field: FieldDescriptor, value: Any) -> None:
    if field.is_repeated:
        held = getattr(message, field.name)
        del held[:]
        held.append(value)
    else:
        setattr(message, field.name, value)


def _map(message: Message, name: str, key: str, value: str) -> None:
    entries = getattr(message, name)
    try:
        entries[key] = value
    except TypeError:
        entries[key] = len(value)  # a map to numbers


def requests(name: str, method: MethodDescriptor, site: Site, job: str) -> Iterator[tuple[str, Message]]:
    for path, setter in variants(GetMessageClass(method.input_type)()):
        request = base(name, site, job)
        clone = type(request)()
        clone.CopyFrom(request)
        setter(clone)
        yield path, clone


@pytest.mark.parametrize("name", [name for name in METHODS if name != "Agents.Connect"])
def test_no_value_of_any_field_is_a_fault_of_the_daemon(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    wrong: list[str] = []

    async def story(site: Site) -> None:
        token = site.token("root", "admin")
        for path, request in requests(name, METHODS[name], site, site.job("ann", "nlp")):
            # A stream that has nothing to say yet is as good as an answer: it was not refused.
            wait_s = 0.05 if name in STREAMS else 20
            status, details = await site.call(name, request, token=token, wait_s=wait_s)
            quiet = name in STREAMS and status == "DEADLINE_EXCEEDED"
            if (status in NEVER and not quiet) or "metadata size" in details:
                wrong.append(f"{path}: {status} {details[:160]}")
        status, details = await site.call("Events.Server", token=token)
        if status != "OK":
            wrong.append(f"afterwards: {status} {details}")

    play(story)
    wrong += [f"logged: {record.getMessage()} {record.exc_text or ''}"[:400] for record in caplog.records]
    assert wrong == []


def test_the_walk_reaches_nested_repeated_and_mapped_fields() -> None:
    paths = {path.partition("=")[0] for path, _ in variants(jobs_pb2.SubmitRequest())}
    assert {
        "spec.options.gpus.count",
        "spec.array.max_parallel",
        "spec.depends_on.job",
        "idempotency_key",
    } <= paths
    assert any(path.startswith("spec.env[") for path in paths)
    assert any(path.startswith("hello.facts.cpu_milli") for path, _ in variants(agents_pb2.AgentMessage()))


def test_a_number_beyond_a_signed_integer_is_refused_by_its_path() -> None:
    spec = types_pb2.JobSpec(
        options=[types_pb2.ResourceRequest(gpus=types_pb2.GpuRequest(memory_bytes=2**63))]
    )
    with pytest.raises(
        InvalidRequest, match=r"^spec\.options\.gpus\.memory_bytes: is 9223372036854775808;"
    ) as caught:
        check_numbers(jobs_pb2.PlanRequest(spec=spec))
    assert caught.value.facts == {"field": "spec.options.gpus.memory_bytes"}
    check_numbers(jobs_pb2.LogsRequest(offset=2**63 - 1))
    with pytest.raises(
        InvalidRequest, match=r"^offset: is 9223372036854775808; at most 9223372036854775807$"
    ):
        check_numbers(jobs_pb2.LogsRequest(offset=2**63))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_refused_by_its_path(value: float) -> None:
    batch = types_pb2.TelemetryBatch(samples=[types_pb2.Sample(), types_pb2.Sample(power_watts=value)])
    with pytest.raises(InvalidRequest, match=r"^samples\.power_watts: is .*; a finite number is needed$"):
        check_numbers(batch)
    check_numbers(types_pb2.TelemetryBatch(samples=[types_pb2.Sample(power_watts=1e308)]))


# ------------------------------------------------------------------ texts

Path = tuple[FieldDescriptor, ...]
LONG: Final = ("a" * 100_000, "a" * 1_040_000)
CONTROLS: Final = ("\x1b[2J", "x\ny", "\x00", "a\x7f")
SPEC: Final = "JobSpec"
"""Has rules of its own (`bursar.model.check`), whose paths are the words of the job file."""
OWN_RULE: Final = {"PolicySource.text", "UpdateRequest.comment", "SubmitRequest.idempotency_key"}


def texts(descriptor: Descriptor, before: Path = ()) -> Iterator[Path]:
    """Where a request holds text."""
    for field in descriptor.fields:
        inner = field.message_type
        if inner is None:
            if field.type == FieldDescriptor.TYPE_STRING:
                yield (*before, field)
        elif inner.GetOptions().map_entry:
            if inner.fields_by_name["value"].type == FieldDescriptor.TYPE_STRING:
                yield (*before, field)
        else:
            yield from texts(inner, (*before, field))


def put(request: Message, path: Path, value: str) -> None:
    for field in path[:-1]:
        request = _inside(request, field)
    last = path[-1]
    _set(request, last, value) if last.message_type is None else _map(request, last.name, "k", value)


def of(path: Path) -> str:
    return f"{path[-1].containing_type.name}.{path[-1].name}"


def in_spec(path: Path) -> bool:
    return any(field.containing_type.name == SPEC for field in path)


CALLS: Final = [
    (name, path)
    for name, method in METHODS.items()
    if name not in ("Agents.Connect", "Jobs.SubmitMany", "Jobs.SubmitBatches")
    for path in texts(GetMessageClass(method.input_type).DESCRIPTOR)
]


@pytest.mark.parametrize("name", sorted({name for name, _ in CALLS}))
def test_a_text_that_is_too_long_or_no_line_is_refused_by_its_field(name: str) -> None:
    async def story(site: Site) -> None:
        token, job = site.token("root", "admin"), site.job("ann", "nlp")
        wrong = []
        for path in (path for called, path in CALLS if called == name):
            controls = () if of(path) in OWN_RULE or in_spec(path) else CONTROLS
            for value in (*LONG, *controls):
                request = base(name, site, job)
                put(request, path, value)
                wait_s = 1 if name in STREAMS else 20
                status, details = await site.call(name, request, token=token, wait_s=wait_s)
                named = in_spec(path) or of(path) == "PolicySource.text" or path[-1].name in details
                if status != "INVALID_ARGUMENT" or not named or len(details) > 8_000:
                    wrong.append(f"{of(path)} of {len(value)}, {value[:5]!r}: {status} {details[:100]}")
        assert wrong == []

    play(story)


def test_the_walk_meets_reasons_filters_names_and_labels() -> None:
    met = {(name, of(path)) for name, path in CALLS}
    assert {
        ("Nodes.Cordon", "NodeModeRequest.reason"),
        ("Nodes.Drain", "DrainRequest.reason"),
        ("Money.Correct", "CorrectRequest.reason"),
        ("Jobs.List", "ListJobsRequest.labels"),
        ("Policies.Apply", "PolicySource.name"),
        ("Jobs.Plan", "JobSpec.workdir"),
        ("Jobs.Plan", "GpuRequest.types"),
    } <= met


def test_page_tokens_are_those_that_were_given_out() -> None:
    async def story(site: Site) -> None:
        token = site.token("root", "admin")
        for given in ("5", "5.", "a.b", "5.-2", "1.9223372036854775808", "-5.1", "5.1.1"):
            status, details = await site.call(
                "Jobs.List", jobs_pb2.ListJobsRequest(page_token=given), token=token
            )
            assert (status, details[:10]) == ("INVALID_ARGUMENT", "page_token"), given
        for given in ("5.-1", "5.0", "999999999999999999.999999999"):
            request = jobs_pb2.ListJobsRequest(page_token=given)
            status, _ = await site.call("Jobs.List", request, token=token)
            assert status == "OK", given

    play(story)


def test_a_method_that_nobody_listed_is_asked_about_something_that_exists() -> None:
    async def story(site: Site) -> None:
        job = site.job("ann", "nlp")
        assert base("Jobs.Hold", site, job) == jobs_pb2.JobsRequest(jobs=[job])
        assert base("Nodes.Remove", site, job) == nodes_pb2.NodeRequest(node="n1")
        assert base("Access.Grant", site, job) == access_pb2.GrantRequest(
            user="ann", role="viewer", project="nlp"
        )

    play(story)
