"""The spool under kill -9: what `append` returned for is there afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bursar.clock import SystemClock
from bursar_agent.spool import Spool

APPENDING = """
import sys
from pathlib import Path
from bursar.clock import SystemClock
from bursar_agent.spool import Spool
from bursar_agent.stimuli import Counter, Usage

spool = Spool(Path(sys.argv[1]), SystemClock(), segment_bytes=2000)
seq = spool.last_seq
while True:
    seq += 1
    spool.append([Usage(seq, "boot", seq, (Counter("att_a", 0, seq, seq),) * 5)])
    sys.stdout.write(f"{seq}\\n")
    sys.stdout.flush()
"""


@pytest.mark.parametrize("appended", [1, 40, 41])
def test_killed_writer_lost_nothing_it_had_said(tmp_path: Path, appended: int) -> None:
    """
    1. A child appends and says each number after its fsync; twice in a row it is killed with -9.
    2. Every number that was said is there, in order, without a gap.
    """
    said = 0
    for _ in range(2):
        with subprocess.Popen(
            [sys.executable, "-c", APPENDING, str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        ) as child:
            assert child.stdout is not None
            for _ in range(appended):
                said = int(child.stdout.readline())
            child.kill()
            rest = child.stdout.read().splitlines()
            said = int(rest[-1]) if rest and rest[-1] else said
        spool = Spool(tmp_path, SystemClock())
        found = [record.seq for record in spool.records()]
        spool.close()
        assert found == list(range(1, len(found) + 1))
        assert len(found) >= said
