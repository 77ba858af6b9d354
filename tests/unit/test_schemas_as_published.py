"""What editors are given of job files and policies: each key, bound, form and word of it.

Why     `test_schemas.py` tries files, and most bounds are of no file there. What is published stands in
        tests/golden/schemas.txt; a change of it is one that people see in their editors. Written anew by
        `BURSAR_GOLDEN=write pytest tests/unit/test_schemas_as_published.py`, and read before it is kept.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bursar.schemas import job_schema, policy_schema

GOLDEN = Path(__file__).parents[1] / "golden/schemas.txt"
MADE = {"job": job_schema, "policy": policy_schema}


def flat(value: Any, path: str = "") -> Iterator[str]:
    """A line for each single value; a list of words is one."""
    if isinstance(value, dict) and value:
        for key, each in value.items():
            yield from flat(each, f"{path}/{key}")
    elif isinstance(value, list) and value and isinstance(value[0], dict | list):
        for at, each in enumerate(value):
            yield from flat(each, f"{path}/{at}")
    else:
        yield f"{path}: {value!r}"


@pytest.mark.parametrize("of", MADE)
def test_a_schema_is_what_was_published(of: str) -> None:
    found = "".join(f"{line}\n" for line in flat(MADE[of]()) if "/description: " not in line)
    parts = re.split(r"^=== (.*)\n", GOLDEN.read_text() if GOLDEN.exists() else "", flags=re.MULTILINE)
    kept = dict(zip(parts[1::2], parts[2::2], strict=True))
    if os.environ.get("BURSAR_GOLDEN") == "write":
        kept[of] = found
        GOLDEN.write_text("".join(f"=== {each}\n{kept[each]}" for each in sorted(kept)))
    assert found == kept.get(of), "see the head of this file"
