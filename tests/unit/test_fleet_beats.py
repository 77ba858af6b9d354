"""An end that a full disk held back is told late and is no lie; one that nothing held back was no end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.clock import SECOND_US
from bursard.fleet.beats import Beats
from bursard.fleet.believe import TOLD_US


@pytest.mark.parametrize("after_us", [0, 5 * SECOND_US, TOLD_US - 1])
def test_silence_while_a_disk_took_nothing_says_nothing_also_a_while_after(after_us: int) -> None:
    beats = Beats()
    beats.heard("n", 10 * SECOND_US, "")
    assert beats.sure("n") == 10 * SECOND_US
    beats.troubled("n", 20 * SECOND_US)
    assert beats.sure("n") == 0
    beats.heard("n", 3_000 * SECOND_US, "No space left")
    beats.heard("n", 3_000 * SECOND_US + after_us, "")
    assert beats.sure("n") == 0, "what it held back may still come"
    beats.heard("n", 3_000 * SECOND_US + TOLD_US, "")
    assert beats.sure("n") == 3_000 * SECOND_US + TOLD_US


def test_another_stream_begins_anew() -> None:
    beats = Beats()
    beats.heard("n", 5, "No space left")
    beats.heard("m", 5, "")
    beats.opened("n")
    beats.opened("m")
    assert (beats.sure("n"), beats.sure("m")) == (0, 0)
    beats.heard("n", 7, "")
    assert beats.sure("n") == 7


@given(st.lists(st.tuples(st.integers(1, 200), st.booleans()), max_size=30))
def test_it_is_sure_of_no_time_in_which_an_end_could_have_been_held_back(
    told: list[tuple[int, bool]],
) -> None:
    beats, now, troubled_at = Beats(), 1_000, -TOLD_US
    for seconds, troubled in told:
        now += seconds * SECOND_US
        troubled_at = now if troubled else troubled_at
        beats.heard("n", now, "full" if troubled else "")
        assert beats.sure("n") == (0 if now - troubled_at < TOLD_US else now)
