"""A window of samples per node, fed by the agents' own streams and by nothing else.

Why     idle policies stop jobs by what stands here, so each reading comes from who has proved to be its node.
        `top` and `show` want now; a bounded window cannot grow with the cluster's age. What was is in
        `history`, as means.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from bursar.errors import InvalidRequest
from bursar.model import NodeFacts
from bursard.fleet import door, readings
from bursard.telemetry.history import History

log = logging.getLogger(__name__)

WINDOW = 60
"""Samples kept per node: one minute at 1 Hz."""

SAMPLE_BYTES_MAX = 128 * 1024
"""One sample: a thousand members and all devices of a node."""


def _own(sample: Any, live: Mapping[str, int]) -> None:
    """Leave out what its node does not hold. Raises `InvalidRequest` when it is still too large."""
    own = [one for one in sample.attempts if live.get(one.attempt_id) == one.rank]
    if len(own) < len(sample.attempts):
        del sample.attempts[:]
        sample.attempts.extend(own)
    if sample.ByteSize() > SAMPLE_BYTES_MAX:
        raise InvalidRequest(f"telemetry.samples: at most {SAMPLE_BYTES_MAX} bytes each")


def _move_summaries(before: Any, sample: Any) -> None:
    """A summary comes every ten seconds, and is shown until the next."""
    known = {gpu.index: gpu for gpu in before.gpus if gpu.HasField("summary")}
    for gpu in sample.gpus:
        old = known.get(gpu.index)
        if old is not None and not gpu.HasField("summary"):
            gpu.summary.CopyFrom(old.summary)
    for gpu in known.values():
        gpu.ClearField("summary")
    for attempt in before.attempts:
        attempt.ClearField("steps")  # what ran is shown of the newest reading alone


class LiveTelemetry:
    """Newest samples by node name. A sample is opaque here: the wire's own message."""

    def __init__(self) -> None:
        self._windows: dict[str, deque[Any]] = {}
        self.history = History()
        self.received = 0
        self.refused = 0

    def take(self, node: str, batch: Any, live: Mapping[str, int], facts: NodeFacts, now: int) -> None:
        """A batch (`bursar.v1.TelemetryBatch`) of one node's readings. One that makes no sense is dropped
        whole and counted: telemetry is lossy, and no stream should end for it.

        Args:
            live: by attempt id, the rank that this node holds; of others it has nothing to say.
            facts: what the node has: no more than that is shown. now: the daemon's instant.
        """
        for _ in self.pieces(node, batch, live, facts, now):
            pass

    def pieces(
        self, node: str, batch: Any, live: Mapping[str, int], facts: NodeFacts, now: int
    ) -> Iterator[None]:
        """As `take`, a sample at a time: between two of them others may have their turn."""
        try:
            door.telemetry(node, batch.node, batch.samples, len(live))
            for sample in batch.samples:
                _own(sample, live)
                door.sample(sample)
                readings.cut(sample, facts, now)
                yield
        except InvalidRequest as error:
            if not self.refused:
                log.warning("telemetry was refused", extra={"node": node, "problem": error.message})
            self.refused += 1
            return
        for sample in batch.samples:
            self.add(node, sample)
            yield

    def add(self, node: str, sample: Any) -> None:
        """Keep one reading; the oldest falls out. The last summary of each device moves to the newest one."""
        window = self._windows.get(node)
        if window is None:
            window = self._windows[node] = deque(maxlen=WINDOW)
        if window:
            _move_summaries(window[-1], sample)
        window.append(sample)
        self.history.take(node, sample)
        self.received += 1

    def newest(self, node: str) -> Any | None:
        """The last reading of a node, or None."""
        window = self._windows.get(node)
        return window[-1] if window else None

    def drop(self, node: str) -> None:
        """The node is out of contact: its readings are no longer live."""
        self._windows.pop(node, None)
