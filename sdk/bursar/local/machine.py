"""What this machine has for a `bursar up`: programs, policies, CPUs, memory."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from pathlib import Path

from bursar.errors import BursarError
from bursar.extras import absence, missing


def check_installed(pages: bool = False, gateway: bool = False) -> None:
    """The daemon and the agent, and the pages if wanted, can run here. Raises `BursarError` with what
    to install.
    """
    wanted = [("bursard", "daemon"), ("bursar_agent", "agent")]
    wanted += [("bursar_web", "web")] if pages else []
    wanted += [("bursar_gateway", "gateway")] if gateway else []
    for package, extra in wanted:
        lacking = package if importlib.util.find_spec(package) is None else missing(extra)
        if lacking:
            raise BursarError(absence("`bursar up`", lacking, ",".join(extra for _, extra in wanted)))


def shipped_policies() -> str:
    """The shipped catalogue, in the wheel or in the source tree; empty when there is none."""
    spec = importlib.util.find_spec("bursar_policies")
    for place in (spec.submodule_search_locations or []) if spec else []:
        for candidate in (Path(place) / "catalog", Path(place).parent / "catalog"):
            if candidate.is_dir():
                return str(candidate.resolve())
    return ""


def asked_policies(remembered: str) -> str:
    """The directory of documents that somebody asked for; empty for the shipped catalogue, whose place is
    found at each start. Older releases remembered that as if it was asked for: a catalogue of an installation
    that has moved.
    """
    path = Path(remembered)
    shipped = path.name == "catalog" and path.parent.name in ("policies", "bursar_policies")
    return "" if not remembered or (shipped and not path.is_dir()) else remembered


def machine() -> tuple[int, int]:
    """CPUs and bytes of memory that this process may use."""
    cpus = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):
        memory = min(memory, int(Path("/sys/fs/cgroup/memory.max").read_text("ascii")))
    return cpus, memory
