"""Tokens of each shape of answer, whole and streamed; a stream passes as it comes, however it is cut."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bursar_gateway import counting
from bursar_gateway.counting import EVENT_BYTES_MAX, Stream, Usage, asks_for_usage, estimated, usage_of


def event(document: Any, name: str = "") -> bytes:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(document)}\n\n".encode()


OPENAI = {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}}
WHOLE = {
    "chat": ({"choices": [{}], "usage": OPENAI}, Usage(7, 3, 2)),
    "embeddings": ({"data": [], "usage": {"prompt_tokens": 9, "total_tokens": 9}}, Usage(9, 0, 0)),
    "responses": (
        {"usage": {"input_tokens": 5, "output_tokens": 6, "input_tokens_details": {"cached_tokens": 1}}},
        Usage(5, 6, 1),
    ),
    "messages": (
        {"usage": {"input_tokens": 5, "output_tokens": 6, "cache_read_input_tokens": 4}},
        Usage(9, 6, 4),
    ),
}
STREAMED = {
    "chat": (
        [{"choices": [{"delta": {"content": "a"}}], "usage": None}, {"choices": [], "usage": OPENAI}],
        Usage(7, 3, 2),
    ),
    "responses": (
        [
            {"type": "response.output_text.delta", "delta": "a"},
            {"type": "response.completed", "response": {"usage": {"input_tokens": 5, "output_tokens": 6}}},
        ],
        Usage(5, 6),
    ),
    "messages": (
        [
            {"type": "message_start", "message": {"usage": {"input_tokens": 5, "output_tokens": 1}}},
            {"type": "content_block_delta", "delta": {"text": "a"}},
            {"type": "message_delta", "usage": {"output_tokens": 6}},
        ],
        Usage(5, 6),
    ),
}


@pytest.mark.parametrize("shape", WHOLE)
def test_a_whole_answer_says_its_tokens(shape: str) -> None:
    document, wanted = WHOLE[shape]
    assert usage_of(document) == wanted


@pytest.mark.parametrize("shape", STREAMED)
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_a_stream_says_its_tokens_however_it_is_cut(shape: str, size: int) -> None:
    documents, wanted = STREAMED[shape]
    data = b"".join(map(event, documents)) + b"data: [DONE]\n\n"
    stream = Stream(hide=False)
    passed = b"".join(stream.feed(data[at : at + size]) for at in range(0, len(data), size))
    assert passed + stream.end() == data
    assert stream.usage == wanted


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_the_event_that_we_asked_for_does_not_reach_who_did_not(size: int) -> None:
    shown = event({"choices": [{"delta": {"content": "a"}}]})
    data = shown + event({"choices": [], "usage": OPENAI}) + b"data: [DONE]\n\n"
    stream = Stream(hide=True)
    passed = b"".join(stream.feed(data[at : at + size]) for at in range(0, len(data), size)) + stream.end()
    assert passed == shown + b"data: [DONE]\n\n"
    assert stream.usage == Usage(7, 3, 2)
    assert stream.pieces == 1


def test_a_stream_that_breaks_off_has_its_pieces() -> None:
    """G7: who hangs up before the last event has not asked for nothing."""
    stream = Stream(hide=True)
    for _ in range(5):
        stream.feed(event({"choices": [{"delta": {"content": "a"}}]}))
    assert stream.usage is None
    assert estimated(b"x" * 10, stream.pieces) == Usage(4, 5)


def test_an_event_without_end_passes_and_is_not_kept() -> None:
    stream = Stream(hide=True)
    data = b"data: " + b"x" * (2 * EVENT_BYTES_MAX)
    assert stream.feed(data) == data
    assert stream.feed(b"y\n\n") == b"y\n\n"


@pytest.mark.parametrize("wrong", [
    None, [], "x", {"usage": 3}, {"usage": {"prompt_tokens": -1, "completion_tokens": 2**90}},
    {"usage": {"prompt_tokens": True, "completion_tokens": "9"}}, {"response": {"usage": None}},
])  # fmt: skip
def test_what_is_no_count_counts_nothing(wrong: Any) -> None:
    assert usage_of(wrong) in (None, Usage())


def test_usage_is_asked_for_where_the_client_did_not_say() -> None:
    path, body = "/v1/chat/completions", b'{"stream": true, "messages": ["\xc3\xa4"]}'
    asked, hide = asks_for_usage("openai", path, body)
    assert hide
    assert json.loads(asked) == {**json.loads(body), "stream_options": {"include_usage": True}}
    for api, where, given in (
        ("openai", path, b'{"stream": true, "stream_options": {"include_usage": false}}'),
        ("openai", path, b'{"stream": false}'),
        ("openai", path, b'not json, "stream"'),
        ("openai", "/v1/embeddings", body),
        ("http", path, body),
    ):
        assert asks_for_usage(api, where, given) == (given, False)


@pytest.mark.parametrize("value", [b'"\\ud800"', b"1e999"])
def test_what_we_could_not_write_as_it_was_goes_on_as_it_came(value: bytes) -> None:
    body = b'{"stream":true,"x":' + value + b"}"
    assert asks_for_usage("openai", "/v1/chat/completions", body) == (body, False)


@pytest.mark.parametrize(("pointer", "units"), [
    ("/usage/total", 7), ("/list/1/n", 5), ("/a~1b/c~0d", 3), ("/usage", None), ("/usage/no", None),
    ("/list/9/n", None), ("/list/-/n", None), ("/text", None), ("/flag", None), ("/less", None),
    ("/usage/total/deeper", None), ("/huge", None),
])  # fmt: skip
def test_units_are_the_whole_number_that_stands_where_the_file_says(pointer: str, units: int | None) -> None:
    document = {
        "usage": {"total": 7}, "list": [{"n": 4}, {"n": 5}], "a/b": {"c~d": 3}, "text": "7", "flag": True,
        "less": -1, "huge": 10**13,
    }  # fmt: skip
    assert counting.units_of(document, pointer) == (None if units is None else counting.Usage(0, units))
    assert counting.units_of([document], "/0" + pointer) == counting.units_of(document, pointer)


def test_requests_begin_alike_by_what_is_asked_and_not_by_what_stands_around_it() -> None:
    one = b'{"model": "m", "temperature": 0.1, "messages": [{"role": "system", "content": "You are"}]}'
    other = one.replace(b"0.1", b"0.9") + b" " * 2_000
    assert counting.prefix_of(one) == counting.prefix_of(other)[: len(counting.prefix_of(one))]
    assert len(counting.prefix_of(other)) == counting.PREFIX_BYTES
    assert counting.prefix_of(b"plain") == b"plain"
