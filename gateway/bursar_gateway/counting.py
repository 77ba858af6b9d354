"""How many tokens an answer says it used: of OpenAI's chat, completions, embeddings and responses, of
Anthropic's messages; whole or as a stream of events. PURE.

Why     an answer that says nothing must not count as nothing: it is estimated, and told as estimated. What is
        looked at is `usage` alone, and how many events there were; no text of anybody is kept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

COUNT_MAX: Final = 10**12
"""Tokens of one request: more is no count."""
EVENT_BYTES_MAX: Final = 1 << 20
"""Of one event of a stream; a longer one passes unread."""
_END: Final = re.compile(rb"\n\n|\r\n\r\n|\r\r")
_BYTES_A_TOKEN: Final = 3
PREFIX_BYTES: Final = 256 * _BYTES_A_TOKEN
_PROMPTS: Final = (b'"messages"', b'"prompt"', b'"input"')
_STREAMED: Final = ("/chat/completions", "/completions")
"""Paths below which OpenAI says `usage` of a stream only when asked."""


class Usage(NamedTuple):
    """Tokens of one request; `cached` are among `tokens_in`."""

    tokens_in: int = 0
    tokens_out: int = 0
    cached: int = 0

    def most(self, other: Usage) -> Usage:
        """Of two that were told of one request one after the other: they only grow."""
        return Usage(*map(max, self, other))


def _count(found: Any, *names: str) -> int:
    for name in names:
        value = found.get(name) if isinstance(found, dict) else None
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= COUNT_MAX:
            return value
    return 0


def usage_of(document: Any) -> Usage | None:
    """What a whole answer, or one event, says of itself; None where it says nothing."""
    if not isinstance(document, dict):
        return None
    for holder in (document, document.get("response"), document.get("message")):
        found = holder.get("usage") if isinstance(holder, dict) else None
        if isinstance(found, dict):
            details = found.get("prompt_tokens_details") or found.get("input_tokens_details")
            read = _count(found, "cache_read_input_tokens")
            beside = read + _count(found, "cache_creation_input_tokens")
            return Usage(
                _count(found, "prompt_tokens", "input_tokens") + beside,
                _count(found, "completion_tokens", "output_tokens"),
                read or _count(details, "cached_tokens"),
            )
    return None


def at(document: Any, pointer: str) -> Any:
    """What stands at a place in JSON (RFC 6901); None: nothing does."""
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(document, dict):
            document = document.get(name)
        elif isinstance(document, list) and name.isascii() and name.isdecimal() and len(name) < 10:
            document = document[int(name)] if int(name) < len(document) else None
        else:
            return None
    return document


def units_of(document: Any, pointer: str) -> Usage | None:
    """The units that an answer says it took, as tokens that were written; None where it says none."""
    found = at(document, pointer)
    counts = isinstance(found, int) and not isinstance(found, bool) and 0 <= found <= COUNT_MAX
    return Usage(0, found) if counts else None


def prefix_of(body: bytes) -> bytes:
    """How what is asked begins: requests that begin alike find what a replica has worked out already."""
    starts = [body.find(word) for word in _PROMPTS]
    start = min((one for one in starts if one >= 0), default=0)
    return body[start : start + PREFIX_BYTES]


def parsed(data: bytes) -> Any:
    """JSON, or None for what is none."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def asks_for_usage(api: str, path: str, body: bytes) -> tuple[bytes, bool]:
    """The body to send on, and whether the answer's event of `usage` was asked for by us alone: then the
    client is not to see it.
    """
    if api != "openai" or not path.endswith(_STREAMED) or b'"stream"' not in body:
        return body, False
    asked = parsed(body)
    if not isinstance(asked, dict) or asked.get("stream") is not True:
        return body, False
    options = asked.get("stream_options")
    if isinstance(options, dict) and "include_usage" in options:
        return body, False
    asked["stream_options"] = {**(options if isinstance(options, dict) else {}), "include_usage": True}
    try:
        made = json.dumps(asked, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (ValueError, RecursionError):  # half a character, a number without end: as it came
        return body, False
    return made, True


class Stream:
    """The events of one streamed answer as they pass. `feed` gives back what the client is to get.

    Args:
        hide: leave out the event that says `usage` and nothing else.
    """

    def __init__(self, hide: bool) -> None:
        self.usage: Usage | None = None
        self.pieces = 0
        """Events that carried something."""
        self._hide = hide
        self._rest = b""
        self._unread = False

    def feed(self, data: bytes) -> bytes:
        """Take bytes as they come. Without `hide` they pass as they are, whatever they hold."""
        passed = b"".join(self._events(data))
        return passed if self._hide else data

    def end(self) -> bytes:
        """What was still held back when the answer ended."""
        rest, self._rest = self._rest, b""
        if rest:
            self._read(rest)
        return rest if self._hide else b""

    def _events(self, data: bytes) -> Iterator[bytes]:
        whole, at = self._rest + data, 0
        for found in _END.finditer(whole):
            event, at = whole[at : found.end()], found.end()
            if self._unread:
                self._unread = False
                yield event
            elif not self._read(event) or not self._hide:
                yield event
        self._rest = whole[at:]
        if len(self._rest) > EVENT_BYTES_MAX:
            yield self._rest
            self._rest, self._unread = b"", True

    def _read(self, event: bytes) -> bool:
        """Learn from one event. True: it says `usage` and nothing else."""
        lines = [line[5:].strip() for line in event.splitlines() if line.startswith(b"data:")]
        data = b"\n".join(lines)
        if not data or data == b"[DONE]":
            return False
        if b'"usage"' not in data:
            self.pieces += 1
            return False
        document = parsed(data)
        found = usage_of(document)
        if found is None:
            self.pieces += 1
            return False
        self.usage = found if self.usage is None else self.usage.most(found)
        if isinstance(document, dict) and document.get("choices"):
            self.pieces += 1
        return isinstance(document, dict) and document.get("choices") == []


def estimated(body: bytes, pieces: int) -> Usage:
    """What a request took that does not say: a token for each three bytes asked, and each piece answered."""
    return Usage(-(-len(body) // _BYTES_A_TOKEN), pieces)
