"""A member of a job that answers in place of a daemon: what it is told, and what it says."""

from __future__ import annotations

import json
from typing import Any

from bursar.steps import frames
from bursar.steps.far import Far
from bursar.v1 import jobs_pb2 as pb


class There:
    """A member that answers in place of a daemon: says these frames once it knows what is to run."""

    def __init__(self, *says: tuple[int, int, bytes]) -> None:
        self.far = Far(0)
        self.says = list(says)
        self.heard: list[tuple[int, int, bytes]] = []
        self.opened: Any = None
        self.closes: str | None = None
        self.left = False
        """Its caller said that it goes."""
        self.waits_for = frames.SPEC
        """A kind of frame: nothing is said before one has come."""

    def __call__(self, request: pb.AttachRequest) -> pb.AttachAnswer:
        if request.HasField("open"):
            self.opened = request.open
            return pb.AttachAnswer(opened=pb.AttachOpened(job_id="job_9", number=9, node="n1"))
        if request.leave:
            self.left = True
            return pb.AttachAnswer(closed="")
        self.heard += self.far.take(request.packet, 0)
        if self.heard and self.closes is not None:
            return pb.AttachAnswer(closed=self.closes)
        if self.says and any(kind == self.waits_for for kind, _, _ in self.heard):
            for one in self.says:
                self.far.say(*one)
            self.says.clear()
        return pb.AttachAnswer(packet=self.far.packets(0)[0])

    def spec(self) -> dict[str, Any]:
        """What is to run."""
        kind, _, data = self.heard[0]
        assert kind == frames.SPEC
        found: dict[str, Any] = json.loads(data)
        return found


def ends(code: int, number: int = 0) -> tuple[tuple[int, int, bytes], ...]:
    return ((frames.EXIT, 0, bytes((code, number))), (frames.DONE, 0, b""))
