"""The stream of a step over a way that loses, doubles and delays."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.steps.flow import IN_FLIGHT_MAX, PACKET_BYTES, RESEND_US, WINDOW_BYTES, Broken, Flow


def carry(seed: int, text: bytes, loss: float, restarts: bool) -> bytes:
    """Send a text over a bad way; what arrived."""
    chance, now = random.Random(seed), 0
    one, other = Flow(now), Flow(now)
    found, left = bytearray(), bytearray(text)
    for _ in range(100_000):
        if left and one.room > 0:
            piece = bytes(left[: min(one.room, chance.randint(1, 40_000))])
            one.put(piece)
            del left[: len(piece)]
        packets = [(other, packet) for packet in one.packets(now)]
        packets += [(one, packet) for packet in other.packets(now)]
        for flow, packet in packets:
            if chance.random() >= loss:
                flow.take(packet, now)
        taken = chance.randint(0, 50_000)
        found += other.inbox[:taken]
        other.taken(min(taken, len(other.inbox)))
        if restarts and chance.random() < 0.05:
            one.again(now)
            other.again(now)
        if not left and one.drained and not other.inbox:
            return bytes(found)
        now += chance.choice((1_000, RESEND_US))
    raise AssertionError("it never arrived")


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 400_000), st.sampled_from((0.0, 0.1, 0.5)), st.booleans())
def test_all_arrives_once_and_in_order_whatever_is_lost(
    seed: int, size: int, loss: float, restarts: bool
) -> None:
    text = random.Random(seed).randbytes(size)
    assert carry(seed, text, loss, restarts) == text


def test_a_reader_that_takes_nothing_stops_its_writer_after_a_window() -> None:
    one, other = Flow(0), Flow(0)
    one.put(bytes(WINDOW_BYTES))
    assert one.room == 0
    for _ in range(20):
        for packet in one.packets(0):
            other.take(packet, 0)
        for packet in other.packets(0):
            one.take(packet, 0)
    assert one.drained
    assert len(other.inbox) == WINDOW_BYTES
    one.put(b"more")
    assert [packet for packet in one.packets(0) if packet.endswith(b"more")] == []
    other.taken(1)
    for packet in other.packets(0):
        one.take(packet, 0)
    assert one.packets(0)[0].endswith(b"m")


def test_small_pieces_gather_while_four_packets_are_on_their_way() -> None:
    flow = Flow(0)
    sent = []
    for _ in range(100):
        flow.put(b"x")
        sent += flow.packets(0)
    assert len(sent) == IN_FLIGHT_MAX


def test_a_host_that_is_another_one_than_before_is_not_given_half_a_stream() -> None:
    one, other = Flow(0), Flow(0)
    one.put(bytes(PACKET_BYTES))
    for packet in one.packets(0):
        other.take(packet, 0)
    for packet in other.packets(0):
        one.take(packet, 0)
    one.put(b"rest")
    (late,) = one.packets(0)
    stranger = Flow(0)
    stranger.take(late, 0)
    (answer,) = stranger.packets(0)
    with pytest.raises(Broken):
        one.take(answer, 0)
