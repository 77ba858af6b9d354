"""docs/sdk.md: its programs pass `mypy --strict`, and it names every method there is."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

from bursar.client import Client

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/sdk.md").read_text("utf-8")
HEAD = """
import bursar

async def page(client: bursar.Client, prep: bursar.Job, jobs: list[bursar.Job]) -> None:
"""


def test_the_programs_of_the_page_are_what_mypy_strict_takes(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) >= 5
    texts = [
        HEAD.replace("page", f"page{i}") + textwrap.indent(block, "    ") for i, block in enumerate(blocks)
    ]
    (tmp_path / "page.py").write_text("\n".join(texts))
    (tmp_path / "mypy.ini").write_text("[mypy]\nstrict = true\n[mypy-bursar.v1.*]\nignore_errors = true\n")
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--cache-dir", str(tmp_path / "c")]
    done = subprocess.run(
        [*command, "--explicit-package-bases", "--follow-imports=silent", "page.py"],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(ROOT / "sdk")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout


def test_the_page_names_every_method_and_no_other():
    section = PAGE.split("## All methods")[1].split("\nEach ")[0]
    said = set(" ".join(re.findall(r"`([^`]+)`", section)).split())
    assert said == {name for name in vars(Client) if not name.startswith("_")} - {"close", "address"}
