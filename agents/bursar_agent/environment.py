"""What only this node knows of a job: from the daemon's assignment to the runner's request.

Owns    account lookup, the place of the checkpoint directory, defaults. Input: one assignment.
Why     the daemon knows the job, only the node knows its accounts and paths. What cannot be honoured is
        said here, before a process exists. What the job runs is not looked at (`Assignment.launch`).
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bursar.errors import InvalidRequest
from bursar.model.ends import NO_ACCOUNT
from bursar.steps import names
from bursar_agent.runner.model import DEFAULT_LOG_CAP_BYTES, StartRequest
from bursar_agent.statedir import StateDir
from bursar_agent.stimuli import Assignment

PATH_OF_ACCOUNTS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""For other accounts than the agent's own, whose PATH may hold private folders."""

AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
"""For jobs of root: that they are is known here, and without these Open MPI's `mpirun` refuses it."""


@dataclass(frozen=True, slots=True)
class Account:
    """Who a job runs as; uid None: the agent's own account."""

    name: str
    home: str
    shell: str
    uid: int | None = None
    gid: int | None = None

    @property
    def env(self) -> dict[str, str]:
        """What a shell of this account would find in its environment."""
        own = {} if self.uid is None else {"PATH": PATH_OF_ACCOUNTS}
        return own | {"HOME": self.home, "USER": self.name, "LOGNAME": self.name, "SHELL": self.shell}


@dataclass(frozen=True, slots=True)
class Containers:
    """What runs containers here (`bursar_agent.containers`), and the devices that exist, by index."""

    runtime: Mapping[str, Any] | None = None
    uuids: Mapping[int, str] = field(default_factory=dict)


NO_CONTAINERS = Containers()


class Accounts:
    """Accounts of this machine; a lookup may ask a directory service, so answers are kept."""

    def __init__(self, own_uid: int) -> None:
        self._own_uid = own_uid
        self._known: dict[str, Account] = {}
        try:
            entry = pwd.getpwuid(own_uid)
            self.own = Account(entry.pw_name, entry.pw_dir or "/", entry.pw_shell or "/bin/sh")
        except KeyError:
            self.own = Account(str(own_uid), os.environ.get("HOME", "/"), "/bin/sh")

    def variables(self, account: Account) -> dict[str, str]:
        """What a job of this account finds in its environment unless it says otherwise."""
        uid = self._own_uid if account.uid is None else account.uid
        return account.env | (AS_ROOT if uid == 0 else {})

    def of(self, user: str) -> Account:
        """The account of `user`; the agent's own where it is not root and so cannot change.

        By its name alone: a number is no proof of whose it is, and no name but root's own leads to root.
        Raises `InvalidRequest` when this machine has no such account.
        """
        if not user or user == self.own.name or self._own_uid != 0:
            return self.own
        if user not in self._known:
            try:
                entry = pwd.getpwnam(user)
                if user.isdigit() or entry.pw_uid == 0:  # some directories look a number up as one
                    raise KeyError(user)
            except (KeyError, ValueError):
                raise InvalidRequest(
                    f"{NO_ACCOUNT} of user {user} on this node; create it or keep the job away"
                ) from None
            self._known[user] = Account(
                entry.pw_name, entry.pw_dir, entry.pw_shell, entry.pw_uid, entry.pw_gid
            )
        return self._known[user]


def start_request(
    assignment: Assignment,
    epoch: int,
    accounts: Accounts,
    state: StateDir,
    containers: Containers = NO_CONTAINERS,
) -> StartRequest:
    """The runner's request. Raises `InvalidRequest` for what this node cannot honour."""
    account = accounts.of(assignment.user)
    return StartRequest(
        runtime=containers.runtime,
        gpus=tuple(containers.uuids[index] for index, _ in assignment.devices if index in containers.uuids),
        attempt_id=assignment.attempt_id,
        rank=assignment.rank,
        epoch=epoch,
        launch=assignment.launch,
        env=accounts.variables(account) | {names.DIRECTORY: state.steps_dir},
        home=account.home,
        checkpoint_dir=state.checkpoint_dir(assignment.job_id),
        uid=account.uid,
        gid=account.gid,
        time_limit_us=assignment.time_limit_us or None,
        grace_us=assignment.grace_us,
        checkpoint_signal=assignment.checkpoint_signal or None,
        log_cap_bytes=assignment.log_cap_bytes or DEFAULT_LOG_CAP_BYTES,
        memory_limit_bytes=assignment.memory_limit_bytes or None,
        cpu_limit_milli=assignment.cpu_limit_milli,
    )
