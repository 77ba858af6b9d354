"""Whatever a wrong clock, its being put right, closed months and budgets do in whatever order: every budget
has spent what `cost` says of its scope and period, and no hard limit is passed.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from clock_lives import ACTS, Life, act
from hypothesis import given, note, settings
from hypothesis import strategies as st

from bursar.clock import HOUR_US

STEPS = st.lists(
    st.one_of(*(st.tuples(st.just(what), st.sampled_from(hows or (None,))) for what, hows in ACTS.items())),
    max_size=16,
)


@settings(max_examples=25, deadline=None)
@given(STEPS)
def test_every_budget_has_spent_what_cost_says_whatever_clocks_and_closed_months_do(
    steps: list[tuple[str, object]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        life = Life(Path(folder))
        life.run(time_limit_us=HOUR_US)
        life.check()
        for what, how in steps:
            note(f"{what} {how}")
            act(life, what, how)
        life.check_books()
