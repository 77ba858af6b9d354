"""The state directory, what is remembered in it, and the environment a job gets."""

from __future__ import annotations

import errno
import os
import pwd
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bursar.clock import DAY_US, VirtualClock
from bursar.errors import InvalidRequest, StoreUnavailable
from bursar.ids import RandomIds
from bursar.logend import LogEnd
from bursar.systemd import Notifier
from bursar_agent import statedir
from bursar_agent.environment import PATH_OF_ACCOUNTS, Accounts, start_request
from bursar_agent.statedir import Forgotten, Remembered, StateDir
from bursar_agent.stimuli import Assignment


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateDir]:
    made = StateDir(tmp_path / "agent")
    yield made
    made.close()


def test_second_agent_on_a_directory_is_refused_with_the_first_ones_pid(state: StateDir) -> None:
    with pytest.raises(InvalidRequest, match=f"pid {os.getpid()}.*--state-dir"):
        StateDir(state.path)


def test_directory_is_private_and_free_again_after_close(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0o755)
    StateDir(tmp_path / "a").close()
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o711
    StateDir(tmp_path / "a").close()


def test_whatever_the_umask_is_no_file_of_the_agent_is_another_accounts(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        state = StateDir(tmp_path / "agent")
        state.persist(7, 9)
        state.instance(RandomIds())
        state.remember_log_end(LogEnd("c1", 3, b"x" * 32))
        state.remember_signal(("att_1", 0), "TERM", 5)
        forgotten = Forgotten(state.path / "forgotten", VirtualClock(5))
        forgotten.rewrite()
        forgotten.close()
        state.close()
    finally:
        os.umask(before)
    files = [path for path in state.path.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"agent.json", "log-end.json", "forgotten", "att_1.0", "instance"}
    assert {path.name for path in files if path.stat().st_mode & 0o077} == set()


def test_directory_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable, match=r"state directory .*file/a.*--state-dir"):
        StateDir(tmp_path / "file" / "a")


def test_epoch_and_lease_are_remembered(state: StateDir) -> None:
    assert state.remembered() == Remembered(0, 0)
    state.persist(7, 9)
    assert state.remembered() == Remembered(7, 9)


def test_checkpoint_signals_are_remembered_until_forgotten(state: StateDir) -> None:
    state.remember_signal(("att_a.3", 1), "USR1", 5)
    assert state.signals() == {("att_a.3", 1): ("USR1", 5)}
    state.forget_signal(("att_a.3", 1))
    assert state.signals() == {}


def test_forgotten_members_are_known_after_a_restart_and_expire(tmp_path: Path) -> None:
    clock = VirtualClock()
    forgotten = Forgotten(tmp_path / "f", clock)
    forgotten.add(("att_a", 0), log_bytes=0)
    forgotten.add(("att_b", 1), log_bytes=10)
    forgotten.close()
    with (tmp_path / "f").open("a") as file:
        file.write("torn line")
    again = Forgotten(tmp_path / "f", clock)
    assert ("att_a", 0) in again
    assert ("att_b", 1) in again
    clock.advance(statedir.SILENT_RETENTION_US + 1)
    assert again.take_expired() == [("att_a", 0)]
    clock.advance(7 * DAY_US)
    assert again.take_expired() == [("att_b", 1)]
    again.rewrite()
    again.close()
    assert (tmp_path / "f").read_text() == ""


def test_too_many_or_too_large_logs_go_oldest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statedir, "RETAINED_LOG_BYTES_MAX", 25)
    forgotten = Forgotten(tmp_path / "f", VirtualClock())
    for name in ("att_a", "att_b", "att_c"):
        forgotten.add((name, 0), log_bytes=10)
    assert forgotten.take_expired() == [("att_a", 0)]
    forgotten.close()


# --- environment --------------------------------------------------------------------------------


def assignment(**more: Any) -> Assignment:
    values = {"job_id": "job_1", "launch": b"unopened", **more}
    return Assignment(attempt_id="att_a", rank=0, boot_id="b", **values)


def nobody_else() -> Accounts:
    return Accounts(12345)


def test_the_node_says_whose_account_it_is_and_opens_no_launch(
    state: StateDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = pwd.getpwuid(os.getuid())
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: own)
    request = start_request(assignment(), 1, nobody_else(), state)
    assert request.launch == b"unopened"
    assert request.home == own.pw_dir
    assert request.env == {
        "HOME": own.pw_dir,
        "USER": own.pw_name,
        "LOGNAME": own.pw_name,
        "SHELL": own.pw_shell,
        "BURSAR_STEPS": str(state.path / "steps"),
    }


def test_a_job_has_one_place_for_its_checkpoints_on_a_node(state: StateDir) -> None:
    request = start_request(assignment(), 1, nobody_else(), state)
    assert Path(request.checkpoint_dir) == state.path / "checkpoints" / "job_1"
    assert Path(request.checkpoint_dir).parent.is_dir()
    assert not Path(request.checkpoint_dir).exists()
    assert start_request(assignment(job_id=""), 1, nobody_else(), state).checkpoint_dir == ""


@pytest.mark.parametrize("job_id", ["../x", "..", ".x", "a/b", "a b", "a\n", "a\0", "\udcff"])
def test_job_id_cannot_lead_out_of_the_checkpoint_directory(state: StateDir, job_id: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        start_request(assignment(job_id=job_id), 1, nobody_else(), state)
    assert refused.value.message == f"job id {job_id!r} cannot name a checkpoint directory"


def test_root_becomes_the_user_with_that_users_home_and_path(state: StateDir) -> None:
    """`Accounts(0)` is told that it is root; nothing is started here."""
    entry = next(e for e in pwd.getpwall() if e.pw_uid != 0)
    request = start_request(assignment(user=entry.pw_name), 1, Accounts(0), state)
    assert (request.uid, request.gid, request.home) == (entry.pw_uid, entry.pw_gid, entry.pw_dir)
    assert request.env is not None
    assert request.env["HOME"] == entry.pw_dir
    assert request.env["PATH"] == PATH_OF_ACCOUNTS


def test_jobs_of_root_tell_open_mpi_that_they_may(state: StateDir) -> None:
    def told(user: str, uid: int) -> dict[str, str]:
        env = start_request(assignment(user=user), 1, Accounts(uid), state).env or {}
        return {name: value for name, value in env.items() if name.startswith("OMPI_")}

    other = next(e.pw_name for e in pwd.getpwall() if e.pw_uid != 0)
    yes = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    assert (told("root", 0), told("", 0)) == (yes, yes)
    assert (told(other, 0), told("root", 12345)) == ({}, {})


def test_unknown_user_is_named(state: StateDir) -> None:
    with pytest.raises(InvalidRequest, match="no account of user no-such-user on this node"):
        start_request(assignment(user="no-such-user"), 1, Accounts(0), state)


@pytest.mark.parametrize("name", ["0", "00", "1", "1000", "uid-0", "toor"])
def test_no_number_and_no_second_name_of_root_is_an_account(
    state: StateDir, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Whoever named it, and whatever the machine's directory makes of it."""
    root = pwd.getpwuid(0)
    monkeypatch.setattr(pwd, "getpwnam", lambda _: root)
    with pytest.raises(InvalidRequest, match=f"no account of user {name} on this node"):
        start_request(assignment(user=name), 1, Accounts(0), state)


def test_agent_without_root_runs_jobs_as_itself(state: StateDir) -> None:
    request = start_request(assignment(user="root"), 1, Accounts(12345), state)
    assert request.uid is None


# --- systemd ------------------------------------------------------------------------------------


def test_notifier_tells_systemd_and_is_silent_without_it(tmp_path: Path) -> None:
    Notifier({}).send("READY=1")
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(path)
        notifier = Notifier({"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "3000000"})
        notifier.send("READY=1")
        assert heard.recv(64) == b"READY=1"
    assert notifier.watchdog_us == 3_000_000
    notifier.send("WATCHDOG=1")
    assert Notifier({"WATCHDOG_USEC": "3", "WATCHDOG_PID": "1"}).watchdog_us == 0


def test_a_list_of_the_forgotten_that_leads_nowhere_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "f").symlink_to(tmp_path / "nowhere" / "at all")
    forgotten = Forgotten(tmp_path / "f", VirtualClock())
    forgotten.add(("att_1", 0), 5)
    forgotten.close()
    again = Forgotten(tmp_path / "f", VirtualClock())
    assert ("att_1", 0) in again
    again.close()


@pytest.mark.parametrize(
    ("refused", "remedy"),
    [
        (
            errno.EROFS,
            r"Read-only file system; its disk is .* read-only.*go on.*adopted once this",
        ),
        (errno.ENOSPC, r"No space left on device; free some space there"),
        (errno.EACCES, r"Permission denied; make it writable for this account \(chmod -R u\+rwX "),
    ],
)
def test_an_agent_whose_disk_refuses_it_says_why_and_what_becomes_of_what_runs(
    refused: int, remedy: str, state: StateDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chmod(path: Path, mode: int, **_: object) -> None:
        raise OSError(refused, os.strerror(refused), str(path))

    monkeypatch.setattr(Path, "chmod", chmod)
    with pytest.raises(StoreUnavailable, match=remedy) as told:
        StateDir(state.path)
    assert str(state.path) in told.value.message
    assert "chmod" not in told.value.message or refused == errno.EACCES, "which would not help"
