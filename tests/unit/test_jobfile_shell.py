"""What a script reads, runs and sets: as bash would see it, without running it."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.jobfile.shell import scan


def trusting(text: str) -> list[str]:
    return [read.name for read in scan(text).trusting()]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("echo $X", ["X"]),
        ("echo ${X}", ["X"]),
        ('echo "a $X b"', ["X"]),
        ("echo a$X.b", ["X"]),
        ("echo $(ls $X)", ["X"]),
        ("echo `ls $X`", ["X"]),
        ('x="`date`" # $N\necho $X', ["X"]),
        ("echo `ls a`b$X `ls $Y` # $N", ["X", "Y"]),
        ("echo `ls $X`$Y", ["X", "Y"]),
        ("echo `a=(b`; echo $X", ["X"]),
        ("x=$(cat <<E\n$X\nE\n); echo $Y", ["X", "Y"]),
        ('echo "$(ls "$X")"', ["X"]),
        ("echo $((10 + X % 5))", ["X"]),
        ("(( X > 0 )) && echo", ["X"]),
        ("echo ${#X} ${X%%.*} ${X/a/b}", ["X", "X", "X"]),
        ("echo ${Y:-$X}", ["X"]),
        ("cat <<EOF\na $X\nEOF\n", ["X"]),
        ("cat <<-EOF\n\t$X\n\tEOF\necho $Z", ["X", "Z"]),
        ("hosts=( $(scontrol show hostnames $X) )", ["X"]),
        ("A=$X cmd", ["X"]),
        ("trap 'rm -rf ${X}/*' EXIT", ["X"]),
        ("srun bash -c 'echo $X'", ["X"]),
        ("bash -lc 'echo $X'", ["X"]),
        ("eval 'echo $X'", ["X"]),
        ("f() {\n echo $X\n}", ["X"]),
        ("case $X in\n a) echo $Y;;\n b|c) echo $Z;;\nesac; echo $W", ["X", "Y", "Z", "W"]),
        ("V=$(case $X in a) echo b;; esac); echo $Y", ["X", "Y"]),
        ("cmd > $X 2>&1 <<< $Y", ["X", "Y"]),
        ("diff <(sort $X) >(cat $Y)", ["X", "Y"]),
        ('echo "${A:-"$X"}"', ["X"]),
        ("X=$X:more", ["X"]),
        ("echo a\\\n $X", ["X"]),
    ],
)
def test_a_variable_that_is_read_is_found(text: str, names: list[str]) -> None:
    assert trusting(text) == names


@pytest.mark.parametrize(
    "text",
    [
        "# $X",
        "echo a # $X",
        "echo 'a $X b'",
        "echo \\$X",
        'echo "\\$X"',
        "awk '{print $X}' file",
        "cat <<'EOF'\n$X\nEOF\n",
        'cat <<"EOF"\n$X\nEOF\n',
        "cat <<\\EOF\n$X\nEOF\n",
        "cat <<'A' <<'B'\n$X\nA\n$X\nB\n",
        "echo ${X:-0} ${X-0} ${X:+a} ${X+a} ${X:?none} ${X?none}",
        ": ${X:=5}; echo $X",
        "X=1\necho $X",
        "export X=1; echo $X",
        "local -i X=1; echo $X",
        "for X in a b; do echo $X; done",
        "read -r X; echo $X",
        'if [ -n "$X" ]; then echo $X; fi',
        "[ -z $X ] || echo $X",
        "[[ -v X ]] && echo $X",
        'test -n "$X" && echo $X',
        '[ "$X" = "" ] || echo $X',
        '[ "$X" ] && echo $X',
        "[[ -n $X && -n $Y ]] && echo $Y",
        "(( X = 3 )); echo $X",
        "echo $'$X' $1 $@ $? $$",
    ],
)
def test_what_is_no_reading_or_is_provided_for_is_not(text: str) -> None:
    assert trusting(text) == []


def test_a_test_of_its_value_takes_it_to_be_set() -> None:
    assert trusting("[ $X -eq 0 ] && echo") == ["X"]
    assert trusting('if [[ $X == "gpu" ]]; then :; fi') == ["X"]


def test_what_is_set_below_is_not_set_above() -> None:
    assert trusting("echo $X\nX=1\necho $X") == ["X"]


@pytest.mark.parametrize(
    "text",
    [
        "srun python x",
        "clear; srun a",
        "a | srun b",
        "a && srun b",
        "if srun a; then b; fi",
        "while true; do srun a; done",
        "! srun a",
        "x=$(srun a)",
        "A=1 srun b",
        "time srun a",
        "exec srun a",
        "nohup srun a &",
        "timeout 1h srun a",
        "( srun a )",
        "{ srun a; }",
        "f() { srun a; }",
        "bash -c 'srun a'",
        "trap 'srun a' EXIT",
        "case $1 in\n a) srun b;;\nesac",
        "srun \\\n -n 2 a",
        'echo "$(srun a)"',
    ],
)
def test_a_command_is_found_wherever_it_stands(text: str) -> None:
    assert scan(text).runs("srun") is not None


@pytest.mark.parametrize(
    "text",
    [
        "# srun a",
        "echo srun a",
        "echo 'srun a'",
        "cat <<EOF\nsrun a\nEOF\n",
        "srun() { echo; }\nsrun a",
        "srun () { echo; }\nsrun a",
        "function srun { echo; }\nsrun a",
        "command -v srun && srun a",
        "which srun >/dev/null && srun a",
        "if type srun; then srun a; fi",
        "mysrun a; srun2 b",
        "MPI=srun",
        "args=( srun )",
    ],
)
def test_a_word_that_is_no_command_is_not(text: str) -> None:
    assert scan(text).runs("srun") is None


def test_a_command_has_its_own_words_alone() -> None:
    found = scan("f() { a b; }\nc d; A=1 e\ncase $1 in\n x) g h;;\nesac; (( N > 0 )) && i")
    words = [command.words for command in found.commands]
    assert words == [("a", "b"), ("c", "d"), ("e",), ("g", "h"), ("i",)]


def test_places_are_those_of_the_text() -> None:
    text = "a\ntrap 'rm $X' EXIT\nsrun b $Y\n"
    found = scan(text)
    assert [text[read.offset :][:2] for read in found.reads] == ["$X", "$Y"]
    where = found.runs("srun")
    assert where is not None
    assert text[where:].startswith("srun b")


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="aX$(){}[]'\"`\\#;|&<>=-:! \n", max_size=60))
def test_no_text_confuses_it_for_ever(text: str) -> None:
    for read in scan(text).reads:
        assert 0 <= read.offset <= len(text)


def test_deep_nesting_ends() -> None:
    for opening in ("$(", "${a:-", "(", "`", '"$(', "$((", "bash -c '", "x=(", "<("):
        scan(opening * 5_000)


@pytest.mark.parametrize("piece", ["$X ", "a(", "? ", "<<A ", "case a in ", "f() { :; }\n", "'$('", "x=1 "])
def test_what_is_long_takes_work_that_grows_with_it(piece: str) -> None:
    """Lines run, not seconds: a loaded machine has none to spare."""

    def lines_run(times: int) -> int:
        count = 0

        def trace(frame: Any, event: str, _: Any) -> Any:
            nonlocal count
            count += event == "line"
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            scan(piece * times)
        finally:
            sys.settrace(before)
        return count

    assert lines_run(800) < 5 * lines_run(200)
