"""`in-order`: by priority, then first come first served, each at its fastest size that is left.

Why     the least that an allocator can do, and what others are compared with. Whoever runs goes on as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bursar_policies.allocators.api import Allotment, Problem, Room, Weight, allotted


class InOrder:
    """See above."""

    name = "in-order"
    weights: Mapping[str, Weight] = {}

    def allot(self, problem: Problem) -> Sequence[Allotment]:
        """Those that run keep what they hold; of the others whoever comes first has the choice."""
        room = Room(problem.supply)
        running = [(one.holds, one) for one in problem.contenders if one.holds is not None]
        running.sort(key=lambda pair: (-pair[0].gpus, pair[1].order))
        found = [allotted(one.job_id, size) for size, one in running if room.take(size)]
        waiting = (one for one in problem.contenders if one.holds is None)
        for one in sorted(waiting, key=lambda one: (-one.priority, one.order)):
            best_first = sorted(one.sizes, key=lambda size: (-size.speed, size.gpus_in_all, size))
            size = next((size for size in best_first if room.take(size)), None)
            if size is not None:
                found.append(allotted(one.job_id, size))
        return found
