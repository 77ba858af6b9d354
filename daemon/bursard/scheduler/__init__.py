"""The scheduler: a pure function from what is to what should start.

feasible -> admit -> rank -> gang -> backfill -> score, one small module each; `plan` walks them.
Why     no clock, no identity source, no I/O: the daemon, the simulator, `bursar plan`, a replay and
        the tests get the same answer from the same snapshot.
"""

from bursard.scheduler.explain import explain, what_if
from bursard.scheduler.plan import plan
from bursard.scheduler.pricing import share_rates
from bursard.scheduler.reasons import limited, making_room, reason_of
from bursard.scheduler.world import PlanCache

__all__ = ["PlanCache", "explain", "limited", "making_room", "plan", "reason_of", "share_rates", "what_if"]
