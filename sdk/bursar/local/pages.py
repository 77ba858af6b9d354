"""The pages of a local cluster: where they listen, and the links that log whoever made them in, once.

Owns    `DIR/web/links`: one empty file for each link that is still good, named by the digest of its word and
        the second at which it ends.
Why     only who may write into the state directory may log in as who owns it, and the process that serves
        the pages need not be asked: it takes the file away, and with it the link. The word itself stands in
        the link alone. Standard library alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from bursar.aside import own_directory
from bursar.errors import InvalidRequest

LOOPBACK: Final = ("127.0.0.1", "[::1]")
LINK_LIFE_S: Final = 600
LINKS_MAX: Final = 100
"""Links of one directory that may be good at once; older ones make room."""
WORD_CHARS_MAX: Final = 200


class Link(NamedTuple):
    """A login address. ends_s: the second, since 1970, from which it is good no more."""

    url: str
    ends_s: int


def loopback(text: str, flag: str) -> tuple[str, int]:
    """Host and port to listen at. Raises `InvalidRequest`: this machine alone is served."""
    host, _, port = text.rpartition(":")
    if host not in LOOPBACK or not (port.isascii() and port.isdigit()) or not 0 < int(port[:6]) < 65_536:
        raise InvalidRequest(
            f"{flag}: {text!r} is not 127.0.0.1:PORT; this machine alone is served, for others put a proxy"
            " that speaks https before it"
        )
    return host.strip("[]"), int(port)


def folder_of(directory: Path) -> Path:
    """Where the pages of the cluster in `directory` keep what they keep."""
    return directory / "web"


def new_link(
    folder: Path, http: str, now_s: int, secret: Callable[[], str] = lambda: secrets.token_urlsafe(24)
) -> Link:
    """A link that is good once, for ten minutes. Raises `OSError`."""
    links = folder / "links"
    own_directory(links)
    for path in _oldest_first(links, now_s)[: -LINKS_MAX + 1]:
        _remove(path)
    word, ends_s = secret(), now_s + LINK_LIFE_S
    (links / f"{_digest(word)}.{ends_s}").touch(mode=0o600, exist_ok=False)
    return Link(f"http://{http}/login?link={word}", ends_s)


def take_link(folder: Path, word: str, now_s: int) -> bool:
    """Whether `word` is that of a link which is still good; it is good no more from then on."""
    if not word or len(word) > WORD_CHARS_MAX:
        return False
    for path in (folder / "links").glob(f"{_digest(word)}.*"):
        try:
            path.unlink()
        except OSError:  # another request was quicker, or nothing may be taken away here
            return False
        return now_s < _ends_s(path)
    return False


def _oldest_first(links: Path, now_s: int) -> list[Path]:
    """The links that are still good; what is too old goes."""
    found = sorted(links.iterdir(), key=_ends_s)
    for path in [path for path in found if _ends_s(path) <= now_s]:
        _remove(path)
    return [path for path in found if _ends_s(path) > now_s]


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # it is none of ours, such as a directory
        path.unlink(missing_ok=True)


def _ends_s(path: Path) -> int:
    text = path.suffix.removeprefix(".")
    return int(text) if text.isascii() and text.isdigit() else 0


def _digest(word: str) -> str:
    return hashlib.sha256(word.encode()).hexdigest()
