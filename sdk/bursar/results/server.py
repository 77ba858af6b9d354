"""Events, the server itself, findings, rights and secrets, as the clients answer with them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from bursar.results.base import Result


class Event(Result, frozen=True, kw_only=True):
    """One event of the log; `data` is its payload."""

    seq: int
    at: datetime | None
    actor: str
    kind: str
    subject: str
    data: Any


class Server(Result, frozen=True, kw_only=True):
    """Who serves, since when, how it is doing, and who it takes the caller for.

    `trouble`: what is wrong with its clock or its books, and what to do; empty: nothing.
    """

    version: str
    cluster_id: str
    epoch: int
    started_at: datetime | None
    ready: bool
    pid: int
    state_dir: str
    pending: int
    running: int
    nodes_up: int
    nodes_silent: int
    last_seq: int
    user: str
    role: str
    trouble: str
    counters: Mapping[str, int]


class Finding(Result, frozen=True, kw_only=True):
    """One check of `doctor`."""

    check: str
    ok: bool
    message: str
    remedy: str


class Grant(Result, frozen=True, kw_only=True):
    """A role of a user over a project and all below it; `project` empty: the whole site."""

    user: str
    role: str
    project: str
    change: str


class Secret(Result, frozen=True, kw_only=True):
    """A secret, without its value."""

    name: str
    project: str
    set_at: datetime | None
    change: str
