"""How often a node may say hello, at the exact bound, and how little is remembered of it."""

from __future__ import annotations

import pytest

from bursar.clock import SECOND_US
from bursar.errors import RateLimited
from bursard.fleet.hellos import BURST, EVERY_US, NAMES_MAX, Hellos


def spent(hellos: Hellos, name: str = "n-1", at_us: int = 0) -> None:
    for _ in range(BURST):
        assert hellos.take(name, at_us) == 0


def test_as_many_as_the_burst_are_taken_and_then_one_in_so_long() -> None:
    hellos = Hellos()
    spent(hellos)
    with pytest.raises(RateLimited, match=r"node n-1 said hello more than 20 times .* in 10 s") as caught:
        hellos.take("n-1", 0)
    assert caught.value.facts == {"retry_after_s": "10"}
    with pytest.raises(RateLimited, match="in 1 s"):
        hellos.take("n-1", EVERY_US - 1)
    assert hellos.take("n-1", EVERY_US) == 2
    with pytest.raises(RateLimited):
        hellos.take("n-1", 2 * EVERY_US - 1)
    assert hellos.take("n-1", 2 * EVERY_US) == 1
    assert hellos.take("n-1", 3 * EVERY_US) == 0


def test_another_node_has_its_own_and_a_quiet_one_gets_no_more_than_the_burst() -> None:
    hellos = Hellos()
    spent(hellos)
    assert hellos.take("n-2", 0) == 0
    spent(hellos, at_us=10**6 * SECOND_US)
    with pytest.raises(RateLimited):
        hellos.take("n-1", 10**6 * SECOND_US)


def test_names_that_may_say_hello_at_will_are_forgotten_and_no_other() -> None:
    hellos = Hellos()
    spent(hellos, "busy", EVERY_US)
    for number in range(NAMES_MAX - 1):
        hellos.take(f"n-{number}", 0)
    hellos.take("one-more", EVERY_US)
    assert len(hellos._known) == 2
    with pytest.raises(RateLimited):
        hellos.take("busy", EVERY_US)
