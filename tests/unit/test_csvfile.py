"""Tables that are read strictly: each fault with its place, each cell exactly, empty ones by default."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from bursar.errors import InvalidRequest
from bursard.sim.csvfile import BadCell, Table

COLUMNS = ("job_id", "gpus", "user")


def table(tmp_path: Path, text: str | bytes) -> Table:
    path = tmp_path / "jobs.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return Table(str(path), COLUMNS, ("job_id",))


def positive(text: str) -> int:
    if not text.isdigit():
        raise BadCell(f"{text!r} is no number")
    return int(text)


def refused(tmp_path: Path, text: str | bytes) -> str:
    with pytest.raises(InvalidRequest) as problem:
        table(tmp_path, text)
    return str(problem.value).replace(str(tmp_path), "T")


def test_a_cell_is_what_stands_there_or_its_default(tmp_path: Path) -> None:
    """1. What is empty, or no column, takes the default. 2. Spaces and empty lines say nothing."""
    read = table(tmp_path, "job_id, gpus\na, 4\n\n b ,\n,7\n")
    found = [
        (read.cell("job_id", "-", str), read.cell("gpus", -1, positive), read.cell("user", "nobody", str))
        for _ in read.rows()
    ]
    assert found == [("a", 4, "nobody"), ("b", -1, "nobody"), ("-", 7, "nobody")]
    assert read.faults == []


def test_a_wrong_cell_is_told_with_its_place_and_answered_by_its_default(tmp_path: Path) -> None:
    read = table(tmp_path, "job_id,gpus\na,x\n,1\nc\nd,1,2\n")
    found = [(read.require("job_id", "-", str), read.cell("gpus", -1, positive)) for _ in read.rows()]
    assert found == [("a", -1), ("-", 1)]
    assert [(fault.line, fault.message) for fault in read.faults] == [
        (2, "'x' is no number"),
        (3, "is empty and has no default"),
        (4, "has 1 cells, the header 2"),
        (5, "has 3 cells, the header 2"),
    ]
    with pytest.raises(InvalidRequest, match="'x' is no number"):
        read.finish()


def test_a_fault_found_by_comparing_cells_stands_at_its_column(tmp_path: Path) -> None:
    read = table(tmp_path, "job_id,gpus\na,1\n")
    for _ in read.rows():
        read.wrong("gpus", "too many")
        read.wrong("user", "is nobody")
    assert [(fault.line, fault.message) for fault in read.faults] == [(2, "too many"), (2, "is nobody")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "T/jobs.csv: is empty; its first line must name the columns"),
        ("job_id,gpu\n", "'gpu' is not a column of this file; did you mean 'gpus'?"),
        ("job_id,zzzzzz\n", "'zzzzzz' is not a column of this file; known: job_id, gpus, user"),
        ("job_id,gpus,gpus\n", "the column 'gpus' is there twice"),
        ("gpus\n", "the column 'job_id' is missing; it has no default"),
        (b"job_id\n\xff\n", "T/jobs.csv: is not UTF-8 (byte 7)"),
        (b"\x1f\x8bxx", "T/jobs.csv: is not a whole gzip file: "),
        (gzip.compress(b"job_id\n", mtime=0)[:-4], "T/jobs.csv: is not a whole gzip file: "),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused(tmp_path: Path, text: str | bytes, said: str) -> None:
    assert said in refused(tmp_path, text)


def test_a_file_is_read_unpacked_and_with_the_mark_of_its_bytes(tmp_path: Path) -> None:
    read = table(tmp_path, gzip.compress(b"\xef\xbb\xbfjob_id\na\n"))
    assert [read.cell("job_id", "", str) for _ in read.rows()] == ["a"]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no: No such file or directory"):
        Table(str(tmp_path / "no"), COLUMNS, ())


def test_what_is_no_csv_ends_the_file_with_its_fault(tmp_path: Path) -> None:
    read = table(tmp_path, 'job_id,gpus\na,1\n"b,1\n')
    with pytest.raises(InvalidRequest, match="is not CSV"):
        for _ in read.rows():
            pass
