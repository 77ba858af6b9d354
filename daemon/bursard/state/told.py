"""How far a job said it had come, by what its attempts told when they ended."""

from __future__ import annotations

from bursar.model import Progress
from bursard.state.records import JobRecord


def told_progress(job: JobRecord) -> Progress | None:
    """What the first telling member of the newest attempt that told anything told last.

    An attempt that goes on from a checkpoint counts on from there, so the newest has what was kept.
    """
    for attempt in reversed(job.attempts):
        for member in attempt.members:
            if member.report is not None and member.report.progress is not None:
                return member.report.progress
    return None
