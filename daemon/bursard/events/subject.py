"""What an event is called and what it is about, read from its bytes without decoding the whole of it."""

from __future__ import annotations

import msgspec


class _Head(msgspec.Struct):
    type: str
    job_id: str = ""
    attempt_id: str = ""
    machine_id: str = ""
    node_id: str = ""
    budget: str = ""
    name: str = ""


_HEAD = msgspec.json.Decoder(_Head)


def head_of(payload: bytes) -> tuple[str, str]:
    """The event's tag, such as `job-submitted`, and the id or name it is about: job, else attempt,
    machine, node, budget or document.
    """
    head = _HEAD.decode(payload)
    return (
        head.type,
        head.job_id or head.attempt_id or head.machine_id or head.node_id or head.budget or head.name,
    )
