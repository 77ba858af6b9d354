"""The strict YAML reader: what it refuses, where it says so, and that it never guesses a type."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.errors import InvalidRequest, NotBuilt, PolicyInvalid
from bursar.yamlfile import (
    BYTES_MAX,
    Faults,
    Fields,
    Node,
    load_yaml,
    nearest,
    raise_if_any,
    read_bool,
    read_decimal,
    read_duration,
    read_instant,
    read_int,
    read_items,
    read_money,
    read_money_per,
    read_percent,
    read_project,
    read_size,
    read_string,
)


def scalar(text: str) -> tuple[Node, Faults]:
    faults = Faults("f.yaml")
    (root,) = load_yaml(f"v: {text}\n", faults)
    assert not faults, faults.found
    return root.entries["v"], faults


@pytest.mark.parametrize("text", ["no", "on", "12:30:45", "010", "1e3", "0x10", "1_000", "2026-01-02"])
def test_scalars_stay_the_text_that_was_written(text: str) -> None:
    node, faults = scalar(text)
    assert read_string(node, faults) == text
    assert not faults


@pytest.mark.parametrize("text", ["010", "0x10", "1_000", "1e3", "1.0", "٣", "no", "-010"])
def test_only_plain_decimal_digits_are_a_whole_number(text: str) -> None:
    node, faults = scalar(text)
    assert read_int(node, faults) is None
    assert "is not a whole number" in faults.found[0].message


@pytest.mark.parametrize("text", ["9" * 19, "-" + "9" * 30, "+1" + "0" * 18])
def test_a_number_of_too_many_digits_is_told_as_such(text: str) -> None:
    node, faults = scalar(text)
    assert read_int(node, faults) is None
    assert faults.found[0].message == f"'{text}' has more digits than any number here"


def test_readers_give_exact_values() -> None:
    cases = [
        (read_int, "-3", -3),
        (read_decimal, "0.085", Decimal("0.085")),
        (read_bool, "true", True),
        (read_duration, "1h30m", 5_400_000_000),
        (read_percent, "5.4%", Decimal("0.054")),
        (read_size, "80GB", 80 * 10**9),
        (read_size, "2GiB", 2 * 2**30),
        (read_instant, "1970-01-02", 86_400_000_000),
        (read_project, "NLP/fine-tune", "nlp/fine-tune"),
    ]
    for read, text, value in cases:
        node, faults = scalar(text)
        assert read(node, faults) == value, text  # type: ignore[operator]
    node, faults = scalar("0.085 USD/kWh")
    money = read_money_per(node, faults, "kWh")
    assert money is not None
    assert (money.nanos, money.currency) == (85_000_000, "USD")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("-5 USD", "0 or more"),
        ("5", "is not an amount of money"),
        ("5 usd", "is not an amount of money"),
        ("1e5 USD", "is not an amount of money"),
        (".inf USD", "is not an amount of money"),
        ("0.0000000001 USD", "'0.0000000001' has more than 9 decimal places"),
        (f"1.{'0' * 36}1 USD", "has more than 9 decimal places"),
        ("1000000000000001 USD", "is out of range: the largest amount is 1000000000000000"),
        ("1000000000000000.1 USD", "is out of range: the largest amount is 1000000000000000"),
        ("[1, 2]", "found a sequence"),
        ("null", "has no value"),
    ],
)
def test_wrong_money_is_refused_with_a_reason(text: str, word: str) -> None:
    node, faults = scalar(text)
    assert read_money(node, faults) is None
    assert word in faults.found[0].message


@pytest.mark.parametrize("path", ["", "/a", "a/", "a//b", "../x", "a b", "é", "a/" * 8 + "b", "a" * 201])
def test_wrong_project_paths_are_refused(path: str) -> None:
    node, faults = scalar(f'"{path}"')
    assert read_project(node, faults) is None
    assert faults


def test_a_quoted_null_is_a_word_and_a_bare_one_is_nothing() -> None:
    node, faults = scalar('"null"')
    assert read_string(node, faults) == "null"
    node, faults = scalar("")
    assert read_string(node, faults) is None


def test_every_fault_is_reported_at_once_with_its_place() -> None:
    faults = Faults("job.yaml")
    (root,) = load_yaml("nmae: x\ninner:\n  - {limit: 5}\n  - {limt: 5 USD}\n", faults)
    fields = Fields(root, faults, ("name", "inner"))
    fields.string("name", required=True)
    for item in fields.items("inner"):
        Fields(item, faults, ("limit",)).money("limit")
    with pytest.raises(PolicyInvalid) as caught:
        raise_if_any(faults, error=PolicyInvalid)
    found = [(f.line, f.column, f.field, f.nearest) for f in caught.value.faults]
    assert found == [
        (1, 1, "nmae", "name"),
        (1, 1, "name", None),
        (3, 13, "inner[0].limit", None),
        (4, 6, "inner[1].limt", "limit"),
    ]
    assert caught.value.message.count("\n") == 3
    assert "job.yaml:1:1: nmae: unknown key 'nmae'; did you mean 'name'?" in caught.value.message


def test_only_unbuilt_parts_raise_not_built() -> None:
    node, faults = scalar("x")
    faults.not_built(node, "the thing", instead="leave it out")
    with pytest.raises(NotBuilt, match="part of the contract, not built yet; leave it out"):
        raise_if_any(faults, error=PolicyInvalid)
    faults.add(node, "and something else")
    with pytest.raises(PolicyInvalid) as caught:
        raise_if_any(faults, error=PolicyInvalid)
    assert [f.not_built for f in caught.value.faults] == [True, False]


@pytest.mark.parametrize(
    ("text", "word", "place"),
    [
        ("a: &x 1\n", "anchors", (1, 4)),
        ("a: 1\nb: *x\n", "aliases", (2, 4)),
        ("a: !!str 1\n", "tags", (1, 4)),
        ("a: !python/object:os.system 1\n", "tags", (1, 4)),
        ("<<: {a: 1}\n", "merge keys", (1, 1)),
        ("a: 1\nb: 2\na: 3\n", "given twice, first on line 1", (3, 1)),
        ("? [a]\n: 1\n", "a key must be a plain word", (1, 3)),
        ("%YAML 1.1\n---\na: 1\n", "directives", (1, 1)),
        ("a: [1, 2\n", "not YAML", (2, 1)),
        ("a:\tb: c\n", "not YAML", (1, 5)),
        ("[" * 60_000, "nested deeper", (1, 21)),
        ("{a: " * 15_000, "nested deeper", (1, 81)),
        ("- " * 30_000, "nested deeper", (1, 41)),
        ("a: \x07\n", "control character U+0007", (1, 4)),
        (b"a: 1\nb: \xff\n", "not UTF-8", (2, 4)),
        (b"\x00\x01\x02", "control character", (1, 1)),
        ("a: 1\n" + "#" * BYTES_MAX, "at most 65536", (1, 1)),
        ('a: "\\ud800"\n', "not YAML", (1, 7)),
    ],
)
def test_dangerous_or_broken_files_are_refused_with_their_place(
    text: str | bytes, word: str, place: tuple[int, int]
) -> None:
    faults = Faults("f.yaml")
    load_yaml(text, faults)
    assert word in faults.found[0].message
    assert (faults.found[0].line, faults.found[0].column) == place


def test_billion_laughs_stays_small() -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60)]
    faults = Faults("f.yaml")
    load_yaml("\n".join(lines), faults)
    assert len(faults.found) == 60 + 2 * 59


def test_marks_and_documents_survive_a_byte_order_mark_and_several_documents() -> None:
    faults = Faults("f.yaml")
    roots = load_yaml("\ufeffa: 1\n---\n---\nb: [1, {c: 2}]\n".encode(), faults)
    assert not faults
    assert [list(root.entries) for root in roots] == [["a"], ["b"]]
    deep = roots[1].entries["b"].items[1].entries["c"]
    assert (deep.line, deep.column, deep.path) == (4, 12, "b[1].c")


@pytest.mark.parametrize(
    ("word", "choice"), [("tim_limit", "time_limit"), ("TIME-LIMIT", "time_limit"), ("zzz", None)]
)
def test_the_nearest_name_is_offered_only_when_near(word: str, choice: str | None) -> None:
    assert nearest(word, ("time_limit", "name")) == choice


@given(st.text(max_size=300) | st.binary(max_size=300))
def test_any_input_gives_a_tree_or_faults_and_one_line_each(text: str | bytes) -> None:
    faults = Faults("f.yaml")
    roots = load_yaml(text, faults)
    for root in roots:
        fields = Fields(root, faults, ("a",))
        fields.money("a")
    assert all(len(str(f).splitlines()) == 1 for f in faults.found)
    if faults:
        with pytest.raises(InvalidRequest):
            raise_if_any(faults, error=InvalidRequest)


@given(st.recursive(st.integers(0, 9), lambda inner: st.lists(inner, max_size=4), max_leaves=20))
def test_flow_lists_are_read_back(value: object) -> None:
    def back(node: Node) -> object:
        if node.kind == "scalar":
            return read_int(node, faults)
        return [back(item) for item in read_items(node, faults)]

    faults = Faults("f.yaml")
    (root,) = load_yaml(str(value), faults)
    assert back(root) == value
