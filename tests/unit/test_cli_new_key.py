"""What `key new` writes where: the secret, alone, to stdout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bursar.cli.main import run
from bursar.client import WireClient
from bursar.client.fake import FakeServer
from bursar.v1 import services_pb2

MADE = services_pb2.ServiceKey(id="key_1", service="chat", secret="bsk_abc")


@pytest.mark.parametrize(
    ("flags", "out", "err"),
    [
        ([], "bsk_abc\n", "key_1 opens service chat; its secret is not shown again\n"),
        (["-q"], "key_1\n", ""),
    ],
)
def test_the_secret_alone_is_on_stdout_and_the_words_for_people_are_not(
    flags: list[str],
    out: str,
    err: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(WireClient, "new_key", lambda self, service, **given: MADE)
    with FakeServer(tmp_path) as fake:
        monkeypatch.setenv("BURSAR_SERVER", fake.url)
        run(["key", "new", "--service", "chat", *flags])
        assert capsys.readouterr() == (out, err)
        run(["key", "new", "--service", "chat", "-o", "json"])
    told = capsys.readouterr()
    assert (json.loads(told.out)["secret"], told.err) == ("bsk_abc", "")
