"""How far a revision is tried, and whether it is good: a part of the requests first, then more. PURE.

Input   a service, how many replicas of the new revision are ready, and what both revisions answered since the
        step began.
Why     a revision is judged beside the old one, by what was asked of both at the same time: a fault that both
        have is none of the new one's.
Limits  what nobody asks cannot be judged by its answers: then it is enough that its replicas stay ready.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from bursar.model import ServiceSpec

FAILED_MIN: Final = 3
"""Fewer failures than that say nothing."""
JUDGED_MIN: Final = 20
"""Of both revisions, answers without which nothing is said of how long they take."""
SLOWER_MIN_US: Final = 10_000
"""By less than that nobody is slower."""
ENDS_MAX: Final = 5
"""So many ends in a row of a replica are a crash loop."""


class Answers(NamedTuple):
    """What replicas answered; `waited_us`: until all these answers had begun, added up."""

    answered: int = 0
    failed: int = 0
    waited_us: int = 0

    def and_also(self, other: Answers) -> Answers:
        """Both together."""
        return Answers(*(one + more for one, more in zip(self, other, strict=True)))


NONE: Final = Answers()


class Trial(msgspec.Struct, frozen=True):
    """A revision that is tried: which step it is in, and since when; 0: its replicas are not ready yet."""

    revision: int
    step: int = 0
    since: int = 0

    def percent(self, service: ServiceSpec) -> int:
        """The part of the requests that it gets now."""
        at = self.step if self.since else self.step - 1
        return service.parts[at] if at >= 0 else 0

    def last(self, service: ServiceSpec) -> bool:
        """All is to be of it, and it takes over as other updates do."""
        return self.step >= len(service.parts) - 1

    def replicas(self, service: ServiceSpec, target: int) -> int:
        """How many of it are to be ready in this step, of so many in all."""
        return max(-(-target * service.parts[self.step] // 100), 1)


def advance(service: ServiceSpec, trial: Trial | None, now: int, target: int, ready: int) -> Trial:
    """Where it is now. `ready`: replicas of it. Other answers are counted with each step."""
    if trial is None or trial.revision != service.revision:
        trial = Trial(service.revision)
    if trial.since and now - trial.since >= service.hold_us and not trial.last(service):
        trial = Trial(trial.revision, trial.step + 1)
    if not trial.since and (trial.last(service) or ready >= trial.replicas(service, target)):
        trial = msgspec.structs.replace(trial, since=now)
    return trial


def problem(service: ServiceSpec, new: Answers, old: Answers, ends: int) -> str:
    """Why it is no good, with the numbers; empty: nothing says so.

    Args:
        ends: of one of its replicas, in a row.
    """
    if ends >= ENDS_MAX:
        return f"its replica ended {ends} times in a row"
    many = new.failed >= FAILED_MIN and new.failed * 100 > service.max_errors * new.answered
    # Old ones that answered nothing are taken for good ones.
    if many and new.failed * max(old.answered, 1) > old.failed * new.answered:
        beside = f", and {old.failed} of {old.answered} of the old revision" if old.answered else ""
        return f"{new.failed} of {new.answered} answers failed{beside}; at most {service.max_errors} % may"
    if min(new.answered, old.answered) < JUDGED_MIN:
        return ""
    mine, theirs = new.waited_us // new.answered, old.waited_us // old.answered
    if mine - theirs >= SLOWER_MIN_US and mine * 100 > theirs * service.max_latency:
        return (
            f"answers began after {mine / 1_000:.0f} ms in the mean, and after {theirs / 1_000:.0f} ms of the"
            f" old revision; at most {service.max_latency} % of that are allowed"
        )
    return ""
