"""What members have told in files of their own, as the agent reads it.

Why     a file of a job may be anything of anybody's; `progressfile` reads one carefully, and here is which.
"""

from __future__ import annotations

import os

from bursar.errors import InvalidRequest, NotFound
from bursar_agent.runner import containers, progressfile, truth
from bursar_agent.runner.layout import ATTEMPTS, PROGRESS, STEP_RECORDS, marker_of, member_name, place_of


def progress(run_fd: int, attempt_id: str, rank: int) -> bytes | None:
    """Of a member that runs; None: nothing. Raises `OSError`, `NotFound`."""
    return _running(run_fd, attempt_id, rank, PROGRESS, progressfile.BYTES_MAX)


def running_steps(run_fd: int, attempt_id: str, rank: int) -> bytes | None:
    """Records of the steps of one that runs. Raises as `progress` does."""
    return _running(run_fd, attempt_id, rank, STEP_RECORDS, progressfile.STEPS_BYTES_MAX)


def _running(run_fd: int, attempt_id: str, rank: int, name: str, bytes_max: int) -> bytes | None:
    dir_fd = _open(run_fd, attempt_id, rank)
    try:
        data = progressfile.read(name, dir_fd, bytes_max)
        if data is None and (os.geteuid() == 0 or containers.read_record(dir_fd) is not None):
            start = truth.read_start(dir_fd)
            marker = marker_of(member_name(attempt_id, rank), place_of(run_fd))
            if start is not None:
                data = progressfile.read_of_another(start, marker, name, bytes_max)
        return data
    finally:
        os.close(dir_fd)


def last_progress(run_fd: int, attempt_id: str, rank: int) -> bytes | None:
    """Of one that has ended; another user's was copied into our directory. Raises as `progress` does."""
    return _left(run_fd, attempt_id, rank, PROGRESS, progressfile.BYTES_MAX)


def steps(run_fd: int, attempt_id: str, rank: int) -> bytes | None:
    """Records of the steps of one that has ended. Raises as `progress` does."""
    return _left(run_fd, attempt_id, rank, STEP_RECORDS, progressfile.STEPS_BYTES_MAX)


def _left(run_fd: int, attempt_id: str, rank: int, name: str, bytes_max: int) -> bytes | None:
    try:  # most jobs tell nothing, and their directory need not be opened for it
        os.lstat(f"{ATTEMPTS}/{member_name(attempt_id, rank)}/{name}", dir_fd=run_fd)
    except FileNotFoundError:
        return None
    except ValueError as problem:
        raise InvalidRequest(str(problem)) from None
    dir_fd = _open(run_fd, attempt_id, rank)
    try:
        return progressfile.read(name, dir_fd, bytes_max)
    finally:
        os.close(dir_fd)


def _open(run_fd: int, attempt_id: str, rank: int) -> int:
    try:
        return truth.open_member(run_fd, attempt_id, rank)
    except ValueError as problem:
        raise InvalidRequest(str(problem)) from None
    except FileNotFoundError:
        raise NotFound(f"attempt {attempt_id} rank {rank} was not started on this machine") from None
