"""The last word of a refused call arrives, whatever is in it: within 8 kB, and cut where it can be read."""

from __future__ import annotations

import base64
from urllib.parse import quote_from_bytes

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st
from whole_site import Site, play

from bursar.errors import BursarError, InvalidRequest
from bursar.v1 import money_pb2, nodes_pb2
from bursard.services.lastword import FACTS_BYTES_MAX, WORD_BYTES_MAX, last_word

BAD = grpc.StatusCode.INVALID_ARGUMENT
PRINTABLE = bytes(byte for byte in range(0x20, 0x7F) if byte != 0x25)


def travels(message: str, details: bytes) -> int:
    """As gRPC encodes them: base64 without padding, and `%XX` for all but printable ASCII."""
    text = quote_from_bytes(message.encode(), safe=PRINTABLE)
    return len(text) + len(base64.b64encode(details).rstrip(b"="))


def facts(details: bytes) -> tuple[str, dict[str, str]]:
    status = status_pb2.Status.FromString(details)
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (status.code, info.reason, info.domain) == (BAD.value[0], "InvalidRequest", "bursar")
    return status.message, dict(info.metadata)


def test_what_is_short_arrives_as_it_is_in_both() -> None:
    message, (key, details) = last_word(BAD, InvalidRequest("a: no\nb: neither", {"field": "a"}))
    assert (message, key) == ("a: no\nb: neither", "grpc-status-details-bin")
    assert facts(details) == ("a: no\nb: neither", {"field": "a"})


def test_half_a_character_is_written_out() -> None:
    message, (_, details) = last_word(BAD, InvalidRequest("no \ud800 here", {"na\udfffme": "\ud800"}))
    assert message == "no \\ud800 here"
    assert facts(details) == (message, {"na\\udfffme": "\\ud800"})


def test_many_lines_are_cut_at_a_line_and_the_rest_is_counted() -> None:
    lines = [f"a.yaml:{number}:3: market is none of these: spot, on-demand" for number in range(400)]
    message, (_, details) = last_word(BAD, InvalidRequest("\n".join(lines), {"field": "x"}))
    *shown, rest = message.split("\n")
    assert shown == lines[: len(shown)]
    assert rest == f"… and {400 - len(shown)} more lines; mend these first"
    assert WORD_BYTES_MAX - 70 < travels(message, details) <= WORD_BYTES_MAX
    assert facts(details) == ("", {"field": "x"})


@pytest.mark.parametrize("letter", ["x", "漢", "%", "\n"])
def test_one_long_word_is_cut_and_the_rest_is_counted(letter: str) -> None:
    message, (_, details) = last_word(BAD, InvalidRequest("node: no " + letter * 9_000))
    assert message.startswith("node: no " + letter * 700)
    assert message.endswith((" more characters", " more lines; mend these first"))
    assert travels(message, details) <= WORD_BYTES_MAX


def test_facts_come_in_their_order_as_many_as_fit() -> None:
    given_facts = {f"key{number:02}": "v" * 600 for number in range(40)}
    _, (_, details) = last_word(BAD, InvalidRequest("m", given_facts))
    count = FACTS_BYTES_MAX // (512 + 5)
    assert facts(details) == ("m", {f"key{number:02}": "v" * 512 for number in range(count)})
    many = {f"k{number:02}": "" for number in range(40)}
    assert len(facts(last_word(BAD, InvalidRequest("m", many))[1][1])[1]) == 32


@given(
    st.text(max_size=40), st.integers(0, 600), st.dictionaries(st.text(max_size=50), st.text(max_size=900))
)
def test_whatever_is_said_fits(word: str, times: int, more: dict[str, str]) -> None:
    error: BursarError = InvalidRequest(word * times, more)
    message, (_, details) = last_word(BAD, error)
    assert travels(message, details) <= WORD_BYTES_MAX


def test_a_long_refusal_arrives_with_its_own_status() -> None:
    async def story(site: Site) -> None:
        token = site.token("root", "admin")
        for name in ("x" * 4_000, "漢" * 1_500):
            status, said = await site.call("Nodes.Get", nodes_pb2.NodeRequest(node=name), token=token)
            assert (status, name[:100] in said) == ("NOT_FOUND", True)
        rows = "".join(f"  - {{gpu: H100, market: spto{number}, hourly: 1 USD}}\n" for number in range(200))
        text = f"kind: PriceBook\nname: many\nspec:\n  prices:\n{rows}"
        request = money_pb2.ApplyRequest(sources=[money_pb2.PolicySource(name="many.yaml", text=text)])
        status, said = await site.call("Policies.Apply", request, token=token)
        assert status == "INVALID_ARGUMENT"
        assert said.startswith("many.yaml:")
        assert said.endswith("more lines; mend these first")

    play(story)
