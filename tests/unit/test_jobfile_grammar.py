"""A script that its shell cannot read is refused by line before it is submitted; nothing of it runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bursar.errors import InvalidRequest
from bursar.jobfile import grammar
from bursar.jobfile.request import job_of_file

pytestmark = pytest.mark.skipif(
    shutil.which("bash") is None, reason="no bash here: scripts are NOT read by their shell"
)
BASH = "#!/bin/bash\n"
AS_BASH = " (as bash says, after it has run all that stands above)"


def refused(text: str) -> str:
    with pytest.raises(InvalidRequest) as caught:
        grammar.notes_of_script(text, "a.sh")
    return caught.value.message


def taken(text: str) -> list[str]:
    return grammar.notes_of_script(text, "a.sh")


@pytest.mark.parametrize(
    "first", ["#!/bin/bash", "#! /usr/bin/env bash", "#!/usr/bin/env -S bash", "#!/bin/bash -l"]
)
def test_an_if_that_is_never_closed_is_refused_at_the_line_that_bash_names(first: str) -> None:
    told = "a.sh:4:1: syntax error: unexpected end of file; something above is not closed" + AS_BASH
    assert refused(f"{first}\nif true; then\n  echo a\n") == told


def test_a_quote_that_is_never_closed_is_refused_where_it_begins() -> None:
    told = "a.sh:3:1: unexpected EOF while looking for matching `\"'" + AS_BASH
    assert refused(BASH + 'echo "a"\necho "b\necho c\n') == told


def test_a_script_without_a_first_line_is_read_by_bash_which_runs_it() -> None:
    assert refused("#SBATCH -J a\ndone\n") == "a.sh:2:1: syntax error near unexpected token `done'" + AS_BASH


def test_what_is_right_is_taken_without_a_word() -> None:
    assert taken(BASH + "for i in 1 2; do echo $i; done | tee log\ncat <<EOF\nif\nEOF\n") == []


def test_nothing_of_a_script_runs_and_no_startup_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    startup = tmp_path / "startup"
    startup.write_text(f"touch {tmp_path}/started\n")
    monkeypatch.setenv("BASH_ENV", str(startup))
    monkeypatch.setenv("ENV", str(startup))
    assert taken(BASH + f"touch {tmp_path}/ran\necho $(touch {tmp_path}/ran) `touch {tmp_path}/ran`\n") == []
    assert taken(f"#!/bin/sh\ntouch {tmp_path}/ran\n") == []
    assert [*tmp_path.iterdir()] == [startup]


def test_the_file_that_the_first_line_names_is_not_run(tmp_path: Path) -> None:
    own = tmp_path / "bash"
    own.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    own.chmod(0o755)
    assert taken(f"#!{own}\ntrue\n") == []
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "text",
    [
        "#!/usr/bin/env python3\nif True:\n    pass\n",
        "#!/usr/bin/perl\nif (1) {\n",
        "#!/bin/zsh\nif true\n",
        "#!/opt/basher\nif true\n",
    ],
)
def test_other_languages_are_not_read(text: str) -> None:
    assert taken(text) == []


@pytest.mark.parametrize(
    "body",
    [
        "f() {\n  exit 1\n}\nexit 0\nnotes ( of mine\n",
        "exec python3 - $0\nprint('a'\n",
        "''':'\nexec python3 \"$0\"\n'''\nprint((1)\n",
    ],
)
def test_what_stands_below_the_end_of_a_script_is_no_part_of_it(body: str) -> None:
    assert taken(BASH + body) == []


@pytest.mark.parametrize(
    "body",
    [
        "f() {\n  exit 1\n}\nnotes ( x\n",
        "exec > log 2>&1\ntrue\ntrue\nnotes ( x\n",
        "true || exit 1\n\n\nnotes ( x\n",
    ],
)
def test_an_exit_that_may_not_be_reached_ends_no_script(body: str) -> None:
    assert refused(BASH + body) == "a.sh:5:1: syntax error near unexpected token `x'" + AS_BASH


def test_patterns_that_the_script_switches_on_are_right() -> None:
    assert taken(BASH + "shopt -s extglob\nrm -f !(keep|these)\n") == []
    assert "syntax error" in refused(BASH + "shopt -s extglob\nrm -f !(keep|these\n")


def test_words_of_bash_in_a_script_of_sh_are_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where `sh` reads less than bash, as on Debian."""
    narrow = tmp_path / "sh"
    narrow.write_text('#!/bin/bash\necho "sh: 2: Syntax error: \\"(\\" unexpected" >&2\nexit 2\n')
    narrow.chmod(0o755)
    which = shutil.which
    monkeypatch.setattr(grammar.shutil, "which", lambda name: str(narrow) if name == "sh" else which(name))
    assert taken("#!/bin/sh\na=(1 2)\n") == [
        'a.sh:2: syntax error: "(" unexpected, as the sh of this machine says; bash reads it:'
        " begin with #!/bin/bash"
    ]
    assert refused("#!/bin/sh\nif true\n").endswith("(as sh says, after it has run all that stands above)")


def test_a_here_document_that_swallows_the_script_is_refused_and_one_that_may_be_meant_is_said() -> None:
    assert refused(BASH + "cat > a <<'END'\nx\n  END \nsrun train\n") == (
        "a.sh:2:1: the here-document END is not ended by line 4: blanks stand beside the mark there, so all"
        " below is its text and nothing of it runs"
    )
    assert taken(BASH + "cat <<END\nx\n") == [
        "a.sh:2: the here-document END is not ended: all below is its text"
    ]


@pytest.mark.parametrize("lack", ["nobody", "late", "broken"])
def test_where_no_shell_answers_nothing_is_said(
    lack: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if lack == "nobody":
        monkeypatch.setattr(grammar.shutil, "which", lambda name: None)
    else:
        own = tmp_path / "bash"
        own.write_text("#!/bin/sh\n" + ("kill -9 $$\n" if lack == "broken" else "exec sleep 1000\n"))
        own.chmod(0o755)
        monkeypatch.setattr(grammar.shutil, "which", lambda name: str(own))
        monkeypatch.setattr(grammar, "READ_WITHIN_S", 0.05 if lack == "late" else 60.0)
    assert taken(BASH + "if true\n") == []


def test_lines_of_a_job_file_are_those_of_the_file() -> None:
    text = 'name: a\nsetup: "if true"\nrun: |\n  echo a\n  if true; then\n  done\n'
    with pytest.raises(InvalidRequest) as caught:
        job_of_file(text, "job.yaml", "/home/user")
    assert caught.value.message.split("\n") == [
        "job.yaml:2:1: `setup`: line 1 of it: syntax error: unexpected end of file; something above is not"
        " closed" + AS_BASH,
        "job.yaml:6:1: `run`: syntax error near unexpected token `done'" + AS_BASH,
    ]
    _, said = job_of_file("name: a\nrun: |\n  cat <<X\n  a\n", "job.yaml", "/home/user")
    assert said == ["job.yaml:3: `run`: the here-document X is not ended: all below is its text"]
