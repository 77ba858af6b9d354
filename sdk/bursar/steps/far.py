"""A host on a member of a job, for who is outside of that job: its frames, cut into packets.

Owns    what is said to it and not yet sent, and what is asked of it.
Why     the daemon carries packets between a user's program and a member as it does between members
        (`Jobs.Attach`): what is lost on the way is sent again by the ends, here and in the bridge there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from bursar.steps import frames
from bursar.steps.flow import Flow

WAITING_BYTES_MAX: Final = 1 << 18
"""Of what was said and could not be sent yet: who has more to say waits until it is less."""


class Far:
    """One end of the stream to a host. Times are microseconds of any steady clock."""

    def __init__(self, now_us: int) -> None:
        self._flow = Flow(now_us)
        self._reader = frames.Reader()
        self._waiting = bytearray()

    @property
    def full(self) -> bool:
        """Does too much wait?"""
        return len(self._waiting) >= WAITING_BYTES_MAX

    def say(self, kind: int, number: int = 0, data: bytes = b"") -> None:
        """One frame, which leaves with the next packets."""
        self._waiting += frames.encode(kind, number, data)

    def again(self, now_us: int) -> None:
        """The way is a new one: whatever was on the old one may be lost."""
        self._flow.again(now_us)

    def packets(self, now_us: int) -> list[bytes]:
        """What has to go now."""
        room = self._flow.room
        if self._waiting and room > 0:
            self._flow.put(bytes(self._waiting[:room]))
            del self._waiting[:room]
        return self._flow.packets(now_us)

    def due_us(self) -> int:
        """When `packets` is to be asked again at the latest."""
        return self._flow.due_us()

    def take(self, packet: bytes, now_us: int) -> list[tuple[int, int, bytes]]:
        """Frames (kind, number, data) that are whole by this packet.

        Raises `flow.Broken`, and `ValueError` for a frame that is none.
        """
        self._flow.take(packet, now_us)
        data = bytes(self._flow.inbox)
        self._flow.taken(len(data))
        return list(self._reader.feed(data))


def program(
    argv: Sequence[str], env: Mapping[str, str], *, node: str = "", size: int = 0, reads: bool = True
) -> dict[str, Any]:
    """What a host is told of one program that runs with all that its member has.

    Args:
        argv: empty: the account's shell.
        env: above the member's own.
        node: for messages.
        size: of its terminal, rows << 16 | columns; 0: it has none, but pipes.
        reads: input will come.
    """
    return {
        "own": True,
        "argv": list(argv),
        "program": "bursar attach",
        "env": dict(env),
        "node_env": {},
        "node": node,
        "node_index": 0,
        "ranks": [0],
        "tasks": 1,
        "step": 0,
        "cwd": "",
        "slurm": False,
        "distributed": False,
        "gpus_per_task": 0,
        "gpus_per_node": 0,
        "steps": "",
        "append": False,
        "output": "",
        "error": "",
        "input": "",
        "stdin": reads,
        "terminal": size,
    }
