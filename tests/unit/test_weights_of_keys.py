"""Keys share a minute of a service by one measure, whether their answers say what they took or not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bursard.events import KeyUse
from bursard.reports.serving import Minute, of_minute, weights_of

AMOUNTS = (10**9,) * 8


def test_requests_that_say_nothing_weigh_what_the_others_did_in_the_mean() -> None:
    told = KeyUse("a", requests=2, tokens_out=1_000, counted=2)
    silent = KeyUse("b", requests=3, estimated=3)
    assert weights_of([told, silent]) == [40_000, 60_000]
    failed = KeyUse("c", requests=1, failed=1)
    assert weights_of([told, failed]) == [40_000, 1]


def test_where_nothing_counts_each_request_weighs_the_same() -> None:
    assert weights_of([KeyUse("a", requests=2), KeyUse("b", requests=3)]) == [2, 3]
    assert weights_of([KeyUse("a", requests=2, estimated=2), KeyUse("b", requests=3, estimated=3)]) == [2, 3]


@given(
    st.lists(
        st.tuples(st.integers(0, 50), st.integers(0, 10**6), st.integers(0, 50), st.integers(0, 50)),
        max_size=6,
    )
)
def test_whatever_they_weigh_the_parts_are_the_whole(told: list[tuple[int, int, int, int]]) -> None:
    uses = {
        f"k{number}": KeyUse(
            f"k{number}", requests=asked, tokens_out=tokens, counted=counted, estimated=unknown
        )
        for number, (asked, tokens, counted, unknown) in enumerate(told)
    }
    parts = list(of_minute(AMOUNTS, Minute(30, 60, uses)))
    assert [sum(part[at] for _, part in parts) for at in range(len(AMOUNTS))] == list(AMOUNTS)
    assert all(amount >= 0 for _, part in parts for amount in part)
