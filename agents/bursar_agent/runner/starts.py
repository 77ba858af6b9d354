"""Start requests on their way to the launcher: in few messages, and known until they are answered.

Owns    the batches, and which members may yet be asked for again.
Why     a launcher that dies before it answered is asked again, and the mark on disk makes that safe. So the
        mark stays until then, although a short job ends, and is in the daemon's books, before that answer.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import msgspec

log = logging.getLogger(__name__)

_BATCH = 16
"""Starts per message: enough to save turns, few enough that the first answer is not late."""

_BATCH_BYTES = 1 << 20

Member = tuple[str, int]
"""Attempt id and rank."""


def batches(bodies: Sequence[bytes]) -> list[list[bytes]]:
    """Everything asked for at once, in few messages that are not too long."""
    found: list[list[bytes]] = []
    size = 0
    for body in bodies:
        if not found or len(found[-1]) >= _BATCH or size + len(body) > _BATCH_BYTES:
            found.append([])
            size = 0
        found[-1].append(body)
        size += len(body)
    return found


def encoded(request: Mapping[str, Any]) -> bytes:
    """One request as JSON."""
    try:
        return msgspec.json.encode(request)
    except UnicodeEncodeError:
        return json.dumps(request).encode()  # a path or a variable that is no UTF-8


class Unanswered:
    """Members whose start the launcher has not answered: one that is given up is kept until it has.

    Args:
        give_up: drop what is kept of a member, its mark with it.
    """

    def __init__(self, give_up: Callable[[str, int], None]) -> None:
        self._give_up = give_up
        self._asked: Counter[Member] = Counter()
        self._over: set[Member] = set()

    def __contains__(self, member: object) -> bool:
        return member in self._asked

    @contextlib.contextmanager
    def asking(self, members: Collection[Member]) -> Iterator[None]:
        """These may be asked for more than once in here."""
        self._asked.update(members)
        try:
            yield
        finally:
            self._asked -= Counter(members)
            over = {member for member in members if member in self._over and member not in self._asked}
            self._over -= over
            for member in over:
                try:
                    self._give_up(*member)
                except OSError as problem:  # it is told once more after a restart, and given up then
                    log.warning("cannot release", extra={"attempt_id": member[0], "problem": str(problem)})

    def over(self, attempt_id: str, rank: int) -> None:
        """Give the member up, at once or as soon as its start is answered."""
        if (attempt_id, rank) in self._asked:
            self._over.add((attempt_id, rank))
        else:
            self._give_up(attempt_id, rank)
