"""The connections of one listener for HTTP: of too many, the one that has owed a request longest goes.

Why     whoever opens connections and says nothing, or a byte now and then, would take all there are from
        everybody; who comes with a request has sent it in the time of one round, and so gets in beside any
        number of them. A connection that is being answered is never cut for another. Pure counting.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

C = TypeVar("C")


class Heads(Generic[C]):
    """Who is connected, and who of them owes a request.

    Args:
        most: connections at a time. cut: closes one at once.
    """

    def __init__(self, most: int, cut: Callable[[C], None]) -> None:
        self._most, self._cut = most, cut
        self._open: set[C] = set()
        self._owing: dict[C, None] = {}
        """In the order in which they began to owe one."""

    def __len__(self) -> int:
        return len(self._open)

    def opened(self, one: C) -> None:
        """One more; another goes for it if there are too many, or itself where all are being answered."""
        self._open.add(one)
        self._owing[one] = None
        if len(self._open) > self._most:
            oldest = next(iter(self._owing))
            self.gone(oldest)
            self._cut(oldest)

    def here(self, one: C) -> None:
        """Its request is here: it is being answered."""
        self._owing.pop(one, None)

    def answered(self, one: C) -> None:
        """It may send the next."""
        if one in self._open:
            self._owing[one] = None

    def gone(self, one: C) -> None:
        """It is closed."""
        self._open.discard(one)
        self._owing.pop(one, None)
