"""What the agent asks of whatever runs attempt members on its machine.

Why     the agent's core and its tests know this and nothing of processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from bursar_agent.runner import logtimes
from bursar_agent.runner.model import AttemptTruth, StartRequest, StartResult, StopRequest


class Runner(Protocol):
    """Runs attempt members on this machine."""

    async def start(self, requests: Sequence[StartRequest]) -> list[StartResult]:
        """Start each member at most once, ever; one result per request, in order."""
        ...

    async def stop(self, attempt_id: str, rank: int, request: StopRequest) -> None:
        """Ask a member to end. Idempotent; raises `NotFound` for a member never started here."""
        ...

    async def limit(self, attempt_id: str, rank: int, time_limit_us: int) -> None:
        """Have a member live by another time limit, counted from its start; durable once this returns.

        Idempotent, and nothing for one that has ended. Raises `NotFound`, `WrongState` where its supervisor
        cannot.
        """
        ...

    async def adopt(self) -> list[AttemptTruth]:
        """All members known on disk, as they are now; from here on their events are heard."""
        ...

    def forget(self, attempt_id: str, rank: int) -> None:
        """Remove what is kept of an ended member. Only after the daemon has recorded the end: the
        mark that prevents a second start goes with it. Raises `WrongState` while it runs, and until the
        launcher has answered its start.
        """
        ...

    def release(self, attempt_id: str, rank: int) -> bool:
        """`forget`, now, an ended member that left nothing to read; False: there is something to keep."""
        ...

    def read_log(self, attempt_id: str, rank: int, offset: int, limit: int) -> tuple[bytes, int, int]:
        """Bytes from the logical `offset`, the next offset, and how many in between were dropped."""
        ...

    def read_log_times(self, attempt_id: str, rank: int) -> logtimes.Marks:
        """When what it wrote came."""
        ...

    def read_progress(self, attempt_id: str, rank: int) -> bytes | None:
        """What a member that runs has put into its progress file; None: nothing. It may never answer."""
        ...

    def read_last_progress(self, attempt_id: str, rank: int) -> bytes | None:
        """The same of one that has ended, at once."""
        ...

    def read_steps(self, attempt_id: str, rank: int, *, running: bool = False) -> bytes | None:
        """Records of the steps of a member that has ended, at once, or of one that runs, which may never
        answer; None: there are none.
        """
        ...
