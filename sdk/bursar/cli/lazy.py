"""Modules that are loaded when they are used, not when they are named.

Why     gRPC loads asyncio, protobuf the implementation in Python that stands beside the one in C, and we
        every message of the contract; a command that lists jobs needs none of it, and would spend half of
        its processor time there.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Final

LAZY: Final = frozenset(
    {
        # of the standard library, named by others at their top and used where something special happens
        *("asyncio", "bz2", "difflib", "ipaddress", "lzma", "pickle", "shutil", "textwrap", "tokenize"),
        "google.protobuf.internal.python_message",
        "grpc.aio",
        "grpc.experimental",
        "msgspec.inspect",
        "yaml",
        "bursar.codec.spec",
        "bursar.codec.view",
        *(f"bursar.v1.{name}_pb2" for name in ("access", "agents", "events", "jobs", "money", "nodes")),
    }
)


class _Finder:
    """Finds as Python does, and puts the loading off."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in LAZY:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec


def install() -> None:
    """From here on the modules of `LAZY` wait for their first use. For a program, never for a library."""
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)
