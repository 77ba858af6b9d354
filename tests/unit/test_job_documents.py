"""Ended jobs as bytes: small ones by a compressor of their size, and whatever wrote them, they are read."""

from __future__ import annotations

import zlib

import pytest

from bursar.model import JobSpec
from bursard.state import JobRecord, documents


def job(characters: int) -> JobRecord:
    # Every character another one: nothing in it shortens.
    text = "".join(chr(0x4E00 + number) for number in range(characters))
    return JobRecord(
        id="job_a", number=7, user="ann", spec=JobSpec(command=("echo", text)), submitted_at=5, order=3
    )


@pytest.mark.parametrize("characters", [0, 400, 580, 590, 600, 620, 660, 700, 900, 20_000])
def test_a_document_of_any_size_is_read_as_it_was_written(characters: int) -> None:
    written = documents.encode(job(characters), None)
    assert documents.decode(written) == job(characters)


def test_small_documents_are_those_of_a_large_compressor_to_the_byte() -> None:
    """So that a database grows by as much as before."""
    written = documents.encode(job(0), None)
    plain = zlib.decompressobj(wbits=-15, zdict=documents._DICTIONARY).decompress(written[1:])
    large = zlib.compressobj(level=6, wbits=-15, zdict=documents._DICTIONARY)
    assert written[1:] == large.compress(plain) + large.flush()
