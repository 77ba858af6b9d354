"""A figure that a page tells is the one that the code has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bursar.jobfile import service
from bursar.local import child
from bursar.model import check
from bursar.steps import cluster
from bursard import startup
from bursard.access.admission import AGENT_STREAMS_EACH, ROOMS, Kind
from bursard.access.sessions import STALLED_US
from bursard.access.tokens import LOCAL_TTL_S
from bursard.state.pending import OWN_MAX
from bursard.store import headfile

DOCS = Path(__file__).parents[2] / "docs"
WORDS = {3: "three", 5: "five"}
STAFF, USER, STRANGER, AGENT = (ROOMS[kind] for kind in (Kind.STAFF, Kind.USER, Kind.STRANGER, Kind.AGENT))
TOLD = (
    ("architecture.md", f"stopped for {child.STOPPED_S:g} s or silent for {child.SILENT_S:g} s"),
    ("install.md", f"kills it after {child.STOPPED_S:g} s (stopped) or {child.SILENT_S:g} s (silent)"),
    ("security.md", f"one message waited {STALLED_US // 10**6} s for its reader"),
    ("security.md", f"Local tokens live {WORDS[LOCAL_TTL_S // 60]} minutes"),
    (
        "security.md",
        f"| {AGENT.streams:,} | {AGENT_STREAMS_EACH} (the daemon's own account: no limit but the",
    ),
    (
        "security.md",
        f"site | {STAFF.streams:,} | {STAFF.streams_each} | {STAFF.calls:,} | {STAFF.calls_each:,} |",
    ),
    ("security.md", f"users | {USER.streams:,} | {USER.streams_each} | {USER.calls:,} | {USER.calls_each} |"),
    ("security.md", f"without identity | {STRANGER.streams} | | {STRANGER.calls} | |"),
    ("engines.md", f"within {WORDS[int(cluster.UP_WITHIN_S) // 60]} minutes ends the job"),
    ("engines.md", f"text up to {check.CODE_MAX:,} characters ({check.SCRIPT_OF_ENGINE_BYTES_MAX:,} bytes)"),
    ("backup.md", f"at least by {startup.NUMBERS_SKIPPED_MIN:,}"),
    ("adr/0009-external-head-and-backups.md", f"at least {startup.NUMBERS_SKIPPED_MIN:,}"),
    ("adr/0009-external-head-and-backups.md", f"fsynced every {headfile._SYNC_EVENTS:,} events"),
    ("glossary.md", f"beyond the {OWN_MAX} that every plan looks at"),
    ("adr/0024-queues-of-one-user-in-turn.md", f"The first {OWN_MAX} that a user has opened"),
    ("jobfile.md", f"at most {check.TIME_LIMIT_MAX_US // 86_400_000_000}d"),
)


@pytest.mark.parametrize(("page", "told"), TOLD, ids=[f"{page}: {told[:40]}" for page, told in TOLD])
def test_a_figure_of_a_page_is_that_of_the_code(page: str, told: str) -> None:
    assert told in " ".join((DOCS / page).read_text().split())


def test_the_keys_that_job_files_do_not_take_yet_are_those_that_are_refused() -> None:
    said = re.search(r"not built yet \(([^)]*)\)", (DOCS / "jobfile.md").read_text())
    assert said is not None
    assert set(re.findall("`(.*?)`", said[1])) == set(service.NOT_BUILT)
