"""The bench of growth, for tests that want its node and its day: `bench/` is no package."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def load() -> ModuleType:
    """The module `bench/growth.py`."""
    path = Path(__file__).parents[2] / "bench" / "growth.py"
    spec = importlib.util.spec_from_file_location("bench_growth", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
