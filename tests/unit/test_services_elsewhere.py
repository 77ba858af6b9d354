"""Gateways on other machines: their nodes hear of them, and they of replicas once they are let in."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from service_site import Site

from bursar.errors import InvalidRequest
from bursar.model.service import NOWHERE, Way
from bursar.pinned import digest_of, make_pair
from bursar.v1 import services_pb2 as pb
from bursard.fleet import door
from bursard.fleet.words import Readiness
from bursard.services.serviceviews import route_view
from bursard.services.serving import _sane
from bursard.serving.board import Gateway

CYCLE: Any = SimpleNamespace(last=None, rents=None)


class Two:
    """A service on one machine, and gateways wherever they are said to be."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.site = folder, Site()
        replicas = self.site.world.fleet.replicas
        replicas.gateways, self.site.keeper.on_gateways = self.site.keeper.board.elsewhere, replicas.probe_all
        self.site.turn(ready=True)
        [self.attempt] = self.site.live()

    def gateway(self, name: str, boot_id: str) -> Gateway:
        certificate = make_pair(self.folder / f"{name}.pem").certificate
        made = Gateway(name, boot_id, "", self.site.world.engine.now(), certificate=certificate)
        self.asks(made)
        return made

    def asks(self, gateway: Gateway) -> None:
        self.site.keeper.heard(gateway, [])

    @property
    def told(self) -> tuple[str, ...]:
        """Whom the machine of the replica was told to let in last."""
        return self.site.world.backend.probed[self.attempt.id].gateways

    def answers(self, *admitted: Gateway) -> Way:
        digests = tuple(digest_of(one.certificate) for one in admitted)
        way = Way(4321, make_pair(self.folder / "node.pem").certificate, digests)
        self.site.world.backend.ready(self.attempt.id, way=way)
        return way

    def route(self, gateway: Gateway) -> pb.Route:
        return route_view(self.site.world.engine, CYCLE, self.site.keeper, self.site.job, gateway)


def test_a_machine_hears_of_gateways_on_others_alone_and_again_when_they_are_others(tmp_path: Path) -> None:
    two = Two(tmp_path)
    two.gateway("here", "boot-1")
    assert two.told == (), "it needs no door for itself"
    first = two.gateway("first", "boot-2")
    assert two.told == (first.certificate,)
    second = two.gateway("second", "boot-3")
    assert two.told == tuple(sorted((first.certificate, second.certificate)))
    two.site.world.backend.probed.clear()
    two.asks(first)
    assert two.site.world.backend.probed == {}, "nothing is new"


def test_a_gateway_elsewhere_is_told_of_a_replica_once_its_machine_lets_it_in(tmp_path: Path) -> None:
    two = Two(tmp_path)
    here, away, other = (two.gateway(f"g{number}", f"boot-{number}") for number in (1, 2, 3))
    assert [len(two.route(one).replicas) for one in (here, away, other)] == [1, 0, 0]
    assert "does not reach" in two.route(away).waits.message
    way = two.answers(away)
    [found] = two.route(away).replicas
    assert (found.forward_port, found.certificate, found.address) == (4321, way.certificate, "127.0.0.1")
    assert not two.route(here).replicas[0].forward_port, "its own machine's is on the loopback"
    assert len(two.route(other).replicas) == 0
    two.answers()
    assert len(two.route(away).replicas) == 0


def test_what_an_agent_or_a_gateway_shows_is_one_certificate_and_digests_of_them(tmp_path: Path) -> None:
    good = make_pair(tmp_path / "a.pem").certificate
    door.readiness(Readiness("att_1", 0, True, "", Way(1, good, ("a" * 64,))))
    door.readiness(Readiness("att_1", 0, True, "", NOWHERE))
    for way in (
        Way(65_536, good), Way(1), Way(0, good), Way(1, "x"), Way(1, good * 2),
        Way(1, good, ("a" * 65,)), Way(1, good, ("A" * 64,)), Way(1, good, ("a" * 64,) * 65),
    ):  # fmt: skip
        with pytest.raises(InvalidRequest, match="readiness"):
            door.readiness(Readiness("att_1", 0, True, "", way))
    _sane(pb.SyncRequest(certificate=good))
    for text in ("x", good + "="):
        with pytest.raises(InvalidRequest, match="certificate"):
            _sane(pb.SyncRequest(certificate=text))
