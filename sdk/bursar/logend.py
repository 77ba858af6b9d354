"""The end of a daemon's log as an agent keeps it, `log-end.json`: how a damaged one is told from a true one.

Owns    the checksum of its fields, and the words for an agent whose members are of another cluster.
Why     a flipped digit would accuse the daemon's log of lacking what was acknowledged, and keep a sound
        cluster from starting. The agent writes the file; the agent and the daemon beside it read it.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeGuard


class LogEnd(NamedTuple):
    """Event `seq` of `cluster_id`, with its hash, was the last one that the agent was told of."""

    cluster_id: str
    seq: int
    digest: bytes


_CLUSTER_ID = re.compile(r"[a-z0-9_-]{1,64}")


def is_cluster_id(text: object) -> TypeGuard[str]:
    """Could it be the id of a cluster, as the log of one has it?"""
    return isinstance(text, str) and _CLUSTER_ID.fullmatch(text) is not None


def check_of(cluster_id: str, seq: int, digest: bytes) -> str:
    """The checksum of the three, eight hexadecimal digits."""
    text = f"{cluster_id} {seq} {digest.hex()}"
    return f"{zlib.crc32(text.encode()):08x}"


def read_log_end(found: Mapping[str, Any]) -> LogEnd | None:
    """The fields of a parsed file; None for one that says nothing, or is damaged.

    An older release wrote no `check`: what it wrote is taken as it is.
    """
    cluster_id, seq, digest = found.get("cluster_id"), found.get("seq"), found.get("digest", "")
    if not isinstance(cluster_id, str) or type(seq) is not int or not isinstance(digest, str):
        return None
    try:
        end = LogEnd(cluster_id, seq, base64.b64decode(digest, validate=True))
    except (binascii.Error, ValueError):
        return None
    return end if found.get("check", check_of(*end)) == check_of(*end) else None


def of_another(theirs: str, ours: str, state_dir: str = "DIR") -> str:
    """What an agent that holds members of the cluster `theirs` and the daemon of `ours` say of each other."""
    return (
        f"its jobs are of cluster {theirs}, and this daemon's books are those of {ours}: none of them is"
        f" taken or ended here, and none is started. If {theirs} is gone for good, stop the agent there, then"
        f" `bursar-agent --state-dir {state_dir} --forsake {theirs}`"
    )
