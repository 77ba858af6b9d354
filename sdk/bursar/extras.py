"""Extras of the package: what each brings, and what to say when one is not there.

Why     a program started without its extra says the line of pip that mends it, never a traceback. One wheel
        holds all our packages, so that only what others made can be missing.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from typing import Final

from bursar.errors import BursarError

MODULES: Final = {
    "daemon": ("aiomqtt", "cryptography", "grpc_health", "joserfc", "numpy", "pyarrow", "sqlite_utils"),
    "agent": ("aiomqtt",),
    "gateway": ("aiohttp",),
    "web": ("authlib", "httpx2", "jinja2", "prometheus_client", "starlette", "uvicorn"),
}
"""By extra: modules that its program imports, directly or when it comes to them, and cannot do without."""


def missing(extra: str) -> str:
    """The first module of an extra that is not installed; empty: it is all there."""
    for name in MODULES[extra]:
        try:
            found = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            found = None
        if found is None:
            return name
    return ""


def absence(program: str, module: str, extra: str) -> str:
    """The sentence, with the line that mends it."""
    return f"{program} needs {module}; install it with `pip install 'bursar[{extra}]'`"


@contextlib.contextmanager
def needing(program: str, extra: str) -> Iterator[None]:
    """Import inside, and `BursarError` says what to install. A defect of our own imports stays what it is."""
    try:
        yield
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name.startswith("bursar"):
            raise
        raise BursarError(absence(program, name, extra)) from None
