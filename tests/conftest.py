"""What all tests share: an environment of nobody's, how hard Hypothesis tries, and programs compiled once.

Why     every push runs a few examples of each property in seconds; `make nightly` runs very many of them.
        A test that names a number of its own means that number for both.
"""

from __future__ import annotations

import compileall
import logging
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

OURS = (
    "BURSAR_BENCH_DATA", "BURSAR_COVERING", "BURSAR_FUZZ_ROUNDS", "BURSAR_GOLDEN", "BURSAR_SHOTS",
    "BURSAR_SIM_SEEDS",
)  # fmt: skip
SOMEBODYS = (
    "CLICOLOR", "CLICOLOR_FORCE", "COLUMNS", "CREDENTIALS_DIRECTORY", "FORCE_COLOR", "LINES", "LOCAL_RANK",
    "NOTIFY_SOCKET", "NO_COLOR", "SQUEUE_FORMAT", "TERM", "WATCHDOG_PID", "WATCHDOG_USEC",
)  # fmt: skip
"""What a terminal, a service manager or a job may have set, and the product heeds."""
TEMPORARY_CHARACTERS_MAX = 20
"""The kernel takes 107 for a socket, of which the folders of tests need most."""
QUICK_EXAMPLES = 40
NIGHTLY_EXAMPLES = 2000

for name in list(os.environ):
    if name in SOMEBODYS or (name.startswith(("BURSAR_", "SLURM_", "XDG_")) and name not in OURS):
        del os.environ[name]
if len(tempfile.gettempdir()) > TEMPORARY_CHARACTERS_MAX:
    os.environ.pop("TMPDIR", None)
    tempfile.tempdir = None
os.environ["LC_ALL"] = "C.UTF-8"  # what other programs say, and how they sort, is the same everywhere
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
pytest.register_assert_rewrite("backend_contract", "cluster_rules", "cluster_promises")


def pytest_configure(config: pytest.Config) -> None:
    """Where Python may write no bytecode, each process that a test starts would compile ours anew: that
    was 40 % of the CPU of a `bursar submit`.
    """
    if not hasattr(config, "workerinput"):
        for package in ("sdk", "policies", "daemon", "agents", "web"):
            compileall.compile_dir(Path(__file__).parents[1] / package, quiet=2)


@pytest.fixture(autouse=True)
def logs_go_back() -> Iterator[None]:
    """So is what a program that is run here sets on the log of the whole process."""
    root = logging.getLogger()
    handlers, level = [(handler, handler.filters[:]) for handler in root.handlers], root.level
    yield
    if root.handlers != [handler for handler, _ in handlers]:
        root.handlers[:] = [handler for handler, _ in handlers]
    for handler, filters in handlers:
        handler.filters[:] = filters
    root.setLevel(level)


@pytest.fixture(autouse=True)
def signals_go_back() -> Iterator[None]:
    """What one test listens for, the next does not: their speed decides which of them share a process."""
    pytests_own = signal.SIGALRM
    numbers = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, pytests_own})
    handlers = {number: signal.getsignal(number) for number in numbers}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    for number, handler in handlers.items():
        if handler is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)
