"""What is added to a line of the log never takes the place of what the line says."""

from __future__ import annotations

import ast
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bursar_agent.__main__ import ExtraFormatter
from bursard import logs

ROOT = Path(__file__).parents[2]
ROOMS = ("sdk", "policies", "daemon", "agents", "web", "gateway")
TAKEN = logs.RESERVED | frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def added() -> Iterator[tuple[str, ast.Call, list[str]]]:
    """Each call with `extra={...}`: where it is, the call, and the names in it."""
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            text = path.read_text()
            for call in ast.walk(ast.parse(text)) if "extra={" in text else ():
                if isinstance(call, ast.Call):
                    for word in call.keywords:
                        if word.arg == "extra" and isinstance(word.value, ast.Dict):
                            keys = [key.value for key in word.value.keys if isinstance(key, ast.Constant)]
                            yield f"{path.relative_to(ROOT)}:{call.lineno}", call, [str(key) for key in keys]


def test_no_call_adds_what_the_line_has_a_name_for_itself() -> None:
    found, wrong = 0, []
    for where, call, keys in added():
        found += 1
        traced = any(word.arg == "exc_info" for word in call.keywords) or (
            isinstance(call.func, ast.Attribute) and call.func.attr == "exception"
        )
        taken = TAKEN | {"error"} if traced else TAKEN
        wrong += [f"{where}: {key}" for key in keys if key in taken]
    assert wrong == []
    assert found > 100


@pytest.mark.parametrize("name", sorted(logs.RESERVED))
def test_a_line_keeps_its_own_words_whatever_is_added(name: str) -> None:
    made = logging.makeLogRecord(
        {"msg": "it was said", "name": "bursard.x", "levelname": "WARNING", name: 121}
    )
    bare = logging.makeLogRecord({"msg": "it was said", "name": "bursard.x", "levelname": "WARNING"})
    made.created = bare.created
    line = json.loads(logs.JsonFormatter().format(made))
    assert line == {**json.loads(logs.JsonFormatter().format(bare)), f"{name}_": 121}


def test_a_traceback_keeps_its_place_beside_an_error_that_was_added() -> None:
    try:
        raise ValueError("of this")
    except ValueError:
        made = logging.makeLogRecord({"msg": "x", "exc_info": sys.exc_info(), "error": "added"})
    line = json.loads(logs.JsonFormatter().format(made))
    assert line["error"].endswith("ValueError: of this")
    assert line["error_"] == "added"


def test_an_agents_line_begins_with_its_sentence_whatever_is_added() -> None:
    made = logging.makeLogRecord({"msg": "it was said", "event": 121, "level": 1})
    assert ExtraFormatter("%(message)s").format(made) == "it was said  event=121 level=1"
