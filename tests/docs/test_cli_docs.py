"""docs/cli.md says exactly what the commands say; run `make docs` after a change."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from bursar.cli.main import VERBS
from bursar.model import EndCause, ReasonCode
from bursar.model.ends import REMEDIES, SAID
from bursar.model.reason import MEANINGS, MEANINGS_LIVE

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/cli.md"


def test_page_is_what_help_prints() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs/generate_cli.py"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_page_about_slurm_is_what_the_tables_say() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs/generate_slurm.py"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_pages_of_the_job_file_the_policies_and_the_api_are_what_the_program_says() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs/generate_pages.py"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_every_end_reason_and_refusal_is_on_the_page_of_errors() -> None:
    page = (ROOT / "docs/errors.md").read_text()
    for kind, remedy in REMEDIES.items():
        assert remedy.partition("JOB")[0].partition("NODE")[0] in page, kind
    for code in ReasonCode:
        assert not code or f"| `{code}` | {(MEANINGS | MEANINGS_LIVE)[code]} |" in page, code
    for cause in EndCause:
        assert f"| `{cause}` | " in page, cause
    for _, told in SAID:
        assert f" | {told} |" in page
    assert (
        "| `MemoryError`, `std::bad_alloc`, `Cannot allocate memory`, `java.lang.OutOfMemoryError` | " in page
    )
    assert "| `BudgetExceeded` | `RESOURCE_EXHAUSTED` | 3 | no | A hard budget can never pay for this" in page


def test_every_call_and_message_of_the_wire_is_on_the_page_of_the_api() -> None:
    page = (ROOT / "docs/api.md").read_text()
    protos = [path for path in (ROOT / "proto").rglob("*.proto") if path.stem != "agents"]
    assert protos
    for path in protos:
        text = path.read_text()
        for name in re.findall(r"(?m)^(?:service|message) (\w+)", text):
            assert re.search(rf"(?m)^### (service|message) {name}$", page), name
        for name in re.findall(r"rpc (\w+)\(", text):
            assert re.search(rf"(?m)^\| `{name}` \| .* \| \S.* \|$", page), f"{name} says not what it does"
        for name in re.findall(r"(?m)^  (?:repeated |optional )?(?:map<[^>]+>|\w+) (\w+) = \d+;", text):
            assert f"| `{name}` | `" in page, name


def test_every_verb_has_a_section_with_an_example() -> None:
    sections = re.split(r"(?m)^### ", PAGE.read_text())[1:]
    found = {section.split("\n", 1)[0]: section for section in sections}
    assert {f"bursar {verb}" for verb in VERBS} <= set(found)
    assert not [title for title, text in found.items() if "Example:" not in text and title != "bursar sim"]
