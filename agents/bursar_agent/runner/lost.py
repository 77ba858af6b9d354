"""The report of a member whose supervisor is gone, which cannot write its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bursar.model.ends import SUPERVISOR_LOST
from bursar_agent.runner.model import ExitReport


def lost_report(
    attempt_id: str,
    rank: int,
    mark: Mapping[str, Any],
    start: Mapping[str, Any] | None,
    ended_at: int | None,
    cause: str,
    copied: bool = False,
) -> ExitReport:
    """What is known of its end. `ended_at`: by when its last process had ended; None: in an earlier boot."""
    started_at = None if start is None else int(start["start_boot_us"])
    if ended_at is None:
        message = "the machine restarted while the attempt ran"
    elif copied:
        message = f"{SUPERVISOR_LOST}: this directory is a copy, and what ran is the original's, left alone"
    elif start is None:
        message = f"{SUPERVISOR_LOST} while the job was being started"
    else:
        message = f"{SUPERVISOR_LOST}; the job's processes were killed"
    return ExitReport(
        attempt_id=attempt_id,
        rank=rank,
        epoch=mark["epoch"] if type(mark.get("epoch")) is int else 0,
        end_cause=cause if ended_at is not None else "node_lost",
        exit_code=None,
        signal=None,
        message=message,
        phase="run",
        boot_id=str(mark.get("boot_id") or ""),
        start_boot_us=started_at,
        end_boot_us=ended_at,
        held_us=ended_at - started_at if ended_at is not None and started_at is not None else None,
        cpu_user_us=0,
        cpu_system_us=0,
        max_rss_bytes=0,
        log_bytes=0,
        log_dropped_bytes=0,
    )
