"""Tables, CSV, sorting and the escape of hostile text."""

import io
import json
import sys

import pytest

from bursar.cli import output, texts
from bursar.cli.output import Column, Output, table_text
from bursar.cli.terminal import LogPrinter, clean, money_text, seconds_text, size_text, time_text
from bursar.errors import InvalidRequest
from bursar.tables import Head, cells, render

USD = {"amount": "12.345678900", "currency": "USD"}
ROWS = [
    {"id": "job_aaaaaaaaaaaaaaaa", "name": "b", "n": 10, "cost": USD},
    {"id": "job_bbbbbbbbbbbbbbbb", "name": "a", "n": 9, "cost": {**USD, "amount": "100.000000000"}},
    {"id": "job_cccccccccccccccc", "name": "c", "n": None, "cost": None},
]
COLUMNS = (Column("id"), Column("name", shrink=True), Column("n", right=True), Column("cost"))


def emitted(capsys, rows=ROWS, **wishes):
    output.emit(rows, COLUMNS, Output(**wishes))
    return capsys.readouterr().out


def test_json_is_one_document_whatever_the_rows(capsys):
    assert json.loads(emitted(capsys, format="json")) == ROWS
    assert json.loads(emitted(capsys, rows=[], format="json")) == []


def test_json_lines_hold_one_row_each(capsys):
    assert [json.loads(line) for line in emitted(capsys, format="jsonl").splitlines()] == ROWS


def test_yaml_holds_the_same_document(capsys):
    import yaml

    assert yaml.safe_load(emitted(capsys, format="yaml")) == ROWS


def test_csv_has_bare_amounts_and_a_currency(capsys):
    lines = emitted(capsys, format="csv").splitlines()
    assert lines[0] == "id,name,n,cost,currency"
    assert lines[1] == "job_aaaaaaaaaaaaaaaa,b,10,12.345678900,USD"
    assert lines[3] == "job_cccccccccccccccc,c,,,"


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@sum", "\tx", "\rx"])
def test_csv_text_is_never_a_formula(text):
    assert output.csv_cell(text) == "'" + text
    assert output.csv_cell(-1) == "-1"
    assert output.csv_cell({"amount": "-1.000000000", "currency": "USD"}) == "-1.000000000"


def test_what_holds_more_than_one_thing_is_told_by_its_words(capsys):
    reason = {"code": "Held", "message": "the job is on hold", "remedy": "release it", "facts": {}}
    end = {"cause": "failed", "message": "failed: exit code 3", "remedy": "", "rank": 0}
    many = [{"n": 1, "x": None, "cost": USD}, {"n": 2}]
    rows = [{"a": reason, "b": many, "c": {"k": ["x", "y"]}, "d": end}]
    output.emit(rows, COLUMNS, Output(columns=("a", "b", "c", "d")))
    (_, line) = capsys.readouterr().out.splitlines()
    assert line.split("  ") == [
        "Held: the job is on hold", "n=1,cost=12.34 USD; n=2", "k=x,y", "failed: failed: exit code 3",
    ]  # fmt: skip


def test_rows_are_sorted_by_value_and_unknown_comes_last(capsys):
    assert emitted(capsys, quiet=True, sort_by="cost").split() == [row["id"] for row in ROWS]
    assert [row["n"] for row in output.ordered(ROWS, COLUMNS, "n")] == [9, 10, None]
    assert [row["n"] for row in output.ordered(ROWS, COLUMNS, "-n")] == [10, 9, None]


def test_columns_pick_fields_of_the_json_object_too(capsys):
    assert emitted(capsys, columns=("name", "cost.amount")).splitlines()[1].split() == [
        "b",
        "12.345678900",
    ]
    picked = json.loads(emitted(capsys, columns=("n",), format="json"))
    assert picked == [{"n": 10}, {"n": 9}, {"n": None}]


@pytest.mark.parametrize("wish", [{"sort_by": "nmae"}, {"columns": ("nmae",)}])
def test_wrong_column_names_the_nearest(capsys, wish):
    with pytest.raises(InvalidRequest, match="'name'"):
        emitted(capsys, **wish)


def test_piped_table_is_whole(capsys):
    long = [{**ROWS[0], "name": "n" * 300}]
    text = emitted(capsys, rows=long)
    assert "n" * 300 in text
    assert "job_aaaaaaaaaaaaaaaa" in text
    assert "\x1b" not in text


def test_narrow_table_cuts_text_then_drops_columns_but_keeps_ids():
    heads = [Head("ID"), Head("NAME", shrink=True), Head("A", drop=1), Head("B", drop=2)]
    rows = [["job_aaaaaaaaaaaaaaaa", "n" * 50, "a" * 20, "b" * 20]]
    lines = ["  ".join(line) for line in render(heads, rows, 60)]
    assert all(cells(line) <= 60 for line in lines)
    assert "job_aaaaaaaaaaaaaaaa" in lines[1]
    assert "…" in lines[1]
    assert "B" not in lines[0]
    assert "A" in lines[0]


def test_wide_characters_line_up():
    lines = render([Head("N"), Head("X")], [["日本", "1"], ["ab", "2"]], None)
    assert {cells(line[0]) for line in lines} == {4}


def test_control_bytes_are_shown_not_obeyed():
    assert clean("a\x1b[31mb\x9b\n\u202ec") == "a\\x1b[31mb\\x9b\\n\\u202ec"
    table = output.table_text([{"id": "\x1b]0;x\x07"}], (Column("id"),), None)
    assert "\x1b" not in table


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_log_on_a_terminal_escapes_controls_and_joins_split_characters():
    screen = Terminal()
    printer = LogPrinter(screen)
    text = "é\x1b[2J 50%\r100%\n".encode()
    for i in range(len(text)):
        printer.write(text[i : i + 1])
    printer.write(b"\xff")
    assert screen.getvalue() == "é\\x1b[2J 50%\r100%\n\\xff"


def test_log_in_a_pipe_is_the_very_bytes():
    binary = io.BytesIO()
    pipe = io.TextIOWrapper(binary)
    data = bytes(range(256))
    LogPrinter(pipe).write(data)
    assert binary.getvalue() == data


def test_human_forms():
    assert money_text(USD) == "12.35 USD"
    assert money_text({"amount": "0.000000001", "currency": "USD"}) == "0.000000001 USD"
    assert money_text({"amount": "0.001500000", "currency": "USD"}) == "0.001500 USD"
    assert money_text({"amount": "-1234.500000000", "currency": "EUR"}) == "-1,234.50 EUR"
    assert money_text(None) == "unknown"
    assert seconds_text(7500) == "2h05m"
    assert seconds_text(None) == "-"
    assert size_text(0) == "-"
    assert time_text("2026-11-21T08:00:00.123456Z") == "2026-11-21 08:00:00Z"
    assert time_text(None) == "-"


def test_amounts_of_a_table_have_six_decimals_at_most_and_none_is_shown_as_nothing():
    rows = [{"cost": {"amount": amount, "currency": "USD"}} for amount in (
        "0.000000000", "0.000000112", "0.000001000", "-0.000000112", "0.500000000",
    )]  # fmt: skip
    table = table_text(rows, (Column("cost", right=True),), None)
    assert [line.strip() for line in table.splitlines()[1:]] == [
        "0.000000 USD", "<0.000001 USD", "0.000001 USD", ">-0.000001 USD", "0.500000 USD",
    ]  # fmt: skip


def test_a_column_that_wraps_keeps_its_longest_word_and_leaves_its_neighbours_room():
    columns = (Column("number"), Column("name", wrap=True, drop=1), Column("why", wrap=True, least=22))
    rows = [{"number": 7, "name": "train-a", "why": "2 failed 2 succeeded"}]
    assert table_text(rows, columns, 28).splitlines() == [
        "NUMBER  NAME     WHY",
        "7       train-a  2 failed 2",
        "                 succeeded",
    ]
    assert table_text(rows, columns, 25).splitlines() == [
        "NUMBER  WHY",
        "7       2 failed 2",
        "        succeeded",
    ]


def test_values_and_paragraphs_go_on_below_on_a_narrow_terminal(monkeypatch):
    pairs = [("cause", "one two three four five"), ("path", "/a/path/that/is/longer/than/it"), ("none", "")]
    long = "a sentence of more words than fit into one line of forty columns"
    whole = "cause  one two three four five\npath   /a/path/that/is/longer/than/it"
    assert texts.pairs_text(pairs) == whole
    monkeypatch.setattr(texts, "is_terminal", lambda stream: True)
    monkeypatch.setattr(texts, "width", lambda: 28)
    assert texts.pairs_text(pairs) == (
        "cause  one two three four\n       five\npath   /a/path/that/is/longer/than/it"
    )
    assert texts.wrapped(long, "  ").splitlines() == [
        "  a sentence of more words", "  than fit into one line of", "  forty columns",
    ]  # fmt: skip
    monkeypatch.setattr(texts, "width", lambda: 200)
    assert texts.wrapped(long) == long
    assert max(map(len, texts.wrapped(f"{long} {long}").splitlines())) <= 80
    monkeypatch.setattr(texts, "width", lambda: 26)  # too narrow for a word a line
    assert texts.pairs_text(pairs) == whole


def test_a_line_is_no_wider_than_the_terminal_and_whole_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    line = "note: 2 clusters run here; this is the newest, /a/path/of-it"
    assert texts.within_terminal(line, sys.stderr) == line
    monkeypatch.setattr(texts, "is_terminal", lambda stream: stream is sys.stderr)
    assert texts.within_terminal(line, sys.stderr) == (
        "note: 2 clusters run here; this is the\nnewest, /a/path/of-it"
    )
    assert texts.within_terminal(line, sys.stdout) == line
