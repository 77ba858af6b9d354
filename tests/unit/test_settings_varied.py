"""Each setting of each program with values of all kinds: what becomes of them, or what is said.

Why     a setting is a default, a flag, a name in the environment, a kind and a bound; tests of one of them at
        a time do not name all. What each is given by, and what it becomes of each value, stands in
        tests/golden/settings.txt; a change of it is one that operators see. Written anew by
        `BURSAR_GOLDEN=write pytest -n0 tests/unit/test_settings_varied.py`, and read before it is kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import bursar_agent.settings
import bursar_gateway.__main__ as gateway
import bursar_web.__main__ as web
import bursard.settings
from bursar.errors import InvalidRequest

GOLDEN = Path(__file__).parents[1] / "golden/settings.txt"
TLS = {"BURSARD_TLS_CERT_FILE": "/c", "BURSARD_TLS_KEY_FILE": "/k"}
ISSUER = {
    "BURSARD_OIDC_ISSUER": "https://id.example.org",
    "BURSARD_OIDC_AUDIENCE": "bursar",
}
VALUES = (
    "", " ", "0", "1", "64", "999999999", "1000000000", "1.5", "True", "false", "auto", "off", "/a", "a,b",
    "a=b,c=d", "viewer", "operator", "none", "DEBUG", "WARNING", "json", "text", "USD", "USDX", "EUR",
    "999ms", "1s", "9s", "10s", "5m", "301s", "1h", "1MiB", "0.0.0.0:7443", "host:x", "unix:///a", "grpcs://a:7443",
    "http://a", "https://a.example.org", "ES256,RS256", "a=viewer", "a=nothing", "h100:8", "h100:65",
    "spot", "aws", "mqtt://u:p@h", "mqtt://u:p@h:x",
)  # fmt: skip
AGENT = {"BURSAR_AGENT_NAME": "n", "BURSAR_AGENT_SERVER": "unix:///s"}
Load = Callable[[list[str], dict[str, str]], Any]


def written(value: Any) -> str:
    return str(value) if isinstance(value, Path) else repr(value)


def anonymous(fate: str, value: str) -> str:
    """Without the value that was given."""
    for word in filter(None, (repr(value), f"{os.getcwd()}/{Path(value)}", f"={value}" if value else "")):
        fate = fate.replace(word, "=IT" if word[0] == "=" else "IT")
    return fate


def changed(load: Load, environ: dict[str, str], plain: Any) -> str:
    """What is another than without, or the refusal."""
    try:
        found = load([], environ).settings
    except InvalidRequest as error:
        return f"! {error.message}"
    fields = [field.name for field in dataclasses.fields(found)]
    other = [name for name in fields if getattr(found, name) != getattr(plain, name)]
    return ", ".join(f"{name}={written(getattr(found, name))}" for name in other) or "as without"


def of_a_kind(load: Load, prefix: str, base: dict[str, str], only: str = "") -> Iterator[str]:
    """Every setting whose name begins so with every value, those with one fate together."""
    plain = load([], base).settings
    for field in (field for field in dataclasses.fields(plain) if field.name.startswith(only)):
        yield f"--- {field.name} = {written(getattr(plain, field.name))}"
        fates: dict[str, list[str]] = {}
        for value in VALUES:
            fate = changed(load, base | {prefix + field.name.upper(): value}, plain)
            fates.setdefault(anonymous(fate, value), []).append(value)
        most = max(fates.values(), key=len)
        for fate, values in fates.items():
            which = "the others" if values is most else " ".join(value or "NOTHING" for value in values)
            yield f"{which}: {fate}"


def options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Each flag with all that it is."""
    for action in parser._actions:
        told = {
            name: value for name, value in vars(action).items()
            if name not in ("container", "type", "option_strings") and value not in (None, False)
        }  # fmt: skip
        kind = getattr(action.type, "__name__", "")
        yield f"{'/'.join(action.option_strings)} {type(action).__name__} {kind} {told}"


def everything() -> Iterator[str]:
    yield "=== bursard"
    yield from of_a_kind(bursard.settings.load, "BURSARD_", {})
    yield "=== bursard with a certificate"
    yield from of_a_kind(bursard.settings.load, "BURSARD_", TLS, "listen")
    yield "=== bursard with an identity provider"
    yield from of_a_kind(bursard.settings.load, "BURSARD_", ISSUER, "oidc_")
    yield "=== bursar-agent"
    yield from of_a_kind(bursar_agent.settings.load, "BURSAR_AGENT_", AGENT)
    for name, parser in (("bursar-web", web.parser()), ("bursar-gateway", gateway.parser())):
        yield f"=== {name}"
        yield from options(parser)


def test_each_setting_becomes_of_each_value_what_it_became(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("BURSAR", "XDG_", "CREDENTIALS"))]:
        if name != "BURSAR_GOLDEN":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "/home/nobody")
    found = "\n".join(everything()).replace(str(tmp_path), "HERE") + "\n"
    if os.environ.get("BURSAR_GOLDEN") == "write":
        GOLDEN.write_text(found)
    assert found == GOLDEN.read_text(), "see the head of this file"


@pytest.mark.parametrize("program", [bursard.settings, bursar_agent.settings])
def test_each_setting_is_taken_from_its_flag_and_its_line_of_the_file_as_from_the_environment(
    program: Any, tmp_path: Path
) -> None:
    base = AGENT if program is bursar_agent.settings else ISSUER
    plain = program.load([], base).settings
    file, left = tmp_path / "settings.toml", list[str]()
    for field in dataclasses.fields(plain):
        name = program.ENV_PREFIX + field.name.upper()
        fates = ((value, changed(program.load, base | {name: value}, plain)) for value in VALUES)
        value = next(
            (value for value, fate in fates if fate != "as without" and not fate.startswith("!")), None
        )
        if value is None:
            left.append(field.name)  # nothing that is good by itself
            continue
        file.write_text(f'{field.name} = "{value}"\n')
        flag = f"--{field.name.replace('_', '-')}={value}"
        without = {key: word for key, word in base.items() if key != name}
        by_name = program.load([], base | {name: value}).settings
        assert program.load([flag], without).settings == by_name, field.name
        assert program.load(["--config", str(file)], without).settings == by_name, field.name
    assert left in ([], ["listen"])
