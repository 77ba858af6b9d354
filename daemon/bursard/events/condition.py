"""What a node says of itself that keeps it from work.

Why     apart from `union`, which holds as much as one file may.
"""

from __future__ import annotations

import msgspec


class NodeCondition(msgspec.Struct, frozen=True, tag="node-condition"):
    """A node says what keeps it from starting anything, such as a full disk; empty: nothing any more. It gets
    no new work meanwhile, and what it was given and could not start goes back to the queue.
    """

    node_id: str
    trouble: str
