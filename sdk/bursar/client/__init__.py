"""The clients: how a program talks to a running daemon. `Client` waits, `AsyncClient` awaits.

Owns    addresses, identity, deadlines and the way from a gRPC status back to `bursar.errors`.
Why     the CLI, notebooks and services share one set of rules, so that each behaves the same when
        a token runs out, a path is too long or a server is gone.

    with bursar.Client() as client:
        job = client.submit(spec).job
        for change in client.watch([job.id], until_terminal=True):
            print(change.state)

Methods answer with the typed messages of `bursar.v1` (money in integer nanos, instants in
microseconds); `bursar.codec.view` turns those into the JSON objects of the contract.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bursar.client.aio import AsyncClient
    from bursar.client.sync import Client

__all__ = ["AsyncClient", "Client"]


def __getattr__(name: str) -> Any:
    """Load gRPC with the first client: addresses are looked up without it."""
    if name == "Client":
        from bursar.client.sync import Client

        return Client
    if name == "AsyncClient":
        from bursar.client.aio import AsyncClient

        return AsyncClient
    raise AttributeError(f"module 'bursar.client' has no attribute {name!r}")
