"""Writes docs/cli.md from what every command says of itself.

Run     make docs  (python docs/generate_cli.py); with --check it only says whether the page is true.
Why     a page that people keep by hand is wrong one release later.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click
from click.testing import CliRunner

from bursar.cli.main import SECTIONS, cli

PAGE = Path(__file__).parent / "cli.md"
HEAD = """# The command line

Written by `make docs` from `--help`; a test fails when this page and the program differ. Exit codes: 0 done,
1 the job or a check failed, 2 the command line or a file is wrong, 3 refused (budget, quota, permission),
4 not found, 5 the server cannot be reached, 124 `wait` ran past `--timeout`.
"""


def commands() -> Iterator[tuple[str, list[str]]]:
    """Section and words of every command, groups before what is in them."""
    context = click.Context(cli, info_name="bursar")
    for section, verbs in SECTIONS.items():
        for verb in verbs:
            yield section, [verb]
            command = cli.get_command(context, verb)
            if isinstance(command, click.Group):
                for name in command.list_commands(context):
                    yield section, [verb, name]


def help_of(words: list[str]) -> str:
    """What `bursar WORDS --help` prints, 80 columns wide, on any terminal."""
    environ = {"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}
    runner = CliRunner(env=environ)
    done = runner.invoke(cli, [*words, "--help"], prog_name="bursar", terminal_width=80, color=False)
    if done.exit_code != 0 and words == ["sim"]:
        # The simulator answers --help itself; where the daemon is not installed there is only this.
        verb = cli.get_command(click.Context(cli), "sim")
        return inspect.cleandoc(verb.help or "") if verb else ""
    if done.exit_code != 0:
        raise SystemExit(f"bursar {' '.join(words)} --help: exit code {done.exit_code}\n{done.output}")
    lines = (line.rstrip() for line in done.output.rstrip().splitlines())
    return "\n".join(lines)


def page() -> str:
    """The whole page."""
    parts, current = [HEAD, f"```text\n{help_of([])}\n```\n"], ""
    for section, words in commands():
        if section != current:
            parts.append(f"## {section}\n")
            current = section
        parts.append(f"### bursar {' '.join(words)}\n\n```text\n{help_of(words)}\n```\n")
    return "\n".join(parts)


def main() -> int:
    """Write, or with --check compare: 1 when the page is out of date."""
    os.environ.pop("BURSAR_SERVER", None)
    text = page()
    if "--check" in sys.argv[1:]:
        same = PAGE.exists() and PAGE.read_text() == text
        if not same:
            print("docs/cli.md is not what the commands say: run make docs", file=sys.stderr)
        return 0 if same else 1
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
