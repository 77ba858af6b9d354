"""Of what a request repeats there is only so much: each may be a condition of a query, or an answer."""

from __future__ import annotations

import importlib
import pkgutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import bursar.v1
from bursar.codec import bounds
from bursar.codec.bounds import COUNTS, check_counts
from bursar.codec.spec import spec_from_wire
from bursar.errors import InvalidRequest, StoreUnavailable
from bursar.v1 import jobs_pb2 as pb
from bursar.v1 import types_pb2
from bursard.store import SqliteStore, schema


def requests() -> Iterator[Any]:
    """What callers of every service send; of agents another door is the judge."""
    for module in pkgutil.iter_modules(bursar.v1.__path__):
        if module.name.endswith("_pb2"):
            for service in importlib.import_module(
                f"bursar.v1.{module.name}"
            ).DESCRIPTOR.services_by_name.values():
                if service.name != "Agents":
                    yield from (method.input_type for method in service.methods)


def repeated(descriptor: Any) -> set[str]:
    found = set()
    for field in descriptor.fields:
        inner = field.message_type
        if field.is_repeated:
            found.add(field.full_name)
        if inner is not None and not inner.GetOptions().map_entry and inner.full_name != "bursar.v1.JobSpec":
            found |= repeated(inner)
    return found


STREAMED = {"bursar.v1.SubmitBatch.jobs"}
"""Bounded by its own handler, message by message."""


def test_every_repeated_field_that_a_caller_can_send_has_a_bound_and_no_other_is_named() -> None:
    sent = {name for request in requests() for name in repeated(request)}
    assert sent - STREAMED == set(COUNTS)
    assert all(16 <= most <= 1_000 for most in COUNTS.values())


def holding(name: str, many: int) -> Any:
    """A request that holds so many of a field."""
    kind, _, field = name.removeprefix("bursar.v1.").partition(".")
    made = next(
        getattr(module, kind)()
        for module in (
            importlib.import_module(f"bursar.v1.{one}_pb2")
            for one in ("jobs", "money", "events", "types", "services")
        )
        if hasattr(module, kind)
    )
    held = getattr(made, field)
    if name.endswith(".labels"):
        held.update({f"k{at}": "v" for at in range(many)})
    elif made.DESCRIPTOR.fields_by_name[field].message_type is not None:
        for _ in range(many):
            held.add()
    else:
        held.extend(["x"] * many)
    return made


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_one_more_than_the_bound_is_refused_by_the_name_of_its_field(name: str) -> None:
    field, most = name.rpartition(".")[2], COUNTS[name]
    check_counts(holding(name, most))
    with pytest.raises(InvalidRequest, match=f"^{field}: {most + 1} are given; at most {most}$") as refused:
        check_counts(holding(name, most + 1))
    assert refused.value.facts == {"field": field}


def test_a_field_within_another_is_named_by_its_path_and_one_without_a_bound_takes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    request = pb.UpdateRequest(gpus=types_pb2.GpuRequest(types=["a"] * 17))
    with pytest.raises(InvalidRequest, match=r"^gpus\.types: 17 are given; at most 16$"):
        check_counts(request)
    monkeypatch.setattr(bounds, "COUNTS", {})
    with pytest.raises(InvalidRequest, match=r"^gpus\.types: 17 are given; at most 0$"):
        check_counts(request)
    check_counts(pb.UpdateRequest())


@pytest.mark.parametrize(
    "field", [field.name for field in types_pb2.JobSpec.DESCRIPTOR.fields if field.is_repeated]
)
def test_what_a_job_repeats_is_bounded_too(field: str) -> None:
    spec = types_pb2.JobSpec(
        project="p", nodes=1, priority=50, command=["true"], spot_policy="auto", on_exceed="stop"
    )
    held, kind = getattr(spec, field), types_pb2.JobSpec.DESCRIPTOR.fields_by_name[field]
    many = 10_001
    if kind.message_type is None:
        held.extend([(f"x{at}" if kind.type == kind.TYPE_STRING else at) for at in range(many)])
    elif kind.message_type.GetOptions().map_entry:
        held.update({f"K{at}": "v" for at in range(many)})
    else:
        for _ in range(many):
            held.add()
    with pytest.raises(InvalidRequest):
        spec_from_wire(spec)


def said(statement: str, *values: Any) -> str:
    connection = sqlite3.connect(":memory:")
    with pytest.raises(sqlite3.Error) as failed:
        connection.execute(statement, values)
    connection.close()
    return schema.unavailable(failed.value, Path("/db")).message


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        ("select 1 where " + " and ".join(["1 = 1"] * 1_100), ()),
        (f"select {','.join('?' * 40_000)}", (1,) * 40_000),
        ("select ?", ("x" * 10, "y")),
        ("select zeroblob(2000000000)", ()),
    ],
)
def test_what_a_question_is_too_much_for_is_never_told_as_damage(
    statement: str, values: tuple[Any, ...]
) -> None:
    message = said(statement, *values)
    assert message.startswith("/db cannot answer this (")
    assert message.endswith("; nothing is damaged: ask for less at once")
    assert "restore" not in message


def test_a_table_that_is_not_there_is_damage() -> None:
    assert said("select * from jobs") == f"/db cannot be used (no such table: jobs); {schema.RESTORE}"


def test_a_text_that_is_none_is_damage_and_no_question_of_too_much(tmp_path: Path) -> None:
    path = tmp_path / "bursard.db"
    store = SqliteStore(tmp_path)
    store.close()
    connection = sqlite3.connect(path)
    connection.execute("update meta set value = cast(x'41ff42' as text)")
    connection.commit()
    connection.close()
    with pytest.raises(StoreUnavailable, match=r"is damaged .*restore a backup"):
        SqliteStore(tmp_path).close()


def test_a_byte_of_the_schema_that_is_no_text_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "bursard.db"
    SqliteStore(tmp_path).close()
    data = bytearray(path.read_bytes())
    at = data.index(b"CREATE TABLE") if b"CREATE TABLE" in data else data.index(b"create table")
    for step in (14, 20, 40, 60):
        path.write_bytes(bytes(data[: at + step]) + b"\xff" + bytes(data[at + step + 1 :]))
        with pytest.raises(StoreUnavailable, match="restore a backup") as refused:
            SqliteStore(tmp_path).close()
        assert "nothing is damaged" not in refused.value.message


def test_a_format_that_sqlite_does_not_know_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "bursard.db"
    SqliteStore(tmp_path).close()
    data = bytearray(path.read_bytes())
    data[47] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(StoreUnavailable, match="restore a backup") as refused:
        SqliteStore(tmp_path).close()
    assert "nothing is damaged" not in refused.value.message
