"""Events, the server itself, findings, rights and secrets, as they are shown."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from bursar.codec.view.scalars import View, instant
from bursar.v1 import access_pb2, events_pb2


def event(wire: events_pb2.Event) -> View:
    """One event; `data` is its payload, as it was recorded."""
    return {
        "seq": wire.seq,
        "at": instant(wire.at),
        "actor": wire.actor,
        "kind": wire.kind,
        "subject": wire.subject,
        "names": dict(sorted(wire.names.items())),
        "currency": wire.currency or None,
        "data": _payload(wire.json),
    }


def _payload(text: str) -> Any:
    if not text:
        return {}
    try:
        return json.loads(text)
    except ValueError:  # a server newer than this client: show it as it came
        return text


def server(wire: events_pb2.ServerResponse) -> View:
    """Who serves, since when, how it is doing, and who it takes the caller for."""
    return {
        "version": wire.version,
        "cluster_id": wire.cluster_id,
        "epoch": wire.epoch,
        "started_at": instant(wire.started_at),
        "ready": wire.ready,
        "pid": wire.pid,
        "state_dir": wire.state_dir,
        "pending": wire.pending,
        "running": wire.running,
        "nodes_up": wire.nodes_up,
        "nodes_silent": wire.nodes_silent,
        "last_seq": wire.last_seq,
        "user": wire.user,
        "role": wire.role,
        "trouble": wire.trouble or None,
        "counters": dict(sorted(wire.counters.items())),
    }


def findings(wires: Iterable[events_pb2.Finding]) -> list[View]:
    """What `doctor` found."""
    return [
        {"check": each.check, "ok": each.ok, "message": each.message, "remedy": each.remedy or None}
        for each in wires
    ]


def grant(wire: access_pb2.RoleGrant) -> View:
    """One grant; `project` null is the whole site, `change` null in lists."""
    return {
        "user": wire.user,
        "role": wire.role,
        "project": wire.project or None,
        "change": wire.change or None,
    }


def secret(wire: access_pb2.Secret) -> View:
    """A secret without its value."""
    return {
        "name": wire.name,
        "project": wire.project or None,
        "set_at": instant(wire.set_at),
        "change": wire.change or None,
    }
