"""Schema 6: the digests of the notes are there from the first moment on.

Why     a database of before made them with the first note that it wrote, so whoever removed them had them
        made anew of whatever the notes said then. From here on a database without them is one that somebody
        changed. Those that were made before stay as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bursard.store import notes

if TYPE_CHECKING:
    from sqlite_utils import Database


def apply(db: Database) -> None:
    """Take the notes as they are, where nobody has; the caller holds the transaction."""
    if not db.execute("select 1 from meta where key = ?", (notes.SEAL,)).fetchone():
        notes.seal_all(db.conn)
