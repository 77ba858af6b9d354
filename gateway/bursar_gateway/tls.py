"""The gateway's own certificate: read at the start, and again when its files are others.

Owns    the context that clients are answered with, and what is said of files that cannot be used.
Why     certificates are renewed every few weeks by somebody who does not restart what uses them. A pair that
        is half written, or does not belong together, changes nothing until it does.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path
from typing import Final

from bursar.errors import InvalidRequest

log = logging.getLogger(__name__)

LOOK_S: Final = 5.0
HANDSHAKE_S: Final = 10.0

_Stamp = tuple[int, int, int]


class Certificate:
    """One certificate, with the chain that vouches for it, and its key; both in PEM.

    Raises `InvalidRequest` where they cannot be used.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self._files = certificate, key
        self._stamps = self._now()
        self.context = self._read()
        self._told = ""

    def refresh(self) -> bool:
        """Answer who comes next with what the files hold now, if that is another pair that can be used."""
        stamps = self._now()
        if stamps == self._stamps:
            return False
        try:
            self._read()  # in a context of its own: one that is in use is never half changed
            self.context.load_cert_chain(*self._files, password="")
        except (InvalidRequest, OSError) as problem:
            if str(problem) != self._told:
                log.error("the certificate of before stays in use: %s", problem)
            self._told = str(problem)
            return False
        self._stamps, self._told = stamps, ""
        log.warning("a new certificate is in use")
        return True

    async def watch(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.refresh()

    def _now(self) -> tuple[_Stamp | None, ...]:
        return tuple(map(_stamp, self._files))

    def _read(self) -> ssl.SSLContext:
        certificate, key = self._files
        try:
            if key.stat().st_mode & 0o077:
                raise InvalidRequest(f"--tls-key: {key} can be read by others; chmod 0600 it")
            made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            made.minimum_version = ssl.TLSVersion.TLSv1_2
            made.set_alpn_protocols(["http/1.1"])
            # A key with a passphrase is refused: nobody is there to be asked for it.
            made.load_cert_chain(certificate, key, password="")
        except ssl.SSLError as problem:
            what = (problem.reason or "cannot be read").lower().replace("_", " ")
            raise InvalidRequest(
                f"--tls-cert: {certificate} and {key} are no certificate and its key in PEM, without a"
                f" passphrase ({what})"
            ) from None
        except OSError as problem:
            raise InvalidRequest(
                f"--tls-cert: {certificate} or {key} cannot be read: {problem.strerror or problem}"
            ) from None
        return made


def _stamp(path: Path) -> _Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def address(text: str) -> tuple[str, int]:
    """Host and port of `--listen` where clients come over TLS: any address. Raises `InvalidRequest`."""
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or not 0 < int(port[:6]) < 65_536:
        raise InvalidRequest(f"--listen: {text[:80]!r} is not HOST:PORT, such as 0.0.0.0:8443 or [::]:8443")
    return host.strip("[]"), int(port)
