"""What is said on a log waits for no reader, and no file takes the place of a standard stream."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bursar.lastword import PIECE_BYTES, Unblocked


class Pipe:
    """What somebody else reads, or nobody."""

    def __init__(self) -> None:
        self.out, self.fd = os.pipe()
        self.stream = os.fdopen(self.fd, "w", closefd=False)

    def fill(self) -> None:
        os.set_blocking(self.fd, False)
        try:
            while os.write(self.fd, b"x" * PIECE_BYTES):
                pass
        except BlockingIOError:
            pass
        os.set_blocking(self.fd, True)

    def read(self) -> str:
        """All that is in it."""
        os.set_blocking(self.out, False)
        found = b""
        try:
            while data := os.read(self.out, 1 << 20):
                found += data
        except BlockingIOError:
            pass
        return found.decode().lstrip("x")

    def close(self) -> None:
        os.close(self.out)
        os.close(self.fd)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


def test_a_pipe_that_nobody_reads_holds_nobody_and_is_told_of_once_somebody_does(pipe: Pipe) -> None:
    log = Unblocked(pipe.stream)
    log.write("first\n")
    assert pipe.read() == "first\n"
    pipe.fill()
    for _ in range(3):
        log.write("lost\n")
    log.flush()
    pipe.read()
    log.write("again\n")
    assert pipe.read() == "3 lines were lost here: nobody took them\nagain\n"
    log.write("and on\n")
    assert pipe.read() == "and on\n"


def test_a_long_text_is_written_as_far_as_it_goes_and_the_next_begins_a_line(pipe: Pipe) -> None:
    log = Unblocked(pipe.stream)
    log.write("y" * (1 << 20) + "\n")
    assert set(pipe.read()) == {"y"}
    log.write("next\n")
    assert pipe.read() == "\n1 lines were lost here: nobody took them\nnext\n"


def test_a_stream_that_is_gone_closed_or_none_takes_nothing_and_ends_nobody(tmp_path: Path) -> None:
    for stream in (None, io.StringIO()):
        log = Unblocked(stream)
        log.write("heard\n")
        log.flush()
        assert stream is None or stream.getvalue() == "heard\n"
    with (tmp_path / "log").open("w") as closed:
        pass
    Unblocked(closed).write("lost\n")
    Unblocked(closed).flush()


def test_no_file_is_opened_as_a_standard_stream() -> None:
    program = (
        "import os\n"
        "from bursar import lastword\n"
        "told = os.dup(1)\n"
        "[os.close(fd) for fd in (0, 1, 2)]\n"
        "lastword.hold()\n"
        "made = os.open('/dev/null', os.O_RDONLY)\n"
        "os.write(told, str(made > 2).encode())\n"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert said.stdout == b"True"
