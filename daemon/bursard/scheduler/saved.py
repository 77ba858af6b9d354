"""A snapshot in a file, with the instant and the plan that was made of it, so that it can be made again.

Owns    the file's format: one line that names it and its version, then JSON, deflated. Versions are a
        contract: what this one writes, later ones read.
Why     "why did it do that?" is answered by doing it again, somewhere else and later. A snapshot is all
        that a plan is made of, so the same bytes must come out.
"""

from __future__ import annotations

import json
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from bursar.errors import InvalidRequest
from bursar_policies.decision import GPU_SLOTS_MAX, MemberColumns, NodeColumns, Plan, Snapshot
from bursard.scheduler.plan import plan
from bursard.scheduler.saved_upgrade import upgrade

MAGIC = b"bursar-snapshot "
VERSION = b"5"
READS = (b"1", b"2", b"3", b"4", b"5")
UNPACKED_MAX = 1 << 30
"""Bytes of JSON that are read: ten times the largest site. A small file may unpack to anything."""
PIECE_BYTES = 1 << 18
_DTYPES = {"ready": np.bool_, "gpu_free": np.int16, "gpu_type": np.int16, "gpu_milli": np.int16}
_WIDE = ("gpu_free", "gpu_milli")


class Saved(msgspec.Struct, frozen=True):
    """What a file holds. `plan`: the one that was made of it at `at`, None when none was."""

    at: int
    snapshot: Snapshot
    plan: Plan | None = None

    def again(self) -> Plan:
        """The plan that this version makes of it."""
        return plan(self.snapshot, self.at)


def plan_bytes(made: Plan) -> bytes:
    """A plan as bytes: equal plans, equal bytes."""
    return msgspec.json.encode(made)


def dump(saved: Saved) -> Iterator[bytes]:
    """The file, in pieces."""
    yield MAGIC + VERSION + b"\n"
    packer = zlib.compressobj(level=1)
    text = msgspec.json.Encoder(enc_hook=_from_array).encode(saved)
    for start in range(0, len(text), PIECE_BYTES):
        if piece := packer.compress(text[start : start + PIECE_BYTES]):
            yield piece
    yield packer.flush()


def load(data: bytes, name: str = "snapshot") -> Saved:
    """What `dump` wrote.

    Args:
        name: of the file, for errors.

    Raises:
        InvalidRequest: another kind of file, another version, damaged, or columns that do not agree.
    """
    head, _, packed = data.partition(b"\n")
    if not head.startswith(MAGIC):
        raise InvalidRequest(f"{name}: is not a saved snapshot (bursar doctor --save-snapshot writes one)")
    if (version := head.removeprefix(MAGIC)) not in READS:
        said = version[:20].decode("ascii", "replace")
        raise InvalidRequest(
            f"{name}: is of format {said!r}, this version reads {VERSION.decode()} and older"
        )
    try:
        unpacker = zlib.decompressobj()
        text = unpacker.decompress(packed, UNPACKED_MAX)
        if not unpacker.eof:
            raise InvalidRequest(f"{name}: is cut off, or unpacks to more than {UNPACKED_MAX >> 20} MiB")
        if version == VERSION:
            saved = msgspec.json.Decoder(Saved, dec_hook=_to_array).decode(text)
        else:
            document = json.loads(text)
            upgrade(document, int(version))
            saved = msgspec.convert(document, Saved, dec_hook=_to_array, str_keys=True)
        _check(saved, name)
    except InvalidRequest:
        raise
    except (
        zlib.error, msgspec.MsgspecError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError,
        RecursionError, MemoryError,
    ) as problem:  # fmt: skip
        raise InvalidRequest(f"{name}: is damaged: {str(problem)[:200]}") from None
    nodes = replace(saved.snapshot.nodes, **_tuples(saved.snapshot.nodes))
    running = replace(saved.snapshot.running, **_tuples(saved.snapshot.running))
    return replace(saved, snapshot=replace(saved.snapshot, nodes=nodes, running=running, facts_version=0))


def _from_array(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        if value.dtype == np.object_:
            return value.tolist()
        return [value.dtype.str, value.shape, b64encode(value.tobytes()).decode()]
    raise NotImplementedError(f"{type(value).__name__} is no part of a snapshot")


def _to_array(kind: type, value: Any) -> Any:
    if kind == NDArray[np.object_]:
        names = np.empty(len(value), dtype=np.object_)
        names[:] = msgspec.convert(value, list[str])
        names.flags.writeable = False
        return names
    dtype, shape, data = msgspec.convert(value, tuple[str, tuple[int, ...], str])
    if dtype not in ("|b1", "<i2", "<i8"):
        raise ValueError(f"a column of type {dtype[:10]!r}")
    found = np.frombuffer(b64decode(data, validate=True), dtype=np.dtype(dtype)).reshape(shape)
    found.flags.writeable = False
    return found


def _tuples(columns: NodeColumns | MemberColumns) -> dict[str, Any]:
    values = ((name, getattr(columns, name)) for name in columns.__struct_fields__)
    return {name: tuple(value) for name, value in values if not isinstance(value, np.ndarray)}


def _check(saved: Saved, name: str) -> None:
    """Columns of one length and type, and rows that exist: a plan trusts them."""
    nodes, running = saved.snapshot.nodes, saved.snapshot.running
    for columns, rows in ((nodes, len(nodes.ids)), (running, len(running.attempt_ids))):
        for column in columns.__struct_fields__:
            value = getattr(columns, column)
            if column != "gpu_types" and len(value) != rows:
                raise InvalidRequest(f"{name}: is damaged: {column} has {len(value)} rows, not {rows}")
            if not isinstance(value, np.ndarray):
                continue
            width = (rows, GPU_SLOTS_MAX) if column in _WIDE else (rows,)
            if value.dtype != _DTYPES.get(column, np.int64) or value.shape != width:
                raise InvalidRequest(f"{name}: is damaged: {column} is not what it should be")
    if len(running) and not (running.node.min() >= 0 and running.node.max() < len(nodes.ids)):
        raise InvalidRequest(f"{name}: is damaged: something runs on a node that is not there")
    for queue in saved.snapshot.queues:
        jobs = queue.jobs
        lengths = (jobs.orders, jobs.limits_us, jobs.since_us, jobs.projects, jobs.deadlines_us, jobs.users)
        if any(len(column) != len(jobs.ids) for column in lengths) or jobs.limits_us.min(initial=1) < 1:
            raise InvalidRequest(f"{name}: is damaged: the columns of a queue do not agree")
        named = max(len(saved.snapshot.projects), 1)
        if not (jobs.projects.min(initial=0) >= 0 and jobs.projects.max(initial=0) < named):
            raise InvalidRequest(f"{name}: is damaged: a job is of a project that is not named")
        owners = max(len(saved.snapshot.users), 1)
        if not (jobs.users.min(initial=0) >= 0 and jobs.users.max(initial=0) < owners):
            raise InvalidRequest(f"{name}: is damaged: a job is of a user who is not named")
    kinds, slots = nodes.gpu_type, nodes.gpu_total
    if len(kinds) and not (kinds.min() >= -1 and kinds.max() < len(nodes.gpu_types)):
        raise InvalidRequest(f"{name}: is damaged: a node has GPUs of a type that is not named")
    if len(slots) and not (slots.min() >= 0 and slots.max() <= GPU_SLOTS_MAX):
        raise InvalidRequest(f"{name}: is damaged: a node has {int(slots.max())} GPUs")
