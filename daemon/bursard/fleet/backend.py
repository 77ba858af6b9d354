"""The one thing the fleet asks of whatever runs members: a machine's agent today, other systems later.

Owns    the `Backend` protocol and its promises; `tests/support/backend_contract.py` holds each of them.
Why     placing, metering and reconciling are the same wherever a process really runs, so they are written
        once, in `bursard.fleet.fleet`, and know nothing of connections.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from bursard.fleet.words import Assign, Forget, Limit, LogAnswer, LogRange, MemberTruth, Probe, Stop


class Backend(Protocol):
    """Runs members on the nodes it has announced to the fleet.

    Every order may be given twice, and may be lost with the connection: the fleet says it again once the node
    is back. Orders return at once; what became of them is reported with `Fleet.started`, `Fleet.exited`,
    `Fleet.limit_taken` and `Fleet.usage`. None of them raises for a node or member that is not there.
    """

    def assign(self, node_id: str, order: Assign) -> None:
        """Start a member: at most once, whatever happens, and only in the boot it is bound to."""
        ...

    def ahead(self, node_id: str) -> int:
        """How many orders with `after` it holds at once; 0: it must get none.

        It starts each when no process of the attempt named there is left, or there never was one, and reports
        that end before this start. With the connection it forgets those that wait: they are given again.
        """
        ...

    def stop(self, node_id: str, order: Stop) -> None:
        """End a member. The end is reported, also of one that never started or has ended already.

        `only_waiting`: ignored but for one that waits for another's share, which ends as never started.
        """
        ...

    def takes_limits(self, node_id: str) -> bool:
        """May a member there be given another time limit while it lives?"""
        ...

    def limit(self, node_id: str, order: Limit) -> None:
        """Give a live member another time limit. Reported once it lives by it, whatever is killed; of one
        that has ended, its end is. A limit that has passed ends the member, as one that is reached does.
        """
        ...

    def probe(self, node_id: str, order: Probe) -> None:
        """Look whether a live member is ready; report it (`Fleet.readiness`) now and whenever it changes."""
        ...

    def forget(self, node_id: str, order: Forget) -> None:
        """The end is in the ledger: it need not be told again. Of a member that has not ended: ignored.
        What it wrote is still asked for.
        """
        ...

    def adopt(self, node_id: str) -> Sequence[MemberTruth]:
        """Every member that is there and not forgotten, running or ended, as of now."""
        ...

    async def read_log(self, node_id: str, wanted: LogRange) -> LogAnswer:
        """A piece of what a member wrote. What is not there is an answer with an `error`.

        Raises:
            ServerUnavailable: the node cannot be asked now.
        """
        ...
