"""Settings of the daemon: what is refused before anything is opened, with place and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from bursar.errors import InvalidRequest
from bursar.options import to_toml
from bursard.__main__ import main
from bursard.settings import Settings, load

TLS = ["--tls-cert-file", "/c", "--tls-key-file", "/k"]


def test_flags_beat_environment_beats_file(tmp_path: Path) -> None:
    path = tmp_path / "bursard.toml"
    path.write_text('currency = "EUR"\nlog_cap = "1MiB"\nlog-format = "text"\n')
    environ = {"BURSARD_LOG_CAP": "2MiB", "BURSARD_CURRENCY": "GBP"}
    settings = load(["--config", str(path), "--currency", "USD"], environ).settings
    assert (settings.currency, settings.log_cap, settings.log_format) == ("USD", "2MiB", "text")


@pytest.mark.parametrize(
    ("argv", "environ", "words"),
    [
        ([], {"BURSARD_STATEDIR": "x"}, ["BURSARD_STATEDIR", "did you mean state_dir"]),
        (["--default-time-limit", "soon"], {}, ["--default-time-limit", "'soon'"]),
        (["--meter-interval", "0s"], {}, ["--meter-interval", "0s"]),
        (["--meter-interval", "10ms"], {}, ["--meter-interval"]),
        (["--log-cap", "big"], {}, ["--log-cap", "'big'"]),
        (["--local-role", "root"], {}, ["--local-role", "viewer, submitter, operator or none"]),
        (["--log-level", "loud"], {}, ["--log-level", "DEBUG"]),
        (["--log-format", "xml"], {}, ["json or text"]),
        (["--currency", "dollar"], {}, ["--currency", "USD"]),
        (["--run-as-submitter", "maybe"], {}, ["--run-as-submitter", "true or false"]),
        (["--listen", "0.0.0.0:7443"], {}, ["--listen", "tls_cert_file and tls_key_file"]),
        (["--listen", "0.0.0.0:7443", *TLS[:2]], {}, ["tls_key_file"]),
        (["--listen", "everywhere", *TLS], {}, ["HOST:PORT"]),
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


@pytest.mark.parametrize(
    "url",
    ["mqtt://u:hunter2@h:notaport", "mqtt://u:hunter2@h:70000", "http://u:hunter2@h", "mqtt://u:hun/hunter2@h",
     "u:hunter2@h", "mqtt://u:hunter2@h/topic"],
)  # fmt: skip
def test_a_broker_that_is_none_is_refused_before_the_start_and_without_its_password(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--telemetry-mqtt-url", url, "--check-config"]) == 2
    told = capsys.readouterr()
    assert "--telemetry-mqtt-url: the broker's url" in told.err
    assert "hunter2" not in told.err + told.out


def test_settings_are_printed_without_the_passwords_in_their_addresses(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--telemetry-mqtt-url", "mqtts://u:hunter2@h:8883", "--print-config"]) == 0
    assert 'telemetry_mqtt_url = "mqtts://u:***@h:8883"' in capsys.readouterr().out
    with pytest.raises(InvalidRequest) as caught:
        load(["--oidc-issuer", "https://u:hunter2@id.example.org"], {})
    assert "https://u:***@id.example.org" in caught.value.message


@pytest.mark.parametrize("text", ["currency = ", "currency = true", "state_dir = [1]", "\x00"])
def test_broken_file_is_an_error_with_its_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bursard.toml"
    path.write_text(text)
    with pytest.raises(InvalidRequest, match=r"bursard\.toml"):
        load(["--config", str(path)], {})


def test_policies_are_a_list_in_the_file_and_commas_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "bursard.toml"
    path.write_text('policies = ["/a", "/b c"]\n')
    assert load(["--config", str(path)], {}).settings.policies == ("/a", "/b c")
    assert load([], {"BURSARD_POLICIES": "/a,/b"}).settings.policies == ("/a", "/b")


def test_printed_settings_read_back_the_same(tmp_path: Path) -> None:
    argv = ["--listen", "h:7443", *TLS, "--policies", 'a"b,/c', "--run-as-submitter", "true"]
    settings = load(argv, {}).settings
    path = tmp_path / "bursard.toml"
    path.write_text(to_toml(settings))
    assert load(["--config", str(path)], {}).settings == settings


def test_numbers_are_what_the_words_say() -> None:
    settings = Settings(default_time_limit="90m", meter_interval="5s", log_cap="2MiB")
    assert settings.limits.default_time_limit_us == 90 * 60 * 1_000_000
    assert settings.limits.meter_interval_us == 5_000_000
    assert settings.log_cap_bytes == 2 << 20


def test_check_and_print_exit_0_and_a_fault_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check-config"]) == 0
    assert main(["--print-config", "--currency", "EUR"]) == 0
    assert 'currency = "EUR"' in capsys.readouterr().out
    assert main(["--check-config", "--currency", "eur"]) == 2
    assert "currency" in capsys.readouterr().err


def test_help_explains_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--tokens-file VALUE User tokens by hash" in text
    assert "bursar config new-token" in text
