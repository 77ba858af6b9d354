"""One daemon per socket directory: nobody takes another's clients, nobody removes another's socket."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bursar.errors import StoreUnavailable
from bursard.sockets import SocketDir


@contextmanager
def listening(path: Path) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        yield


def test_second_daemon_is_refused_with_the_first_ones_pid_and_state_directory(tmp_path: Path) -> None:
    first = SocketDir(tmp_path / "run", tmp_path / "state-a")
    with pytest.raises(StoreUnavailable) as refused:
        SocketDir(tmp_path / "run", tmp_path / "state-b")
    assert f"pid {os.getpid()}, state directory {tmp_path / 'state-a'}" in refused.value.message
    assert "--socket-dir" in refused.value.message
    assert refused.value.facts == {"pid": str(os.getpid()), "directory": str(tmp_path / "state-a")}
    first.close()
    SocketDir(tmp_path / "run", tmp_path / "state-b").close()


def test_a_listener_without_the_lock_keeps_its_socket(tmp_path: Path) -> None:
    """A daemon of an older version, or one whose lock file somebody removed."""
    with listening(tmp_path / "bursar.sock"):
        directory = SocketDir(tmp_path, tmp_path / "state")
        with pytest.raises(StoreUnavailable, match="in use by another bursard"):
            directory.free("bursar.sock")
        directory.close()
        assert (tmp_path / "bursar.sock").is_socket()


def test_dead_socket_is_replaced(tmp_path: Path) -> None:
    with listening(tmp_path / "bursar.sock"):
        pass
    directory = SocketDir(tmp_path, tmp_path / "state")
    assert directory.free("bursar.sock") == tmp_path / "bursar.sock"
    assert not (tmp_path / "bursar.sock").exists()
    directory.close()


@pytest.mark.parametrize("kind", ["file", "directory", "dangling link"])
def test_what_is_no_socket_is_set_aside(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "bursar.sock"
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "nowhere")
    directory = SocketDir(tmp_path, tmp_path / "state")
    assert not os.path.lexists(directory.free("bursar.sock"))
    assert [name for name in os.listdir(tmp_path) if name.startswith("bursar.sock.damaged-")]
    directory.close()


def test_close_removes_its_own_sockets_alone(tmp_path: Path) -> None:
    directory = SocketDir(tmp_path, tmp_path / "state")
    mine, taken = tmp_path / "mine.sock", tmp_path / "taken.sock"
    with listening(mine), listening(taken):
        directory.bound(mine, 0o660)
        directory.bound(taken, 0o660)
        assert mine.stat().st_mode & 0o777 == 0o660
        taken.unlink()
        with listening(taken):
            directory.close()
            assert not mine.exists()
            assert taken.is_socket()


def test_damaged_lock_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "socket.lock").mkdir()
    SocketDir(tmp_path, tmp_path / "state").close()
    assert (tmp_path / "socket.lock").read_text() == f"{os.getpid()}\n{tmp_path / 'state'}\n"
    assert len(list(tmp_path.glob("socket.lock.damaged-*"))) == 1


def test_a_socket_that_somebody_removed_is_missed_and_one_that_was_moved_is_not(tmp_path: Path) -> None:
    directory = SocketDir(tmp_path / "run", tmp_path / "state")
    path = directory.free("bursar.sock")
    with listening(path):
        directory.bound(path, 0o660)
        assert directory.removed() == ""
        (tmp_path / "run").rename(tmp_path / "moved")
        assert directory.removed() == ""
        (tmp_path / "moved" / "bursar.sock").unlink()
        assert directory.removed() == str(path)
        with listening(tmp_path / "moved" / "bursar.sock"):
            assert directory.removed() == str(path)
        directory.close()


def test_sockets_whose_folder_was_removed_are_missed(tmp_path: Path) -> None:
    directory = SocketDir(tmp_path / "run", tmp_path / "state")
    path = directory.free("bursar.sock")
    with listening(path):
        directory.bound(path, 0o660)
        shutil.rmtree(tmp_path / "run")
        assert directory.removed() == str(path)
        directory.close()
