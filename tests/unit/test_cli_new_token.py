"""`bursar config new-token`: what it prints is what the daemon's tokens file takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bursar.cli.main import run
from bursar.clock import VirtualClock
from bursar.errors import Unauthenticated
from bursard.access.identity import Identity, Role
from bursard.access.tokens import Authority, load_users
from bursard.state import Limits, State


def test_the_printed_lines_admit_the_printed_secret_and_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for user, role in (("ana", "submitter"), ("ben@lab.example", "operator")):
        assert run(["config", "new-token", "--user", user, "--role", role]) == 0
        text = capsys.readouterr().out
        secret = text.splitlines()[0].rpartition(" ")[2]
        assert text.count(secret) == 1
        path = tmp_path / "tokens.toml"
        path.write_text(text[text.index("[[token]]") :])
        authority = Authority(State(Limits()), VirtualClock(1), local_role=None, users=load_users(path))
        assert authority.identify(f"Bearer {secret}") == Identity(user, Role(role))
        with pytest.raises(Unauthenticated):
            authority.identify(f"Bearer {secret}x")


def test_secrets_differ_and_programs_can_read_them(capsys: pytest.CaptureFixture[str]) -> None:
    found = set()
    for _ in range(2):
        assert run(["config", "new-token", "--user", "ana", "--role", "viewer", "-o", "json"]) == 0
        row = json.loads(capsys.readouterr().out)
        assert row["sha256"] in row["toml"]
        assert row["token"] not in row["toml"]
        found.add(row["token"])
    assert len(found) == 2


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (["--user", 'a"b', "--role", "viewer"], "no user name"),
        (["--user", "ana", "--role", "root"], "viewer"),
    ],
)
def test_a_wrong_name_or_role_is_refused(
    argv: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["config", "new-token", *argv]) == 2
    assert word in capsys.readouterr().err


def test_config_alone_still_shows_the_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "-o", "json"]) == 0
    assert "server" in json.loads(capsys.readouterr().out)
