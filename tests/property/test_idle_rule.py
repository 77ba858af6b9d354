"""Idle policies over any history of looks, gaps and restarts: nothing early, twice, or of what is unknown."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from bursar.clock import SECOND_US
from bursar_policies.idleness import NOTIFY, Mark, Rule, Sight, Spell, look, resumed

STEP_US = 15 * SECOND_US
MINUTE_US = 60 * SECOND_US

rules = st.builds(
    lambda window, share, action: Rule("p", "gpu", 0.05, window, max(window * share // 8, 1), action),
    st.integers(1, 40).map(lambda minutes: minutes * MINUTE_US),
    st.integers(1, 8),
    st.sampled_from(["stop", "hold", NOTIFY]),
)
# (what is seen, for how many looks, restarted after it, with how many minutes in which nobody looked)
pieces = st.tuples(
    st.sampled_from(["idle", "idle", "idle", "busy", "unknown", "snoozed"]),
    st.integers(1, 80),
    st.booleans(),
    st.integers(0, 6),
)
histories = st.lists(pieces, min_size=1, max_size=14)

SIGHTS = {"idle": 0.01, "busy": 0.4, "unknown": None, "snoozed": 0.01}


@dataclass
class Book:
    """A daemon's memory and log of one attempt, and what an onlooker counts beside it."""

    rule: Rule
    now: int = 0
    spell: Spell = field(default_factory=Spell)
    mark: Mark | None = None
    acted: bool = False
    warnings: int = 0
    idle_since_other: int = 0
    unknown_in_a_row: int = 0
    looks: list[str] = field(default_factory=list)

    def see(self, what: str) -> str:
        self.now += STEP_US
        idle = what == "idle"
        self.idle_since_other = self.idle_since_other + STEP_US if idle else (
            self.idle_since_other if what == "unknown" else 0
        )  # fmt: skip
        self.spell, said = look(
            self.rule, self.spell, Sight(SIGHTS[what], "sm"), STEP_US, put_off=what == "snoozed"
        )
        before = self.mark or Mark(0, 0)
        if said == "warn":
            self.mark = Mark(self.spell.idle_us, self.now, self.spell.idle_us, 0, self.now)
        elif said == "seen":
            self.mark = Mark(self.spell.idle_us, self.now, before.warned_us, 0, before.warned_at)
        elif said == "over":
            self.mark = None
        return said

    def restart(self, minutes: int) -> None:
        self.now += minutes * MINUTE_US
        self.spell = Spell() if self.mark is None else resumed(self.rule, self.mark, self.now)


@given(rules, histories)
def test_nothing_is_done_before_its_time_nor_twice_nor_untold(rule: Rule, history: list[tuple]) -> None:  # type: ignore[type-arg]
    book = Book(rule)
    told, told_at = False, 0
    for what, looks, restarts, gap in history:
        for _ in range(looks):
            said = book.see(what)
            if what in ("busy", "snoozed"):
                told = False
                assert said in ("", "over")
            if what == "unknown":
                assert said in ("", "over")
            if said == "over":
                told = False
            if said == "warn":
                assert not told
                assert book.idle_since_other >= rule.warn_after_us
                told, told_at = True, book.idle_since_other
            if said == "act":
                assert rule.action != NOTIFY
                assert book.idle_since_other >= rule.window_us
                if rule.warn_after_us < rule.window_us:
                    assert told
                    assert book.idle_since_other - told_at >= rule.window_us - rule.warn_after_us
                return
        if restarts:
            book.restart(gap)
            if book.mark is None:
                told = False


@given(rules, st.lists(st.integers(1, 60), min_size=0, max_size=6))
def test_short_restarts_cost_no_more_than_one_pace_each(rule: Rule, stops: list[int]) -> None:
    if rule.action == NOTIFY:
        return
    book = Book(rule)
    lost, restarts = 0, 0
    for looks in stops:
        for _ in range(looks):
            if book.see("idle") == "act":
                return
        lost += book.spell.idle_us - (book.mark.idle_us if book.mark else 0)
        book.restart(0)
        restarts += 1
    most = rule.window_us + lost + 3 * STEP_US
    while book.idle_since_other <= most:
        if book.see("idle") == "act":
            break
    assert book.idle_since_other <= most
    assert lost <= restarts * (rule.pace_us + STEP_US)


@given(rules, st.integers(0, 300))
def test_it_is_acted_on_exactly_when_its_time_is_over(rule: Rule, busy: int) -> None:
    book = Book(rule)
    for _ in range(busy):
        book.see("busy")
    said, looks = "", 0
    while said != "act" and looks < 400:
        said, looks = book.see("idle"), looks + 1
    if rule.action == NOTIFY:
        assert said != "act"
    else:
        assert 0 <= looks * STEP_US - rule.window_us < 2 * STEP_US
