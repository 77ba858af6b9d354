"""How the scheduler does, as the page of the queue says it."""

from __future__ import annotations

from typing import Any

from bursar_web.pages.scheduler import health, took


def server(**counters: int) -> dict[str, Any]:
    names = (
        "cycles", "placed", "dropped", "cycle_last_us", "cycle_longest_us", "cycle_total_us", "commits",
        "commit_last_us", "commit_longest_us", "ledger_entries",
    )  # fmt: skip
    return {"started_at": "2026-11-01T00:00:00Z", "counters": dict.fromkeys(names, 0) | counters}


def test_passes_are_drawn_by_how_long_they_took_each_once() -> None:
    told = server(
        cycles=10, cycle_le_1000_us=4, cycle_le_2500_us=7, cycle_le_1000000_us=9, cycle_total_us=50_000,
        cycle_last_us=1_500, cycle_longest_us=3_000_000,
    )  # fmt: skip
    made = took(told)
    assert [one.title for one in made.shapes] == ["to 1 ms: 4", "to 2.5 ms: 3", "to 1 s: 2", "over 1 s: 1"]
    assert made.sentence == (
        "10 passes since 2026-11-01 00:00:00Z, 5.0 ms on average, 1.5 ms the last, 3s the longest."
    )


def test_a_scheduler_that_has_done_nothing_has_no_mean() -> None:
    made = took(server())
    assert (made.sentence, made.shapes) == ("0 passes since 2026-11-01 00:00:00Z.", ())
    rows = {row["figure"]: row["value"] for row in health(server(refused_forbidden=2, refused_unknown=3))}
    assert (rows["mean pass"], rows["calls refused"]) == ("-", "5")
