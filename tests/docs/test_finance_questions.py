"""The list of what finance asks: each is one command that there is, and books answer it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
from money_daemon import BUDGET, COST_MODEL, Daemon, in_a_daemon

from bursar.cli.main import cli
from bursar.v1 import money_pb2 as pb

PAGE = Path(__file__).parents[2] / "docs/finance.md"
ROWS = re.findall(r"^\| ([A-Z][^|]+) \| `bursar ([^`|]+)` \|$", PAGE.read_text(), re.MULTILINE)


def command_of(words: list[str]) -> tuple[click.Command, list[str]]:
    command: click.Command = cli
    while isinstance(command, click.Group):
        found = command.get_command(click.Context(command), words[0])
        assert found is not None, words
        command, words = found, words[1:]
    return command, words


def test_there_are_ten_questions_and_more_and_none_is_asked_twice() -> None:
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    assert len(ROWS) == len(lines) - 1 >= 10
    assert len({question for question, _ in ROWS}) == len(ROWS)


@pytest.mark.parametrize(("question", "line"), ROWS, ids=[line for _, line in ROWS])
def test_each_is_a_command_line_that_parses(
    question: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prices.yaml").write_text("")
    command, words = command_of(shlex.split(line))
    command.make_context(line, words)


def test_books_answer_what_is_asked_of_them() -> None:
    async def story(daemon: Daemon) -> None:
        await daemon.apply(COST_MODEL, BUDGET)
        daemon.node("a")
        daemon.run(hours=2, project="research/vision", model="m")
        answered = 0
        for _, line in ROWS:
            verb, *words = shlex.split(line)
            if verb == "cost":
                by = words[words.index("--by") + 1].split(",")
                found = await daemon.money.Cost(pb.CostRequest(by=by, period="2026-11"), None)
                assert sum(row.nanos for row in found.rows) == found.total.nanos > 0
                answered += 1
            elif verb == "report" and words[0] not in ("reconcile", "focus"):
                text, _ = await daemon.report(kind=words[0], format="text")
                assert b"2026-11" in text
                answered += 1
        assert answered >= 10

    in_a_daemon(story)
