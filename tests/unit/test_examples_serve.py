"""The models of docs/examples/serve: real ones, small, and counted as the gateway counts."""

from __future__ import annotations

import http.client
import importlib.util
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bursar_gateway.counting import Stream, Usage, parsed, units_of, usage_of

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs/examples/serve"


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


def test_the_model_in_onnx_tells_kinds_of_files_and_says_how_many_bytes_they_were() -> None:
    pytest.importorskip("magika")  # it is no part of our tools
    program = b"import os\n\n\ndef here():\n    return os.getcwd()\n\n\nprint(here())\n" * 3
    with served(loaded("kinds").server(0)) as line:
        for data, kind in ((program, "python"), (b"", "empty")):
            line.request("POST", "/kind", data)
            answer = line.getresponse()
            told = answer.read()
            assert (answer.status, json.loads(told)["kind"]) == (200, kind)
            assert units_of(parsed(told), "/usage/bytes") == Usage(0, len(data), 0)
        line.request("POST", "/kind", iter([b"x"]), {"Transfer-Encoding": "chunked"}, encode_chunked=True)
        assert line.getresponse().status == 413


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


@pytest.mark.parametrize("name", ["chat", "digits", "kinds"])
def test_the_first_line_of_a_file_starts_it_where_its_program_is(name: str) -> None:
    text = (EXAMPLES / f"{name}.yaml").read_text("utf-8")
    there, file = text.splitlines()[0].removeprefix("# cd ").split(";")[0].split(" && bursar submit ")
    assert (ROOT / there / file).is_file()
    assert (ROOT / there / text.rsplit("exec python ", 1)[1].split()[0]).is_file()


def demo() -> Any:
    """The program of `make demo-serve`, whose story is not told here."""
    sys.path.insert(0, str(ROOT / "docs/examples/demo"))
    try:
        spec = importlib.util.spec_from_file_location("demo_serve", ROOT / "docs/examples/demo/serve.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module


def test_the_bill_of_the_demo_waits_for_the_minute_in_which_all_was_asked() -> None:
    rows = iter([[], [{"requests": 0}], [{"requests": 0}, {"requests": 7}]])
    demo().told(lambda: next(rows), pause_s=0)
    assert next(rows, None) is None


def test_a_bill_in_which_nobody_ever_asked_ends_the_demo() -> None:
    module = demo()
    with pytest.raises(module.Surprise, match="the bill says that nobody asked"):
        module.told(lambda: [{"requests": 0}], patience_s=0, pause_s=0)
