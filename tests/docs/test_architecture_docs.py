"""What the documents say about the code is there: named tests, named files, every invariant once."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
ROOTS = (
    "",
    "sdk",
    "policies",
    "daemon",
    "agents",
    "web",
    "gateway",
    "daemon/bursard",
    "agents/bursar_agent",
    "web/bursar_web",
    "gateway/bursar_gateway",
)
INVARIANTS = {"J": 7, "R": 3, "L": 10, "B": 3, "T": 2, "H": 2, "S": 1}
"""How many of each letter the design has; the cloud's are told in a sentence."""


def pages() -> list[Path]:
    return [DOCS / "architecture.md", DOCS / "invariants.md", *sorted((DOCS / "adr").glob("*.md"))]


def test_every_test_an_invariant_relies_on_exists() -> None:
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", (DOCS / "invariants.md").read_text())
    assert len(named) > 30
    sources = {path.name: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    assert not [(file, test) for file, test in named if f"def {test}(" not in sources.get(file, "")]


def test_every_invariant_is_told_once() -> None:
    found = re.findall(r"(?m)^\| ([A-Z]\d+) \|", (DOCS / "invariants.md").read_text())
    wanted = {f"{letter}{number}" for letter, count in INVARIANTS.items() for number in range(1, count + 1)}
    assert wanted <= set(found)
    assert len(found) == len(set(found))


def test_files_named_in_the_documents_exist() -> None:
    named = {
        (page.name, name)
        for page in pages()
        for name in re.findall(r"`([\w/]+\.py)`", page.read_text())
        if not name.startswith("test_")
    }
    assert len(named) > 20
    assert not [one for one in named if not any((ROOT / root / one[1]).exists() for root in ROOTS)]


def test_decisions_are_numbered_without_gaps_and_listed() -> None:
    files = sorted(path.name for path in (DOCS / "adr").glob("*.md"))
    assert [name[:4] for name in files] == [f"{number:04d}" for number in range(1, len(files) + 1)]
    listed = re.findall(r"\(adr/([\w-]+\.md)\)", (DOCS / "architecture.md").read_text())
    assert set(files) <= set(listed)
    for name in files:
        text = (DOCS / "adr" / name).read_text()
        assert all(f"**{part}.**" in text for part in ("Context", "Decision", "Consequences")), name
