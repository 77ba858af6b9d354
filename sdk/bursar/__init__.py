"""Bursar: a FinOps-aware compute scheduler for machine learning. The light part everybody may import.

`bursar.Client()` talks to a running daemon; nothing here imports the daemon, a cloud SDK or torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bursar.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load the clients on first use: `import bursar` alone must not pay for gRPC."""
    if name in ("Client", "AsyncClient"):
        from bursar import client

        return getattr(client, name)
    raise AttributeError(f"module 'bursar' has no attribute {name!r}")
