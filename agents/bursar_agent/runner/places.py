"""A member's directories in places where every account may make some: `/tmp`, `/dev/shm`.

Owns    that they are made under names that nobody could take before, and found by a lost member's own.
Input   the opened launch, with the names that it chose.
Why     everybody may be told of an attempt and of its node before it starts: whoever made what bears their
        names would make others' jobs fail, and take nodes away.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from bursar_agent.runner import progressfile, scratch, secretfiles, spawning


def make(job: spawning.Job, give_secrets: Callable[[spawning.Job], bool]) -> bool:
    """Make them; what `give_secrets` says. A name that somebody took is left to them, and another is chosen.

    Raises `OSError`: one cannot be made, and the names of what is not ours to remove are empty.
    """
    for left in range(spawning.NAME_TRIES - 1, -1, -1):
        made = []
        try:
            for path in (job.progress_dir, job.scratch_dir):
                if path:
                    scratch.make(path, job.uid, job.gid)
                    made.append(path)
            if job.progress_dir:
                job.progress_made = progressfile.identity(job.progress_dir)
            return give_secrets(job)
        except OSError as problem:
            if left and isinstance(problem, FileExistsError):
                for path in made:
                    scratch.remove(path)
                job.take_names()
                continue
            for name in ("progress_dir", "scratch_dir", "secrets_dir"):
                if getattr(job, name) not in made:
                    setattr(job, name, "")
            raise
    return False


def of(marker: str) -> list[str]:
    """Paths that bear a member's name (`layout.marker_of`), whatever was chosen beside it; in names of older
    releases nothing was.
    """
    name = re.compile(rf"bursar-{re.escape(marker)}(\.[0-9a-f]+)?(\.(scratch|secrets|progress|setup))?")
    found = []
    for place in sorted({scratch.place(), spawning.SCRIPTS_OF_OTHERS, secretfiles.MEMORY}):
        try:
            found += [f"{place}/{one}" for one in sorted(os.listdir(place)) if name.fullmatch(one)]
        except OSError:
            continue
    return found
