"""Programs that are linked with MPI are known by their file, and `srun` starts one task of them at most."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest

from bursar.steps import srun
from bursar.steps.elf import mpi_of, needed
from bursar.steps.request import Refused


def program(path: Path, *libraries: str) -> Path:
    """An ELF file that names these, with nothing to run."""
    strings = b"\0" + b"".join(name.encode() + b"\0" for name in libraries)
    places = [strings.index(b"\0" + name.encode() + b"\0") + 1 for name in libraries]
    base, dynamic_at = 0x400000, 64 + 2 * 56
    entries = [*((1, place) for place in places), (5, 0), (10, len(strings)), (0, 0)]
    strings_at = dynamic_at + 16 * len(entries)
    entries[len(places)] = (5, base + strings_at)
    dynamic = b"".join(struct.pack("<QQ", *one) for one in entries)
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    whole = strings_at + len(strings)
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, whole, whole, 4096)
    table = struct.pack("<IIQQQQQQ", 2, 6, dynamic_at, base + dynamic_at, 0, len(dynamic), len(dynamic), 8)
    path.write_bytes(head + load + table + dynamic + strings)
    path.chmod(0o755)
    return path


def test_a_program_names_its_libraries(tmp_path: Path) -> None:
    made = program(tmp_path / "a.out", "libm.so.6", "libmpi.so.40", "libc.so.6")
    assert needed(str(made)) == ["libm.so.6", "libmpi.so.40", "libc.so.6"]
    assert mpi_of(str(made), {}) == "libmpi.so.40"
    assert mpi_of("a.out", {"PATH": f"/nowhere:{tmp_path}"}) == "libmpi.so.40"
    assert mpi_of("a.out", {"PATH": "/nowhere"}) == ""
    assert not any(name.startswith("libmpi") for name in needed(sys.executable))


def test_what_is_no_such_file_or_a_damaged_one_ends_nothing(tmp_path: Path) -> None:
    script = tmp_path / "a.sh"
    script.write_text("#!/bin/sh\n# libmpi.so.40\n")
    assert needed(str(script)) == needed(str(tmp_path / "gone")) == needed(str(tmp_path)) == []
    whole = program(tmp_path / "a.out", "libmpi.so.40").read_bytes()
    for end in range(0, len(whole), 7):
        script.write_bytes(whole[:end])
        assert len(needed(str(script))) <= 1
    for at in range(16, len(whole), 3):
        script.write_bytes(whole[:at] + b"\xff" + whole[at + 1 :])
        assert len(needed(str(script))) <= 2


ENV = {"SLURM_JOB_ID": "1", "SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS": "2", "PATH": "/usr/bin:/bin"}


def test_several_tasks_of_a_program_of_mpi_are_refused_with_what_to_write(tmp_path: Path) -> None:
    made = str(program(tmp_path / "a.out", "libmpich.so.12"))
    with pytest.raises(Refused) as refused:
        srun.request_of(["-n4", made, "-i", "two words"], ENV)
    assert refused.value.code == 2
    assert f"write `mpirun -n 4 {made} -i 'two words'`, or say --mpi=none" in str(refused.value)
    with pytest.raises(Refused, match="each of its 2 tasks"):
        srun.request_of([made], ENV)


@pytest.mark.parametrize("words", [["-n1"], ["-n1", "-N1"], ["-n4", "--mpi=none"]])
def test_one_task_of_it_and_many_that_are_meant_to_be_alone_are_not(words: list[str], tmp_path: Path) -> None:
    made = str(program(tmp_path / "a.out", "libmpi.so.40"))
    assert srun.request_of([*words, made], ENV)[0].argv == [made]
