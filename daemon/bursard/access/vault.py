"""Secrets at rest: sealed with a key that is no part of the store, of its backups, or of any answer.

Owns    the key file, and the only two functions through which a value passes.
Why     whoever reads the database, a backup or an image finds what nobody can open; the log keeps who set
        what when, and never a value. AES-256-GCM binds each sealed text to its project and name, so that one
        cannot be passed off as another.
"""

from __future__ import annotations

import base64
import binascii
import logging
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bursar.errors import InvalidRequest, StoreUnavailable
from bursar.model import JobSpec
from bursard.state import State
from bursard.state.decide.rights import secrets_of
from bursard.state.rights import SealedSecret

log = logging.getLogger(__name__)

VALUE_BYTES_MAX: Final = 32 * 1024
TOTAL_MAX: Final = 256 * 1024
"""Of all secrets of one job: they travel in one message."""
KEY_BYTES: Final = 32
CREDENTIAL: Final = "bursar-secrets-key"
"""Name of the systemd credential that is taken when there is one."""
_NONCE_BYTES = 12
_FORM = "1:"


class Vault:
    """Seals and opens. Without a key it says why, and everything else of the daemon goes on."""

    def __init__(self, key: bytes | None, problem: str = "") -> None:
        self._key = AESGCM(key) if key is not None else None
        self._problem = problem

    def seal(self, project: str, name: str, value: str) -> str:
        """A value as it may be kept. Raises `InvalidRequest`, `StoreUnavailable` without a key."""
        data = value.encode()
        if not data or len(data) > VALUE_BYTES_MAX or b"\0" in data:
            raise InvalidRequest(
                f"value: has {len(data)} bytes; a secret is 1 to {VALUE_BYTES_MAX} bytes of text without NUL",
                {"field": "value"},
            )
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = self._opened().encrypt(nonce, data, _bound_to(project, name))
        return _FORM + base64.b64encode(nonce + sealed).decode()

    def open(self, secret: SealedSecret) -> str:
        """The value. Raises `StoreUnavailable`, saying what mends it."""
        key, of = self._opened(), f"--project {secret.project}" if secret.project else ""
        try:
            if not secret.sealed.startswith(_FORM):
                raise ValueError(secret.name)
            data = base64.b64decode(secret.sealed.removeprefix(_FORM), validate=True)
            bound_to = _bound_to(secret.project, secret.name)
            return key.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], bound_to).decode()
        except (InvalidTag, ValueError):
            raise StoreUnavailable(
                f"the secret {secret.name} was sealed with another key; bring back the key file, or set it"
                f" again: `bursar secret set {secret.name} {of}`".rstrip(" `")
                + "`"
            ) from None

    def problems(self, kept: Iterable[SealedSecret]) -> list[str]:
        """What of these cannot be opened, and what mends it; with a fault of the key itself, that alone."""
        kept = list(kept)
        if kept and self._key is None:
            return [f"{len(kept)} sealed secrets cannot be used: {self._problem}"]
        found = []
        for secret in kept:
            try:
                self.open(secret)
            except StoreUnavailable as error:
                found.append(error.message)
        return found

    def values(self, state: State, spec: JobSpec) -> dict[str, str]:
        """What a job's secrets are, by name, at the moment its member is ordered to start.

        Raises:
            BursarError: one is not there any more, cannot be opened, or they are too large together.
        """
        found = {secret.name: self.open(secret) for secret in secrets_of(state, spec)}
        if sum(map(len, found.values())) > TOTAL_MAX:
            raise InvalidRequest(
                f"secrets: have more than {TOTAL_MAX} characters together; put them in a file"
            )
        return found

    def _opened(self) -> AESGCM:
        if self._key is None:
            raise StoreUnavailable(f"secrets cannot be used: {self._problem}")
        return self._key


def _bound_to(project: str, name: str) -> bytes:
    return f"bursar secret {project}\n{name}".encode()


def open_vault(path: Path, credentials_directory: str = "") -> Vault:
    """The vault of a key file, which is made at the first start; of the systemd credential when there is one.

    A file that others can read is refused with `InvalidRequest`; one that cannot be read or made closes the
    vault, with the reason, and the daemon starts.
    """
    credential = Path(credentials_directory) / CREDENTIAL if credentials_directory else None
    if credential is not None and credential.exists():
        path = credential
    try:
        if not os.path.lexists(path):
            _make(path)
        if not path.is_file():
            return _closed(f"the key file {path} is no file")
        if path.stat().st_mode & 0o077 and path != credential:
            raise InvalidRequest(f"secrets_key_file: {path} can be read by others; chmod 0600 it")
        key = base64.b64decode(path.read_bytes().strip(), validate=True)
    except PermissionError as error:
        return _closed(f"the key file {path} cannot be read: {error.strerror}; chmod 0600 it")
    except (OSError, binascii.Error) as error:
        return _closed(f"the key file {path} cannot be read: {error}")
    if len(key) != KEY_BYTES:
        return _closed(f"the key file {path} is damaged: it holds {len(key)} bytes, not {KEY_BYTES}")
    return Vault(key)


def _closed(problem: str) -> Vault:
    log.warning("secrets cannot be used", extra={"problem": problem})
    return Vault(None, f"{problem}; bring back the file from where you keep it, or set secrets_key_file")


def _make(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(base64.b64encode(secrets.token_bytes(KEY_BYTES)) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
