"""What the daemon says of itself, field by field."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from whole_site import Site, play

import bursar
from bursar.v1 import events_pb2
from bursard.access.identity import Identity, Role, set_caller
from bursard.access.refusals import Refusals
from bursard.cycle import TOOK_US, Cycle
from bursard.services.events import EventsService, _store
from bursard.state.decide import nodes


def test_the_server_says_what_it_holds_and_what_its_work_has_cost() -> None:
    """Each number differs from every other, so that none can stand in another's place."""
    answers: list[events_pb2.ServerResponse] = []

    async def story(site: Site) -> None:
        site.node("n2")
        for _ in range(3):
            site.job("ann", "p")
        for job in (site.job("ann", "p"), site.job("ann", "p")):
            site.place(job)
        site.node("n3")
        gone = site.engine.state.node_by_name("n3")
        assert gone is not None
        site.engine.commit(nodes.silent(site.engine.state, gone), "bursard")
        await site.engine.durable()
        refusals = Refusals(site.clock)
        refusals.counts["PERMISSION_DENIED"] = 31
        cycle = Cycle(site.engine)
        cycle.stats = type(cycle.stats)(
            turns=1,
            cycles=11,
            placed=12,
            ahead=2,
            dropped=13,
            last_us=14,
            longest_us=15,
            total_us=51,
            took=[1] * (len(TOOK_US) + 1),
        )
        stats = type(site.engine.writer.stats)(21, 22, 23, 24, 25, 26)
        writer: Any = SimpleNamespace(stats=stats, durable_seq=9)  # behind the state: a commit is under way
        kept, site.engine.writer = site.engine.writer, writer
        service = EventsService(
            site.engine, cycle, refusals, site.vault, started_at=77, state_dir=Path("/state/daemon")
        )
        set_caller(Identity("ann", Role.OPERATOR))
        answers.append(await service.Server(events_pb2.ServerRequest(), None))
        site.engine.writer = kept
        assert site.engine.state.version > 9
        answers.append(events_pb2.ServerResponse(epoch=site.engine.log.epoch))

    play(story)
    said, known = answers
    assert dict(said.counters) == {
        "cycles": 11, "placed": 12, "dropped": 13, "cycle_last_us": 14, "cycle_longest_us": 15, "commits": 21,
        "rows": 23, "commit_last_us": 24, "commit_longest_us": 25, "refused_permission_denied": 31,
        "cycle_total_us": 51, "ledger_entries": 0,
        **{f"cycle_le_{us}_us": passes for passes, us in enumerate(TOOK_US, 1)},
    }  # fmt: skip
    assert (said.pending, said.running, said.nodes_up, said.nodes_silent) == (3, 2, 2, 1)
    assert (said.version, said.cluster_id, said.started_at) == (bursar.__version__, "c1", 77)
    assert (said.ready, said.user, said.role) == (True, "ann", "operator")
    assert (said.pid, said.state_dir) == (os.getpid(), "/state/daemon")
    assert (said.last_seq, said.epoch) == (9, known.epoch)


def test_the_server_says_what_its_directory_takes_and_nothing_of_one_that_it_cannot_look_at(
    tmp_path: Path,
) -> None:
    (tmp_path / "log.db").write_bytes(b"x" * 700)
    (tmp_path / "lock").write_bytes(b"x" * 11)
    (tmp_path / "below").mkdir()
    told = _store(tmp_path)
    assert told["store_bytes"] == 711
    assert told["store_free_bytes"] > 0
    assert _store(tmp_path / "none") == {}
