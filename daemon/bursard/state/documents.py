"""Ended jobs as the bytes their rows hold: JSON, deflated against a dictionary of what every record says.

Why     a task that ran says 200 bytes of its own and 700 of names and punctuation, and 10,000 of them are
        kept for years. Rows of the first schema are plain JSON, and still read.
Change  `_DICTIONARY` never: rows were written with it. Another one gets another first byte.
"""

from __future__ import annotations

import zlib

import msgspec

from bursard.state.arrays import lean
from bursard.state.records import JobRecord

_DEFLATED = b"\x01"
_DICTIONARY = (
    b'"unpriced":true,"simulated":true,"retries":1,"labels":[["held":true,"key":"","message":"","devices":'
    b'[{"index":0,"milli":1000},{"index":1,"milli":1000}],"cause":"cancelled","failed","time_limit","exit_code":1'
    b',"signal":9,"state":"FAILED","state":"CANCELLED","stop_cause":"cancelled","stop_grace_us":5000000,'
    b'"settled_nanos":{"id":"job_","number":1,"user":"root","spec":{"project":"default","options":[{"gpus":null,'
    b'"cpu_milli":1000,"memory_bytes":1073741824}],"spot_policy":"auto","on_exceed":"stop","checkpoint":{"signal"'
    b':"","grace_us":0},"retry":{"on":[],"max":0,"avoid_same_node":false},"command":["spec":{"options":[]},'
    b'"order":1,"submitted_at":17,"state":"SUCCEEDED","started_at":17,"finished_at":17,"exit_code":0,"attempts":'
    b'[{"id":"att_","job_id":"job_","number":1,"option":0,"members":[{"alloc":{"rank":1,"node_id":"node_",'
    b'"devices":[{"index":0,"milli":1000}],"cpu_milli":1000,"memory_bytes":1073741824,"rates":{"gpu":1,"cpu":1,'
    b'"memory":1},"price_id":"price_"},"boot_id":"","pid":1,"started_at":17,"charged_us":1000000,"placed_axis":17,'
    b'"node":"","report":{"cause":"completed",'
    b'"exit_code":0,"held_us":,"cpu_us":,"max_rss_bytes":,"log_bytes":}}],"time_limit_us":86400000000,"grace_us":'
    b'5000000,"holds":[],"placed_at":17,"state":"ENDED","started_at":17,"finished_at":17,"cause":"completed",'
    b'"exit_code":0,"why":"1 of 1 nodes could serve it"}],"budgets":[],"hard_budgets":[],"settled_nanos":,'
    b'"parent_id":"job_","array_index":1,"has_slot":true}'
)
_SMALL_BYTES = 2_048
"""With the dictionary it fits a window of 4 KiB. A compressor of the default size has 268 KB, which the
kernel gives and takes back for each job: ten times what deflating costs.
"""
_JOBS: msgspec.json.Decoder[JobRecord] = msgspec.json.Decoder(JobRecord)


def encode(job: JobRecord, parent: JobRecord | None) -> bytes:
    """An ended job. `parent`: of a task, its array, whose spec is then not written again."""
    document = msgspec.json.encode(lean(job, parent))
    if len(document) <= _SMALL_BYTES:
        deflate = zlib.compressobj(level=6, wbits=-12, memLevel=6, zdict=_DICTIONARY)
    else:
        deflate = zlib.compressobj(level=6, wbits=-15, zdict=_DICTIONARY)
    return _DEFLATED + deflate.compress(document) + deflate.flush()


def decode(document: bytes) -> JobRecord:
    """The record; a task's may be lean (`bursard.state.arrays.is_lean`). Raises on what is no document."""
    return _JOBS.decode(_inflated(document)[0])


def decode_whole(document: bytes) -> JobRecord:
    """As `decode`, of bytes that hold nothing else: raises `ValueError` where some of them say nothing.

    How it was deflated is not compared: that differs between versions of zlib. Its text is.
    """
    text, rest = _inflated(document)
    if rest:
        raise ValueError(f"{len(rest)} bytes follow its end")
    if msgspec.json.encode(msgspec.json.decode(text)) != text:
        raise ValueError("it is not written as a document is: spaces, or a field twice")
    return _JOBS.decode(text)


def _inflated(document: bytes) -> tuple[bytes, bytes]:
    """Its text, and what follows it."""
    if not document.startswith(_DEFLATED):
        return document, b""
    inflate = zlib.decompressobj(wbits=-15, zdict=_DICTIONARY)
    text = inflate.decompress(document[1:])
    if not inflate.eof:
        raise ValueError("it ends too early")
    return text, inflate.unused_data
