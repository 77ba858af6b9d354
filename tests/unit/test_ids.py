"""Ids: their form, and that none is made twice, in a forked process neither."""

from __future__ import annotations

import os
import re

from bursar import ids
from bursar.ids import RandomIds, SequentialIds


def test_a_random_id_has_a_prefix_and_sixteen_characters_that_nobody_misreads() -> None:
    found = {RandomIds().new("job") for _ in range(1_000)}
    assert len(found) == 1_000
    assert all(re.fullmatch("job_[0-9abcdefghjkmnpqrstvwxyz]{16}", one) for one in found)
    # Every place takes every character: 80 bits, none of them fixed.
    assert {len({one[place] for one in found}) for place in range(4, 20)} == {32}


def test_an_id_is_the_random_bytes_it_was_made_of(monkeypatch) -> None:
    monkeypatch.setattr(ids, "_pool", [])
    monkeypatch.setattr(os, "urandom", lambda size: bytes(range(10)) * (size // 10))
    assert RandomIds().new("x") == "x_000g40r40m30e209"
    assert RandomIds().new("x") == "x_000g40r40m30e209"


def test_a_child_makes_other_ids_than_its_parent() -> None:
    RandomIds().new("job")
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, "\n".join(RandomIds().new("job") for _ in range(80)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reading, 65536).decode().split("\n")
    os.close(reading)
    os.close(writing)
    ours = {RandomIds().new("job") for _ in range(80)}
    assert len(theirs) == 80
    assert not ours & set(theirs)


def test_counted_ids_are_counted() -> None:
    counted = SequentialIds()
    assert [counted.new("job"), counted.new("att")] == ["job_0000000001", "att_0000000002"]
