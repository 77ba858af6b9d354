"""Every event has a meaning: one that the fold does not know would be refused when it is first made."""

from __future__ import annotations

from typing import get_args

from bursard.events import Event
from bursard.state import core


def test_the_fold_knows_every_event_and_no_other() -> None:
    assert set(core._APPLY) == set(get_args(Event))
