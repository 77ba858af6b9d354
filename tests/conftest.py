"""What all tests share: how hard Hypothesis tries, and programs that are compiled once.

Why     every push runs a few examples of each property in seconds; `make nightly` runs very many of them.
        A test that names a number of its own means that number for both.
"""

from __future__ import annotations

import compileall
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

QUICK_EXAMPLES = 40
NIGHTLY_EXAMPLES = 2000

# A busy machine makes one example slow, which says nothing about the property. The same examples each time:
# what a change broke fails for it, and not for whoever comes by; `make nightly` looks for new ones.
settings.register_profile(
    "quick",
    max_examples=QUICK_EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "nightly", parent=settings.get_profile("quick"), max_examples=NIGHTLY_EXAMPLES, derandomize=False
)
settings.load_profile("quick")
pytest.register_assert_rewrite("cluster_rules", "cluster_promises")


def pytest_configure(config: pytest.Config) -> None:
    """Where Python may write no bytecode, each process that a test starts would compile ours anew: that
    was 40 % of the CPU of a `bursar submit`.
    """
    if not hasattr(config, "workerinput"):
        for package in ("sdk", "policies", "daemon", "agents"):
            compileall.compile_dir(Path(__file__).parents[1] / package, quiet=2)
