"""The gateway's line to its daemon: what it serves by while nobody answers, and what it tells afterwards."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bursar.errors import StoreUnavailable
from bursar.v1 import services_pb2 as pb
from bursar_gateway.core import Core, Key
from bursar_gateway.link import Link, Spool, name_of
from bursar_gateway.meters import MINUTE_US, Kept, Meter, Use

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


DAMAGES: dict[str, Callable[[Path], object]] = {
    "noise": lambda path: path.write_bytes(bytes(range(256))),
    "cut short": lambda path: os.truncate(path, path.stat().st_size // 2),
    "other JSON": lambda path: path.write_text("[]"),
    "numbers that no daemon takes": lambda path: path.write_text(f'{{"seq": {1 << 70}}}'),
    "numbers below none": lambda path: path.write_text('{"seq": -1}'),
    "deeply nested": lambda path: path.write_text("[" * 100_000),
    "a directory": lambda path: (path.unlink(), path.mkdir(), (path / "x").touch()),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "zeros for ever": lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_files_that_were_damaged_lie_aside_and_what_is_used_from_then_on_is_told(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    """The numbers begin anew, and with them its name: the daemon has had these numbers from the old one."""
    names = iter(("g1", "g2"))
    spool = Spool(tmp_path)
    spool.read()
    assert name_of(tmp_path, spool.found, names.__next__) == "g1"
    spool.write(Kept(seq=7))
    again = Spool(tmp_path)
    assert (again.read().seq, again.found) == (7, True)
    assert name_of(tmp_path, again.found, names.__next__) == "g1"
    damage(tmp_path / "usage.json")
    line = Line(Daemon(), tmp_path)
    assert (line.meter.seq, line.meter.lost, line.spool.found) == (0, 1, False)
    assert name_of(tmp_path, line.spool.found, names.__next__) == "g2"
    line.sync(1)
    assert Spool(tmp_path).read() == line.meter.kept()
    assert [path.name.partition(".damaged-")[0] for path in tmp_path.glob("*.damaged-*")] == ["usage.json"]


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_name_that_was_damaged_is_another_one(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    names = iter(("g1", "g2"))
    assert name_of(tmp_path, True, names.__next__) == "g1"
    damage(tmp_path / "gateway.json")
    assert name_of(tmp_path, True, names.__next__) == "g2"
    assert name_of(tmp_path, True, names.__next__) == "g2"


def test_on_a_full_disk_it_serves_on_and_tells_nothing_that_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    daemon = Daemon()
    line = Line(daemon, tmp_path)
    line.sync()

    def full(kept: Kept) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(line.spool, "write", full)
        for _ in range(3):
            line.request()
            line.sync(60)
            assert isinstance(line.core.key_of(ASK, line.now), Key)
    assert daemon.requests == 0
    assert caplog.text.count("cannot be written, and waits: [Errno 28]") == 1
    line.sync(60)
    line.sync(60)
    assert daemon.requests == 3
