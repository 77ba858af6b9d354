"""Histories of budgets that pay by leases: daemons die between any two commits, nodes are lost and found,
documents change. Nothing is ever spent that was not held, no limit is passed, every hold resolves once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from budget_histories import HOLDS, NODES, SCOPES, History
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bursar.clock import HOUR_US
from bursard.state.decide import leases as decide_leases

MINUTES = st.sampled_from([1, 3, 4, 5, 9, 10, 11, 19, 25])
STEPS = st.one_of(
    st.tuples(
        st.just("submit"),
        st.sampled_from(["p", "p/a"]),
        st.sampled_from([5, 30, 600]),
        st.sampled_from([1, 1, 2]),
    ),
    st.tuples(st.just("passes"), MINUTES),
    st.tuples(st.just("passes"), MINUTES),
    st.tuples(st.just("dies"), MINUTES, st.booleans()),
    st.tuples(st.just("lose"), st.sampled_from(NODES)),
    st.tuples(st.just("find"), st.sampled_from(NODES)),
    st.tuples(st.just("finish"), st.integers(0, 9)),
    st.tuples(st.just("cancel"), st.integers(0, 9)),
    st.tuples(
        st.just("document"),
        st.sampled_from(list(SCOPES)),
        st.sampled_from([40, 90, 200, 500]),
        st.sampled_from(HOLDS),
    ),
)


def tell(steps: Sequence[tuple[Any, ...]]) -> History:
    history = History()
    for name, *arguments in steps:
        getattr(history, name)(*arguments)
        history.check()
    history.ends()
    return history


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(STEPS, max_size=20))
def test_no_history_of_leases_passes_a_limit_or_loses_a_hold(steps: list[tuple[Any, ...]]) -> None:
    tell([("submit", "p/a", 600, 1), ("passes", 1), *steps])


def test_a_lease_that_asks_no_budget_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decide_leases, "payers", lambda *_: [])
    with pytest.raises(AssertionError, match="B1"):
        tell([("submit", "p", 600, 1), ("submit", "p/a", 600, 1), ("passes", 25), ("passes", 200)])


def test_a_daemon_that_comes_back_renews_what_it_did_not_know_that_it_had_promised() -> None:
    history = tell([("submit", "p", 600, 1), ("passes", 9), ("dies", 3, True), ("passes", 60)])
    assert max(history.nodes.limits.values()) > HOUR_US
