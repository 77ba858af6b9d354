"""When what is held has been unused for long enough: the rule of idle policies, by what was seen.

Owns    which rules a job is under, and what one more look makes of a spell. Input: what was seen of it, and
        how much time passed. Output: the spell from then on, and what is to be told or done.
Why     the daemon and the simulator must judge alike, and a restart must neither forget a spell nor tell of
        it twice: a spell is a value, and what the log keeps of it (`Mark`) makes the same one again.

What is not known is not idle: no time counts while nothing is known, and a spell ends where that lasts longer
than `pace_us` of its rule. Nothing is acted on before it was told, and the wait in between is kept in full.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal

import msgspec

from bursar.clock import HOUR_US, SECOND_US
from bursar.model import IdleSpec
from bursar_policies.specs import IdlePolicySpec, Scope

GPU: Final = "gpu"
CPU: Final = "cpu"
ATTENDANCE: Final = "attendance"
"""What a rule goes by: multiprocessors of its GPUs, its CPUs, or whether anybody uses it."""
NOTIFY: Final = "notify"
OWN: Final = ""
"""As the policy of a rule: what the job's own file says."""

_PACES: Final = 12
_PACE_US_MIN: Final = 60 * SECOND_US
Said = Literal["", "seen", "warn", "act", "over"]
"""Of a look: nothing; the log is to keep how far it is; it is told; acted on; what was kept is over."""


class Rule(msgspec.Struct, frozen=True):
    """One condition that a job is under.

    Attributes:
        policy: the name of the document, or `OWN`. ground: what it goes by.
        below: the share of work, of 1, below which it is idle.
        window_us: so long it is idle before it is acted on. warn_after_us: so long before it is told.
        action: notify | stop | hold | requeue | cancel.
    """

    policy: str
    ground: str
    below: float
    window_us: int
    warn_after_us: int
    action: str

    @property
    def key(self) -> str:
        """What the log calls it."""
        return f"{self.ground}/{self.policy}"

    @property
    def pace_us(self) -> int:
        """So often the log keeps how far a spell is; and a spell ends when nothing is known for longer."""
        return min(max(self.window_us // _PACES, _PACE_US_MIN), HOUR_US)


class Sight(msgspec.Struct, frozen=True):
    """What was seen of an attempt at one look.

    Attributes:
        share: of 1, the most that any of its devices, its CPUs or its users did; None: not known.
        by: `sm`, `utilization`, `cpu` or `attached`: what that was read from.
        memory_bytes: of devices, that its processes hold; None: not known.
    """

    share: float | None
    by: str = ""
    memory_bytes: int | None = None


class Spell(msgspec.Struct, frozen=True):
    """Idleness without a break, as far as it was seen.

    Attributes:
        idle_us: seen idle for so long. unknown_us: nothing has been known since, for so long.
        most: the largest share of work in it. kept_us: `idle_us` as the log has it; 0: it has nothing of it.
        warned_us: `idle_us` when it was told; 0: it was not.
    """

    idle_us: int = 0
    unknown_us: int = 0
    most: float = 0.0
    kept_us: int = 0
    warned_us: int = 0


class Mark(msgspec.Struct, frozen=True):
    """What the log keeps of a spell. `at`: when that was kept. `warned_at`: when it was told."""

    idle_us: int
    at: int
    warned_us: int = 0
    most_ppm: int = 0
    warned_at: int = 0


def look(
    rule: Rule, spell: Spell, sight: Sight, passed_us: int, *, put_off: bool = False
) -> tuple[Spell, Said]:
    """What one more look makes of a spell.

    Args:
        passed_us: since the look before, no more than is known to have been as it is seen now.
        put_off: its owner has put the policy off.
    """
    if put_off or (sight.share is not None and sight.share >= rule.below):
        return Spell(), "over" if spell.kept_us else ""
    if sight.share is None:
        return _unknown(rule, spell, passed_us)
    if spell.unknown_us > rule.pace_us and not _all_told(rule, spell):
        return Spell(), "over"  # the log has one that nothing is known of since
    idle = spell.idle_us + passed_us
    now = Spell(idle, 0, max(spell.most, sight.share), spell.kept_us, spell.warned_us)
    if rule.action != NOTIFY and idle >= _acts_at(rule, spell):
        return now, "act"
    if not spell.warned_us and idle >= rule.warn_after_us and idle:
        return msgspec.structs.replace(now, kept_us=idle, warned_us=idle), "warn"
    if not _all_told(rule, spell) and idle - spell.kept_us >= rule.pace_us:
        return msgspec.structs.replace(now, kept_us=idle), "seen"
    return now, ""


def _acts_at(rule: Rule, spell: Spell) -> int:
    """Idle for so long, it is acted on. One that was told late has all of the wait still."""
    wait_us = rule.window_us - rule.warn_after_us
    if not wait_us:
        return rule.window_us
    # Untold, it is told first: whatever rule it was under before.
    return max(rule.window_us, spell.warned_us + wait_us) if spell.warned_us else 1 << 62


def left_us(rule: Rule, spell: Spell) -> int:
    """Of one that has been told: so much longer, and it is acted on; 0 where it never is."""
    return 0 if rule.action == NOTIFY else max(_acts_at(rule, spell) - spell.idle_us, SECOND_US)


def _all_told(rule: Rule, spell: Spell) -> bool:
    """Nothing more comes of it, as long as it is not seen at work."""
    return rule.action == NOTIFY and spell.warned_us > 0


def _unknown(rule: Rule, spell: Spell, passed_us: int) -> tuple[Spell, Said]:
    if _all_told(rule, spell):
        return spell, ""  # it is not told again for what nobody saw
    unknown = spell.unknown_us + passed_us
    if unknown > rule.pace_us:
        return Spell(), "over" if spell.kept_us else ""
    return msgspec.structs.replace(spell, unknown_us=unknown), ""


def resumed(rule: Rule, mark: Mark, now: int) -> Spell:
    """The spell that the log has: what passed since it was kept last is not known, but for one pace."""
    unknown = max(now - mark.at - rule.pace_us, 0)
    return Spell(mark.idle_us, unknown, mark.most_ppm / 1_000_000, max(mark.idle_us, 1), mark.warned_us)


# ------------------------------------------------------------------ which rules there are


def most_particular_first(
    documents: Iterable[tuple[str, IdlePolicySpec]],
) -> list[tuple[str, IdlePolicySpec]]:
    """The order in which documents are tried: the deepest project, then what names more, then by name."""
    return sorted(documents, key=lambda one: (*_breadth(one[1].scope), one[0]))


def _breadth(scope: Scope) -> tuple[int, int]:
    depth = len(scope.project.split("/")) if scope.project else 0
    named = sum(map(bool, (scope.user, scope.experiment, scope.model))) + len(scope.labels)
    return -depth, -named


def document_of(
    documents: Sequence[tuple[str, IdlePolicySpec]],
    *,
    user: str,
    project: str,
    experiment: str,
    model: str,
    labels: Iterable[tuple[str, str]],
    of_type: str,
) -> tuple[str, IdlePolicySpec] | None:
    """The one that a job is under: the first, as `most_particular_first` has them, whose scope and types are
    the job's.
    """
    known = dict(labels) if documents else {}
    for name, spec in documents:
        if of_type in spec.types and spec.scope.covers(project.lower(), user, experiment, model, known):
            return name, spec
    return None


def rules(
    own: IdleSpec,
    document: tuple[str, IdlePolicySpec] | None,
    *,
    gpus: bool,
    interactive: bool,
) -> tuple[Rule, ...]:
    """What a job is under: its own file's, and those of the document. Each stands for itself: whichever is
    reached first acts.
    """
    found = _of(OWN, own, gpus, interactive)
    return (*found, *_of(*document, gpus, interactive)) if document is not None else found


def _of(policy: str, spec: IdleSpec | IdlePolicySpec, gpus: bool, interactive: bool) -> tuple[Rule, ...]:
    found = []
    percent = spec.below_percent if gpus else spec.cpu_below_percent
    if spec.window_us and percent:
        ground, times = GPU if gpus else CPU, (spec.window_us, spec.warn_after_us)
        found.append(Rule(policy, ground, percent / 100, *times, spec.action))
    if spec.detached_us and interactive:
        times = spec.detached_us, max(spec.detached_us // 2, 1)
        action = spec.action if isinstance(spec, IdlePolicySpec) else "stop"
        found.append(Rule(policy, ATTENDANCE, 1.0, *times, action))
    return tuple(found)
