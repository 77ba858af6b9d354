"""One budget for people."""

from __future__ import annotations

from bursar.cli.texts import budget_text
from bursar.codec import view
from bursar.v1 import money_pb2 as pb


def test_a_budget_that_never_renews_says_so_instead_of_a_period() -> None:
    once = pb.Budget(name="nlp", period="one-time", limit_nanos=5 * 10**9, currency="USD")
    pairs = [line.split(None, 1) for line in budget_text(view.budget(once)).splitlines()]
    assert ["limit", "5.00 USD in all"] in pairs
    assert ["period", "one-time, it never renews"] in pairs
