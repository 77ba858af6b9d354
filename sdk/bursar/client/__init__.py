"""The clients: how a program talks to a running daemon. `Client` waits, `AsyncClient` awaits.

Owns    addresses, identity, deadlines, the check of arguments, and the way from a gRPC status back to
        `bursar.errors`.
Why     the CLI, notebooks and services share one set of rules, so that each behaves the same when
        a token runs out, a path is too long or a server is gone.

    with bursar.Client() as client:
        job = client.submit(command=["python", "train.py"], gpus=1, time_limit="2h")
        print(client.wait(job).cost)

Two levels: `Client` and `AsyncClient` take and give what Python programs use (docs/sdk.md). Below them,
`WireClient` and `AsyncWireClient` answer with the messages of `bursar.v1`, for programs that show those as
they are. Of each pair one is written and the other generated (`make clients`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bursar.client.aio import AsyncWireClient
    from bursar.client.async_client import AsyncClient
    from bursar.client.sync import WireClient
    from bursar.client.sync_client import Client

__all__ = ["AsyncClient", "AsyncWireClient", "Client", "WireClient"]
_ROOMS = {
    "AsyncClient": "async_client",
    "AsyncWireClient": "aio",
    "Client": "sync_client",
    "WireClient": "sync",
}


def __getattr__(name: str) -> Any:
    """Load gRPC with the first client: addresses are looked up without it."""
    if name not in _ROOMS:
        raise AttributeError(f"module 'bursar.client' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"bursar.client.{_ROOMS[name]}"), name)
