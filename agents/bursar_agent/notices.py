"""The provider's word that it is about to take this machine back.

Why     a spot machine is gone seconds after its provider says so; whoever hears that at once can still write
        a checkpoint. Each cloud says it in a place of its own: whatever watches that writes it into one
        file, and the agent looks at the file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from bursar.clock import SECOND_US, Clock
from bursar_agent import stimuli as s

LOOK_EVERY_S: Final = 0.25
BYTES_MAX: Final = 4_096
LEFT_MAX_S: Final = 86_400


def read(file: Path, clock: Clock) -> s.Noticed | None:
    """What a file says now; None without one. What is no notice still is one: of at once, and of why."""
    try:
        written_at = int(file.stat().st_mtime * SECOND_US)
        with file.open("rb") as stream:
            data = stream.read(BYTES_MAX)
    except OSError:
        return None
    return parse(data, written_at - clock.now() + clock.boot_us())


def parse(data: bytes, written_boot_us: int) -> s.Noticed:
    """The notice of a text that was written at an instant of the boot clock.

    It ends at a whole second, so that it is the same one whenever it is read.
    """
    try:
        found = json.loads(data)
        left_s = min(max(float(found["left_s"]), 0.0), LEFT_MAX_S)
        said, advice = str(found["said"]), found.get("advice") is True
    except (ValueError, KeyError, TypeError, AttributeError):
        left_s, said, advice = 0.0, "its notice cannot be read", False
    until = written_boot_us + int(left_s * SECOND_US)
    return s.Noticed(said, (until + SECOND_US // 2) // SECOND_US * SECOND_US, advice)
