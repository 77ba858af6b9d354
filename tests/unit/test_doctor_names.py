"""What `doctor` looks at, by name and in what order, and what it says where nothing is wrong."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from bursard import doctor
from bursard.access.vault import Vault
from bursard.fleet.testing import FACTS, World
from bursard.store import ScratchStore, SqliteStore

WELL = """\
nodes: all 1 are in contact
limits: nothing is broken, but jobs can exceed what they asked for on n-1 (memory, cpu, pids)
prices: none of 1 node is without a price now
resources (R1): nothing is held twice
attempts (J4): 1 live, one per job
overdue: what was to start has started, and what was to end has ended
jobs: 1 records tie to the queue
ledger (L1, B3): every balance ties to the nano
budgets (B1, B7): settled + held is within 0 hard budgets
policies: this version can read all 0 documents
clock: the clock and the log agree on the time
secrets: all 0 sealed secrets can be opened
scheduling: the newest plan covers every job that waits
log: hash chain and double entry hold up to event 0, and every row follows from it
log (newest part; --full for all): hash chain and double entry hold up to event 0
"""


def test_each_check_has_its_name_and_its_words_for_nothing_wrong() -> None:
    world, store = World(), ScratchStore()
    world.backend.connect(FACTS)
    world.submit()
    world.cycle()
    found = [
        *doctor.check_state(world.state, now=world.engine.now()),
        doctor.check_clock(world.clock),
        doctor.check_secrets(world.state, Vault(bytes(32))),
        doctor.check_planning("", []),
        doctor.check_store(store, True)[0],
        doctor.check_store(store, False)[0],
    ]
    assert [f"{each.check}: {each.message}" for each in found] == WELL.splitlines()
    assert all(each.ok and not each.remedy for each in found)


def test_what_a_plan_leaves_out_is_told_with_what_to_do() -> None:
    failed, left_out = doctor.check_planning("a fault", ["job_1"]), doctor.check_planning("", ["job_1"])
    assert (failed.check, failed.ok, failed.message) == ("scheduling", False, "nothing is planned: a fault")
    assert failed.for_one(sees_all=False).message == "nothing is planned"
    assert (left_out.check, left_out.ok) == ("scheduling", False)
    assert left_out.message == "the place of job_1 cannot be computed"
    assert "bursar explain JOB" in left_out.remedy
    assert "job_1" not in left_out.for_one(sees_all=False).message


def test_a_disk_that_is_gone_is_not_told_to_be_made_room_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.closing(SqliteStore(tmp_path / "daemon")) as store:
        monkeypatch.setattr(SqliteStore, "free_bytes", lambda self: 500_000_000)
        assert doctor.check_store(store, False)[-1].remedy.startswith("free some space")
        monkeypatch.undo()
        (tmp_path / "daemon").rename(tmp_path / "moved")
        gone = doctor.check_store(store, False)[-1]
    assert (gone.check, gone.ok) == ("disk", False)
    assert gone.message.endswith("daemon, where the books lie, is gone: put it back in its place")
    assert gone.remedy == "put the directory back; until then new work is refused"
