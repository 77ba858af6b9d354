"""Files that a verb writes: put in place whole, and what is no file is written into."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bursar.cli.files import write_whole


def test_a_file_is_replaced_once_all_of_it_is_there(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("before")

    def pieces() -> object:
        yield b"ab"
        assert (tmp_path / "out").read_text() == "before"
        yield b"c"

    write_whole(str(tmp_path / "out"), pieces())  # type: ignore[arg-type]
    assert [one.name for one in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out").read_text() == "abc"


def test_a_pipe_or_a_device_stays_what_it_is_and_gets_what_is_written(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    write_whole(str(path), [b"ab", b"c"])
    assert os.read(reader, 9) == b"abc"
    os.close(reader)
    assert path.is_fifo()
    write_whole("/dev/null", [b"x"])
    assert not Path("/dev/null").is_file()


def test_what_fails_half_way_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("before")

    def pieces() -> object:
        yield b"ab"
        raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        write_whole(str(tmp_path / "out"), pieces())  # type: ignore[arg-type]
    assert [one.name for one in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out").read_text() == "before"
