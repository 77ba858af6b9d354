"""The gateway's line to its daemon: what it serves by while nobody answers, and what it tells afterwards."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

from bursar.errors import StoreUnavailable
from bursar.v1 import services_pb2 as pb
from bursar_gateway.core import Core, Key
from bursar_gateway.link import Link, Spool
from bursar_gateway.meters import MINUTE_US, Meter, Use

ASK = {"x-api-key": "bsk_a"}
T0 = 100 * MINUTE_US


class Daemon:
    """Answers, or does not; remembers what it was told, once."""

    def __init__(self) -> None:
        self.away = False
        self.asked: list[pb.SyncRequest] = []
        self.seq = 0
        self.requests = 0
        self.tag = "one"
        self.keys = [pb.GatewayKey(id="key_1", sha256=hashlib.sha256(b"bsk_a").hexdigest(), job_id="job_1")]

    async def sync_gateway(self, request: pb.SyncRequest) -> pb.SyncResponse:
        if self.away:
            raise StoreUnavailable("it is away")
        self.asked.append(request)
        for minute in request.minutes:
            if minute.seq > self.seq:
                self.seq = minute.seq
                self.requests += sum(use.requests for use in minute.uses)
        route = pb.Route(job_id="job_1", name="chat", target=2, queue_us=1, total_us=1)
        route.replicas.add(attempt_id="att_1", port=1)
        keys = self.keys if request.keys_tag != self.tag else []
        return pb.SyncResponse(routes=[route], keys=keys, keys_tag=self.tag, acknowledged_seq=self.seq)


class Line:
    """One process of a gateway."""

    def __init__(self, daemon: Daemon, folder: Path, now: int = T0) -> None:
        self.now, self.core, self.spool = now, Core(), Spool(folder)
        self.meter = Meter(self.spool.read(), now)
        client: Any = daemon
        self.link = Link(client, "g", "boot", "", self.core, self.meter, self.spool, lambda: self.now)

    def sync(self, seconds: int = 0) -> None:
        self.now += seconds * 1_000_000
        asyncio.run(self.link.sync())

    def request(self) -> None:
        self.meter.begin("job_1", "key_1", self.now)
        self.meter.end("job_1", "key_1", Use(requests=1), self.now)


def test_it_serves_on_while_the_daemon_is_away_and_tells_afterwards_what_was_used(tmp_path: Path) -> None:
    """G12, without slices, which are not built."""
    daemon = Daemon()
    line = Line(daemon, tmp_path)
    line.sync()
    daemon.away = True
    for _ in range(10):
        line.sync(60)
        line.request()
        assert isinstance(line.core.key_of(ASK, line.now), Key)
        assert line.core.pick(line.core.routes["chat"], line.now) == "att_1"
    daemon.away = False
    line.sync(60)
    line.sync(60)
    assert daemon.requests == 10


def test_a_gateway_killed_a_hundred_times_tells_each_request_that_it_kept_once(
    tmp_path: Path,
) -> None:
    """G6: what came since its last second is lost, and no number falls."""
    daemon, now, kept, told = Daemon(), T0, 0, 0
    for turn in range(100):
        line = Line(daemon, tmp_path, now)
        daemon.away = turn % 3 == 1
        line.request()
        line.sync(7)
        kept += 1
        line.request()  # it is killed before it has written this one down
        now = line.now
        assert daemon.requests >= told
        told = daemon.requests
    daemon.away = False
    last = Line(daemon, tmp_path, now)
    last.sync(60)
    last.sync(60)
    assert daemon.requests == kept


def test_keys_are_sent_again_only_when_they_are_others_and_stay_meanwhile(tmp_path: Path) -> None:
    daemon = Daemon()
    line = Line(daemon, tmp_path)
    for _ in range(2):
        line.sync(1)
        assert isinstance(line.core.key_of(ASK, line.now), Key)
    assert [one.keys_tag for one in daemon.asked] == ["", "one"]
    daemon.tag, daemon.keys = "two", []
    line.sync(1)
    assert not isinstance(line.core.key_of(ASK, line.now), Key), "it was revoked"
