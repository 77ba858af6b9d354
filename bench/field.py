"""Other people's inputs, read as `bursar submit` reads them: what each asks, and whether what it WANTs holds.

Run     BURSAR_BENCH_DATA=DIR python bench/field.py  (DIR/field/given, or DIR itself, has the inputs)
Input   scripts and job files with `# WANT:` lines, which say in words what must happen.
Output  one line per input: `ok`, `refused` with its line, or `look` for what a cluster must show;
        then the notes. Exit code 1 when an input is neither read nor refused with a place.
Why     what scripts of strangers run into is found by reading many. Nothing of the inputs is kept here.
"""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from bursar import jobfile
from bursar.errors import InvalidRequest
from bursar.jobfile.convert import recognise
from bursar.jobfile.site import Site, SiteNode
from bursar.jobfile.slurm import is_slurm_script
from bursar.model import JobSpec

NODES = tuple(
    SiteNode({"node": f"local-{number}", "pool": "local"}, 4_000, 2**34, 4, "H100", 1) for number in (1, 2)
)
CALLER = jobfile.Caller({}, datetime(2026, 1, 1, tzinfo=UTC), "login", Site(NODES))
CHECKS = (
    (
        r"tasks? (\d+)\.\.(\d+)",
        lambda spec, m: list(spec.array.indices) == list(range(int(m[1]), int(m[2]) + 1)),
    ),
    (r"--ntasks-per-node=(\d+)", lambda spec, m: dict(spec.env).get("SLURM_NTASKS_PER_NODE") == m[1]),
    (r"never runs on (\S+)", lambda spec, m: dict(spec.constraints).get("node") == f"!{m[1]}"),
    (r"all memory of the node", lambda spec, m: spec.options[0].memory_bytes == 2**34),
    (r"same name and user", lambda spec, m: any(d.when == "singleton" for d in spec.depends_on)),
    (r"once, on the first node", lambda spec, m: spec.launch == "once"),
    (r"private directory", lambda spec, m: is_slurm_script(spec.script)),
)
"""What can be seen of a WANT without running anything."""


def inputs(folder: Path) -> Iterator[Path]:
    """The inputs, by name."""
    given = folder / "field/given"
    yield from sorted(path for path in (given if given.is_dir() else folder).iterdir() if path.is_file())


def read(path: Path, text: str) -> tuple[JobSpec, list[str]]:
    """The job of one input, and its notes."""
    if jobfile.looks_like_script(text):
        spec, notices = jobfile.parse_script(text, path.name, "/home/user", caller=CALLER)
        return spec, [str(notice) for notice in notices]
    kind = recognise(text)
    if kind is not None:
        raise InvalidRequest(f"{path.name}:1: this looks like {kind}")
    return jobfile.parse_job(text, path.name, "/home/user"), []


def verdict(path: Path) -> tuple[str, list[str]]:
    """One word, and what was said."""
    text = path.read_text(errors="replace")
    wants = re.findall(r"^# WANT: (.*)$", text, re.MULTILINE)
    if path.suffix == ".txt":
        return "look", wants
    try:
        spec, notes = read(path, text)
    except InvalidRequest as problem:
        placed = re.search(r":\d+", problem.message) is not None
        return ("refused" if placed else "BAD"), [problem.message.split("\n")[0]]
    seen = [(check, match) for want in wants for form, check in CHECKS if (match := re.search(form, want))]
    if any(not check(spec, match) for check, match in seen):
        return "BAD", [*wants, *notes]
    return ("ok" if seen else "look"), [*(() if seen else wants), *notes]


def main() -> int:
    """Print each input; 1 when one of them is bad."""
    folder = Path(os.environ.get("BURSAR_BENCH_DATA", "../shared"))
    words: Counter[str] = Counter()
    for path in inputs(folder):
        word, said = verdict(path)
        words[word] += 1
        print(f"{word:8} {path.name}")
        for line in said:
            print(f"           {line[:160]}")
    print("  ".join(f"{word}: {count}" for word, count in sorted(words.items())))
    return int(words["BAD"] > 0)


if __name__ == "__main__":
    sys.exit(main())
