"""The small judgements of the checkers, each with what would pass if it were not made."""

from __future__ import annotations

from bursar.clock import HOUR_US
from bursard.events import MemberStarted, NodeMetered, Used
from bursard.reports.cost import CostRow, CostTable
from bursard.reports.period import Period
from bursard.reports.statement import Statement
from bursard.reports.statement_forms import text_pieces
from bursard.store import PostingRow
from bursard.store.chain import GENESIS
from bursard.store.hours import OpenHours
from bursard.store.verify import Head, check


def entries(*seqs: int, last: int = 5) -> list[str]:
    rows = [PostingRow(seq, "hold", "x", (("a", 5), ("b", -5))) for seq in seqs]
    found = check(Head(last, GENESIS, 0, 0), (), None, rows)
    return [line for line in found if line.startswith("entries")]


def test_entries_in_log_order_of_events_that_are_there_are_sound() -> None:
    assert entries(1, 3, 5) == []


def test_entries_that_stand_after_those_of_a_later_event_are_named() -> None:
    assert entries(2, 4, 3, 5) == ["entries of event 3 stand after those of event 4"]


def test_entries_of_an_event_that_is_not_there_are_named() -> None:
    assert entries(-1) == [
        "entries of event -1 stand after those of event 0",
        "entries of event -1, which is not there",
    ]
    assert entries(0) == ["entries of event 0, which is not there"]
    assert entries(5, 6) == ["entries of event 6, which is not there"]


def test_an_hour_of_a_member_that_is_over_must_be_a_row_while_the_member_goes_on() -> None:
    hours = OpenHours()
    assert list(hours.check(1, MemberStarted("att_1", 0, 0, 0, 7), ())) == []
    whole, half = Used("att_1", 0, HOUR_US, 5, 2, 1), Used("att_1", 0, HOUR_US + HOUR_US // 2, 3, 1, 0)
    assert list(hours.check(2, NodeMetered("node_1", HOUR_US, used=(whole,)), ())) == []
    assert list(hours.check(3, NodeMetered("node_1", 2 * HOUR_US, used=(half,)), ())) == [
        "charges of event 3: 8 nanos of usage of att_1 are not kept"
    ]
    ((key, still_open),) = hours.kept().sums
    assert (key[4], still_open.nanos) == (HOUR_US, 4)


def test_a_statement_says_how_much_of_its_nodes_cost_nobody_owes() -> None:
    owed = CostTable((), (), CostRow((), nanos=7))
    found = Statement(Period("2026-11", 0, 1), "USD", "", owed, owed, node_nanos=9)
    assert found.difference_nanos == 2
    (page,) = text_pieces(found)
    assert page.decode().splitlines()[-2].split()[:2] == ["difference", "0.000000002"]
