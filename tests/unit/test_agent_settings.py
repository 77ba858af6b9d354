"""Settings of the agent: three sources, one order, and a wrong key is never ignored."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec
import pytest

from bursar.errors import InvalidRequest
from bursar.model import NodeFacts
from bursar.model.constraints import PLACE_FIELDS
from bursar.options import to_toml
from bursar_agent.__main__ import main
from bursar_agent.settings import TEXT_CHARS_MAX, Settings, load
from bursard.fleet import door

NODE = NodeFacts(name="n", cpu_milli=8_000, memory_bytes=64 << 30)


def write(folder: Path, text: str) -> str:
    path = folder / "agent.toml"
    path.write_text(text)
    return str(path)


def test_flags_beat_environment_beats_file(tmp_path: Path) -> None:
    config = write(tmp_path, 'pool = "file"\nrack = "file"\nzone = "file"\n')
    environ = {"BURSAR_AGENT_POOL": "env", "BURSAR_AGENT_RACK": "env", "OTHER": "x"}
    settings = load(["--config", config, "--pool", "flag"], environ).settings
    assert (settings.pool, settings.rack, settings.zone) == ("flag", "env", "file")


@pytest.mark.parametrize(
    ("argv", "environ", "words"),
    [
        ([], {"BURSAR_AGENT_SERVR": "x"}, ["BURSAR_AGENT_SERVR", "did you mean server"]),
        (["--name", "a/b"], {}, ["--name", "node name"]),
        (["--server", "http://x"], {}, ["--server", "unix:///path"]),
        (["--server", "grpcs://h:1"], {}, ["--server: grpcs://", "--token-file"]),
        (["--server", "grpcs://pw@h:1"], {}, ["--server: an address has nothing before its host"]),
        (["--cpus", "many"], {}, ["--cpus", "'many'"]),
        (["--cpus", "0"], {}, ["--cpus"]),
        (["--cpus", "NaN"], {}, ["--cpus"]),
        (["--memory-bytes", "-1"], {}, ["--memory-bytes", "64GiB"]),
        (["--simulate-gpus", "H100:0"], {}, ["--simulate-gpus", "1 to 64"]),
        (["--simulate-gpus", "8xH100"], {}, ["--simulate-gpus", "H100:8"]),
        (["--labels", "a"], {}, ["--labels", "k=v"]),
        (["--market", "cheap"], {}, ["--market", "on-demand, spot, committed-1y or committed-3y"]),
        (["--log-level", "loud"], {}, ["--log-level", "DEBUG"]),
        (["--log-level", "info"], {}, ["--log-level", "DEBUG, INFO, WARNING or ERROR"]),
        (["--server", "grpc://u:pw@h"], {}, ["--server: 'grpc://u:***@h' is no server address"]),
        (["--metadata-url", "http://h:70000"], {}, ["--metadata-url", "http://HOST:PORT"]),
        (["--mps", "on"], {}, ["--mps", "auto or off"]),
        (["--config", "/does/not/exist"], {}, ["/does/not/exist", "No such file"]),
    ],
)
def test_wrong_setting_names_place_and_remedy(
    argv: list[str], environ: dict[str, str], words: list[str]
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        load(argv, environ)
    for word in words:
        assert word in caught.value.message


def test_unknown_key_of_the_file_names_the_nearest(tmp_path: Path) -> None:
    config = write(tmp_path, 'pol = "a"\n')
    with pytest.raises(InvalidRequest, match=r"agent\.toml: unknown setting pol; .* pool"):
        load(["--config", config], {})


@pytest.mark.parametrize("text", ["pool = ", "pool = true", "pool = [1]", "\x00", "labels = 3"])
def test_broken_file_is_an_error_with_its_name(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"agent\.toml"):
        load(["--config", write(tmp_path, text)], {})


def test_printed_settings_read_back_the_same(tmp_path: Path) -> None:
    argv = ["--labels", 'disk=ssd,team="a\\b"', "--simulate-gpus", "H100:8", "--cpus", "1.5"]
    argv += ["--memory-bytes", "64GiB", "--name", "n1"]
    settings = load(argv, {}).settings
    text = to_toml(settings)
    assert load(["--config", write(tmp_path, text)], {}).settings == settings
    assert tomllib.loads(text)["labels"]["disk"] == "ssd"
    assert (settings.cpu_milli, settings.memory_limit) == (1500, 64 << 30)


@pytest.mark.parametrize(
    ("text", "number"), [("64GB", 64 * 10**9), ("1k", 1000), ("2KiB", None), ("512MiB", 512 << 20)]
)
def test_sizes(text: str, number: int | None) -> None:
    if number is None:
        with pytest.raises(ValueError, match="not a size"):
            _ = Settings(memory_bytes=text).memory_limit
    else:
        assert Settings(memory_bytes=text).memory_limit == number


def test_check_and_print_exit_0_and_a_fault_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check-config", "--name", "n"]) == 0
    assert main(["--print-config", "--name", "n"]) == 0
    assert 'name = "n"' in capsys.readouterr().out
    assert main(["--check-config", "--name", "no good"]) == 2
    assert "no good" in capsys.readouterr().err


@pytest.mark.parametrize("name", PLACE_FIELDS)
@pytest.mark.parametrize("value", ["a\nb", "a\x1b[2J", "x" * (TEXT_CHARS_MAX + 1)])
def test_a_place_that_the_daemon_would_refuse_is_refused_here(
    name: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flag = f"--{name.replace('_', '-')}"
    assert main(["--check-config", "--name", "n", flag, value]) == 2
    said = capsys.readouterr().err
    assert name in said.replace("-", "_")
    assert "\x1b" not in said
    assert said.count("\n") == 1
    facts = msgspec.structs.replace(NODE, **{name: value})
    with pytest.raises(InvalidRequest, match=f"facts.{name}"):
        door.facts(facts)


def test_a_label_that_the_daemon_would_refuse_is_refused_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check-config", "--name", "n", "--labels", "room=a\x1b[2J"]) == 2
    assert "'room': 'a\\x1b[2J' has a control character" in capsys.readouterr().err


def test_help_explains_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    for flag in (
        "--server",
        "--simulate-gpus",
        "--terminate-all",
        "--terminate-idle",
        "--token-file",
        "--rack",
    ):
        assert flag in text
    assert "marked as simulated" in " ".join(text.split())


@pytest.mark.parametrize(
    ("key", "choices"),
    [
        ("log_level", ("DEBUG", "INFO", "WARNING", "ERROR")),
        ("mps", ("auto", "off")),
        ("market", ("on-demand", "spot", "committed-1y", "committed-3y")),
    ],
)
def test_each_choice_that_a_refusal_names_is_taken(key: str, choices: tuple[str, ...]) -> None:
    for choice in choices:
        settings = load([f"--{key.replace('_', '-')}", choice], {}).settings
        assert getattr(settings, key) == choice
