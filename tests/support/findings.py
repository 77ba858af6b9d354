"""What `doctor` finds, by the name of a check."""

from __future__ import annotations

from bursard.doctor import Finding, check_state
from bursard.state import State


def of_jobs(state: State) -> Finding:
    """Do jobs, arrays, the queue and the counts tie?"""
    return next(one for one in check_state(state) if one.check == "jobs")
