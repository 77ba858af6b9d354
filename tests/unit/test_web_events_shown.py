"""A page asks for as many events as it needs, and for many only where most of the last are metering."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from bursar.cli.happenings import METERING
from bursar.v1 import events_pb2 as pb
from bursar_web.asking import events_shown


class Client:
    """Has a log, and notes how many of its last events it was asked for."""

    def __init__(self, kinds: list[str]) -> None:
        self.log = [pb.Event(seq=seq, kind=kind, json="{}") for seq, kind in enumerate(kinds, 1)]
        self.tails: list[int] = []

    async def events(self, *, tail: int, **asked: Any) -> AsyncIterator[pb.Event]:
        self.tails.append(tail)
        for event in self.log[-tail:]:
            yield event


@pytest.mark.parametrize(
    ("kinds", "asked", "shown", "tails"),
    [
        (["job-held"] * 90, [], [90, 89, 88], [6]),
        (["job-held", METERING] * 45, [], [89, 87, 85], [6]),
        (["job-held"] * 9 + [METERING] * 45, [], [9, 8, 7], [6, 60]),
        (["job-held"] * 9 + [METERING] * 58, [], [9, 8], [6, 60]),
        (["job-held", METERING, METERING], [], [1], [6, 60]),
        ([METERING] * 90, [METERING], [90, 89, 88], [3]),
    ],
)
def test_the_last_are_shown_newest_first(
    kinds: list[str], asked: list[str], shown: list[int], tails: list[int]
) -> None:
    client: Any = Client(kinds)
    rows = asyncio.run(events_shown(client, 3, kinds=asked))
    assert [row["seq"] for row in rows] == shown
    assert client.tails == tails
