"""Bursar: a FinOps-aware compute scheduler for machine learning. The light part everybody may import.

`bursar.Client()` talks to a running daemon; nothing here imports the daemon, a cloud SDK or torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bursar.client import AsyncClient, Client
    from bursar.client.arguments import WrongArgument
    from bursar.client.asked import BursarWarning
    from bursar.errors import BursarError
    from bursar.model import JobSpec, JobState
    from bursar.money import Money
    from bursar.results import Job, Node, Plan

__all__ = [
    "AsyncClient",
    "BursarError",
    "BursarWarning",
    "Client",
    "Job",
    "JobSpec",
    "JobState",
    "Money",
    "Node",
    "Plan",
    "WrongArgument",
    "__version__",
]
__version__ = "0.1.0"
_ROOMS = {
    "AsyncClient": "client",
    "BursarError": "errors",
    "BursarWarning": "client.asked",
    "Client": "client",
    "Job": "results",
    "JobSpec": "model",
    "JobState": "model",
    "Money": "money",
    "Node": "results",
    "Plan": "results",
    "WrongArgument": "client.arguments",
}


def __getattr__(name: str) -> Any:
    """Load each on first use: `import bursar` alone must not pay for gRPC."""
    if name not in _ROOMS:
        raise AttributeError(f"module 'bursar' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"bursar.{_ROOMS[name]}"), name)
