"""The last word of a call that is refused: its text and details, within what every client of gRPC takes.

Why     beyond 8 kB of headers clients throw the answer away, at random below 16, and show rubbish instead:
        the caller would not even learn which field was wrong. What is too long is cut where it can be read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from bursar.errors import BursarError
from bursar.words import plural

DOMAIN: Final = "bursar"
WORD_BYTES_MAX: Final = 7_600
"""Of text and details as they travel; names of headers, and what gRPC adds, fit into the rest of 8,192."""
FACTS_MAX: Final = 32
FACT_CHARACTERS_MAX: Final = 512
FACTS_BYTES_MAX: Final = 1_500
_PLAIN: Final = bytes(byte for byte in range(0x20, 0x7F) if byte != ord("%"))
DETAILS_KEY: Final = "grpc-status-details-bin"


def last_word(code: grpc.StatusCode, error: BursarError) -> tuple[str, tuple[str, bytes]]:
    """(the text of the status, its details as trailing metadata)."""
    info = _info(error)
    message = _told(error.message)
    details = _details(code, message, info)
    if _travels(message) + _base64(details) > WORD_BYTES_MAX:
        details = _details(code, "", info)
        message = _cut(message, WORD_BYTES_MAX - _base64(details))
    return message, (DETAILS_KEY, details)


def _info(error: BursarError) -> error_details_pb2.ErrorInfo:
    """Facts in their order, as many as fit."""
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    left = FACTS_BYTES_MAX
    for key, value in list(error.facts.items())[:FACTS_MAX]:
        key, shown = _told(key), _told(value[:FACT_CHARACTERS_MAX])
        left -= len(key.encode()) + len(shown.encode())
        if left < 0:
            break
        info.metadata[key] = shown
    return info


def _details(code: grpc.StatusCode, message: str, info: error_details_pb2.ErrorInfo) -> bytes:
    packed = any_pb2.Any()
    packed.Pack(info)
    status = status_pb2.Status(code=code.value[0], message=message, details=[packed])
    data: bytes = status.SerializeToString()
    return data


def _told(text: str) -> str:
    """Text that travels: half a character, which JSON can bring and UTF-8 cannot, is written out."""
    return text.encode("utf-8", "backslashreplace").decode()


def _base64(data: bytes) -> int:
    return (len(data) * 4 + 2) // 3


def _travels(text: str) -> int:
    """Bytes of a status message on the wire: all but printable ASCII, and `%`, take three for one."""
    data = text.encode("utf-8", "replace")
    return len(data) + 2 * len(data.translate(None, delete=_PLAIN))


def _cut(text: str, room: int) -> str:
    """As many whole lines as fit, or the beginning of the first, and how much there is beyond."""
    lines = text.split("\n")

    def whole_lines(count: int) -> str:
        rest = f"… and {plural(len(lines) - count, 'more line')}; mend these first"
        return "\n".join([*lines[:count], rest])

    def beginning(count: int) -> str:
        return f"{text[:count]}… and {plural(len(text) - count, 'more character')}"

    kept = _longest(len(lines) - 1, lambda count: _travels(whole_lines(count)) <= room)
    if kept:
        return whole_lines(kept)
    return beginning(_longest(len(text), lambda count: _travels(beginning(count)) <= room))


def _longest(most: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to `most` that fits, by halving; 0: none does."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
