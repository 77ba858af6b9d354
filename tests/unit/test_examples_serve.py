"""The models of docs/examples/serve: real ones, small, and counted as the gateway counts."""

from __future__ import annotations

import http.client
import importlib.util
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bursar_gateway.counting import Stream, parsed, usage_of

EXAMPLES = Path(__file__).parents[2] / "docs/examples/serve"


def loaded(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def served(server: Any) -> Iterator[http.client.HTTPConnection]:
    """Its server in a thread; a line to it."""
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    line = http.client.HTTPConnection(*server.server_address, timeout=30)
    try:
        yield line
    finally:
        line.close()
        server.shutdown()
        server.server_close()
        thread.join()


def post(line: http.client.HTTPConnection, path: str, document: Any) -> tuple[int, bytes]:
    line.request("POST", path, json.dumps(document))
    answer = line.getresponse()
    return answer.status, answer.read()


def test_the_digits_are_read_and_nonsense_is_400() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    found = datasets.load_digits()
    with served(loaded("digits").server(0)) as line:
        line.request("GET", "/health")
        health = line.getresponse()
        assert (health.status, health.read()) == (200, b"{}")
        for at in (0, 700, 1500):
            status, data = post(line, "/predict", {"pixels": found.data[at].tolist()})
            assert (status, json.loads(data)["digit"]) == (200, int(found.target[at]))
        for wrong in ([], {"pixels": "a"}, {"pixels": [1, 2]}):
            assert post(line, "/predict", wrong)[0] == 400


def test_the_chat_learns_keeps_its_model_and_says_its_tokens_whole_and_streamed(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    chat = loaded("chat")
    path = tmp_path / "model.pt"
    model = chat.model_of(path, 0.2)
    assert path.is_file()
    assert chat.model_of(path, 0.0).state_dict().keys() == model.state_dict().keys()
    ask = {"messages": [{"role": "user", "content": "A budget"}], "max_tokens": 12}
    with served(chat.server(0, model)) as line:
        status, data = post(line, "/v1/chat/completions", ask)
        assert status == 200
        whole = usage_of(parsed(data))
        assert whole is not None
        assert (whole.tokens_in, whole.tokens_out) == (8, 12)
        more = {"stream": True, "stream_options": {"include_usage": True}}
        status, data = post(line, "/v1/chat/completions", {**ask, **more})
        stream = Stream(hide=True)
        passed = stream.feed(data) + stream.end()
        assert (stream.usage, stream.pieces) == (whole, 12)
        assert b"usage" not in passed
        assert post(line, "/v1/chat/completions", {"messages": 3})[0] == 400
