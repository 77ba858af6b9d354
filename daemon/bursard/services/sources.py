"""The documents of a request as they are read: bounded, and named in faults as their files are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bursar.errors import InvalidRequest
from bursar.smallfile import FILES_PER_CALL_MAX
from bursar.v1 import money_pb2 as pb

NAME_CHARS: Final = 120
"""Of the name of a file, in each of its faults."""


def named_texts(sources: Sequence[pb.PolicySource]) -> list[tuple[str, str]]:
    """What `parse_files` reads. Raises `InvalidRequest` for more files than are taken at once."""
    if len(sources) > FILES_PER_CALL_MAX:
        raise InvalidRequest(f"{len(sources)} files are more than {FILES_PER_CALL_MAX} at once")
    return [(_called(source.name), source.text) for source in sources]


def _called(name: str) -> str:
    """A file as faults name it, of which an answer may hold many: a long path by its end."""
    if len(name) > NAME_CHARS:
        return f"…{name[1 - NAME_CHARS :]}"
    return name or "document"
