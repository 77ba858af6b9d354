"""The one reader of both daemons' settings: the strongest word wins, and a wrong key is never ignored."""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.errors import InvalidRequest
from bursar.options import add_flags, collect, helps, keys, masked, quote, to_toml


@dataclass(frozen=True, kw_only=True)
class Kettle:
    """Settings of nothing real."""

    water_ml: str = "500"
    """How much; 100% of
    it boils."""

    lid: bool = True
    place: Path = Path()
    """Where it stands."""

    friends: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)


def read(argv: list[str], environ: dict[str, str], config: Path) -> dict[str, tuple[Any, str]]:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_flags(parser, Kettle, argv, config)
    return collect(Kettle, vars(parser.parse_args(argv)), environ, "KETTLE_", config)


def test_flag_beats_environment_beats_file_and_each_value_knows_its_place(tmp_path: Path) -> None:
    path = tmp_path / "kettle.toml"
    path.write_text('water-ml = "1"\nplace = "/file"\nlid = false\n')
    found = read(["--water-ml", "3"], {"KETTLE_WATER_ML": "2", "KETTLE_PLACE": "/env", "X": "y"}, path)
    assert found == {
        "water_ml": ("3", "--water-ml"),
        "place": ("/env", "KETTLE_PLACE"),
        "lid": (False, f"{path}: lid"),
    }


def test_a_default_file_may_be_absent_but_a_named_one_may_not(tmp_path: Path) -> None:
    absent = tmp_path / "none.toml"
    assert read([], {}, absent) == {}
    with pytest.raises(InvalidRequest, match=r"none\.toml: No such file"):
        read(["--config", str(absent)], {}, absent)


def test_a_named_file_takes_the_place_of_the_default_one(tmp_path: Path) -> None:
    default, named = tmp_path / "default.toml", tmp_path / "named.toml"
    default.write_text('place = "/default"\n')
    named.write_text('water_ml = "7"\n')
    assert set(read(["--config", str(named)], {}, default)) == {"water_ml"}


@pytest.mark.parametrize(
    ("text", "environ", "message"),
    [
        ('watr_ml = "1"', {}, r"kettle\.toml: unknown setting watr_ml; did you mean water_ml\?"),
        ("xyz = 1", {}, r"unknown setting xyz; known: water_ml, lid, place, friends, labels"),
        ("lid = ", {}, r"kettle\.toml: not TOML: "),
        ("\udcff", {}, r"kettle\.toml: not TOML: "),
        ("", {"KETTLE_LIDD": "1"}, r"environment: unknown setting KETTLE_LIDD; did you mean lid\?"),
    ],
)
def test_a_wrong_key_or_file_names_place_and_remedy(
    tmp_path: Path, text: str, environ: dict[str, str], message: str
) -> None:
    path = tmp_path / "kettle.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InvalidRequest, match=message):
        read([], environ, path)


def test_the_text_under_a_field_is_its_help_and_is_read_only_on_demand() -> None:
    assert helps(Kettle) == {"water_ml": "How much; 100%% of it boils.", "place": "Where it stands."}
    parser = argparse.ArgumentParser()
    add_flags(parser, Kettle, [], Path("/etc/kettle.toml"))
    assert "boils" not in parser.format_help()
    parser = argparse.ArgumentParser()
    add_flags(parser, Kettle, ["--help"], Path("/etc/kettle.toml"))
    text = " ".join(parser.format_help().split())
    assert "100% of it boils" in text
    assert "/etc/kettle.toml" in text
    assert all(f"--{name.replace('_', '-')}" in text for name in keys(Kettle))


def test_printed_settings_are_the_same_toml() -> None:
    kettle = Kettle(lid=False, friends=("a", 'b"'), labels={"z": "1", "a b": "\\"})
    assert tomllib.loads(to_toml(kettle)) == {
        "water_ml": "500",
        "lid": False,
        "place": "",
        "friends": ["a", 'b"'],
        "labels": {"a b": "\\", "z": "1"},
    }


def test_passwords_of_addresses_are_masked_wherever_they_stand_and_nothing_else() -> None:
    text = "at mqtt://u:p/w@h@b:1, https://x:y@z and http://h/a@b; unix:///run/s, k:v@w"
    assert masked(text) == "at mqtt://u:***@b:1, https://x:***@z and http://h/a@b; unix:///run/s, k:v@w"


@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_every_text_survives_quoting(text: str) -> None:
    assert tomllib.loads(f"x = {quote(text)}") == {"x": text}
