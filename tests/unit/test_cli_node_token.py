"""`bursar node token`: a verb is no node's name."""

from __future__ import annotations

from pathlib import Path

import pytest

from bursar.cli.main import run
from bursar.client.fake import FakeServer
from bursar.v1 import nodes_pb2


@pytest.mark.parametrize(("word", "code"), [("ls", 0), ("list", 0), ("rm", 2), ("revoke", 2), ("show", 2)])
def test_a_verb_is_not_taken_for_a_node_that_gets_a_secret(
    word: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeServer(tmp_path / "run") as server:
        monkeypatch.setenv("BURSAR_SERVER", server.url)
        server.answers["Nodes/Tokens"] = nodes_pb2.TokensResponse()
        assert run(["node", "token", word]) == code
        assert server.calls("Nodes/Token") == []
        told = capsys.readouterr()
        if code:
            assert "to void secrets: node token NAME --revoke" in told.err
        else:
            assert "no secret is good now" in told.out + told.err
