"""The files of TLS and of tokens, read before anything is served with them.

Owns    what may be one: a plain file of bounded size, private where it holds a secret; certificates and keys
        in PEM that belong together.
Why     gRPC takes any bytes and says, when it cannot serve with them, that it cannot bind to the address.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

from bursar.aside import read_own
from bursar.errors import InvalidRequest

FILE_BYTES_MAX: Final = 4 << 20
"""The largest of them: no chain of certificates and no site's tokens are as large."""
_CERTIFICATE: Final = b"-----BEGIN CERTIFICATE-----"
_KEY_ENDS: Final = b"PRIVATE KEY-----"
_ENCRYPTED: Final = (b"-----BEGIN ENCRYPTED PRIVATE KEY-----", b"Proc-Type: 4,ENCRYPTED")


def private_file(setting: str, path: Path) -> bytes:
    """What is in a file that is for this account alone. Raises `InvalidRequest` with what mends it."""
    try:
        mode, data = path.stat().st_mode, read_own(path, FILE_BYTES_MAX)
    except PermissionError:
        raise InvalidRequest(f"{setting}: {path} cannot be read; chmod 0600 it, as its owner") from None
    except OSError as error:
        raise InvalidRequest(f"{setting}: {path} cannot be read: {error.strerror}") from None
    if mode & 0o077:
        raise InvalidRequest(f"{setting}: {path} can be read by others; chmod 0600 it")
    return data


def tls_pair(certificate: Path, key: Path) -> tuple[bytes, bytes]:
    """(key, certificate chain) in PEM, which belong together. Raises `InvalidRequest` naming the file."""
    secret = private_file("tls_key_file", key)
    chain = certificates("tls_cert_file", certificate)
    if any(mark in secret for mark in _ENCRYPTED):
        raise InvalidRequest(
            f"tls_key_file: {key} is encrypted, and nobody is asked for its passphrase: write it in the clear"
            f" with `openssl pkey -in {key} -out FILE`, chmod 0600 that and name it"
        )
    if b"-----BEGIN " not in secret or _KEY_ENDS not in secret:
        raise InvalidRequest(
            f"tls_key_file: {key} holds no private key in PEM (`-----BEGIN PRIVATE KEY-----`); name the key"
            f" that {certificate} was made with"
        )
    context = _context()
    try:
        context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"):
            raise InvalidRequest(
                f"tls_key_file: {key} is not the key of the certificate in {certificate}; name the key that"
                " was made for it (in a chain, the server's own certificate stands first)"
            ) from None
        raise InvalidRequest(
            f"tls_key_file: {key} is damaged: {_reason(error)}; name the key that {certificate} was made with"
        ) from None
    return secret, chain


def certificates(setting: str, path: Path) -> bytes:
    """A file of certificates in PEM. Raises `InvalidRequest` naming the setting and the file."""
    try:
        data = read_own(path, FILE_BYTES_MAX)
    except OSError as error:
        raise InvalidRequest(f"{setting}: {path} cannot be read: {error.strerror}") from None
    if _CERTIFICATE not in data:
        raise InvalidRequest(
            f"{setting}: {path} holds no certificate in PEM (`{_CERTIFICATE.decode()}`); name the file that"
            " has it, or write it so with `openssl x509 -in FILE -inform DER`"
        )
    try:
        _context().load_verify_locations(cafile=path)
    except ssl.SSLError as error:
        raise InvalidRequest(
            f"{setting}: {path} is damaged: {_reason(error)}; copy it again from where it was made"
        ) from None
    return data


def check(listen: str, certificate: Path, key: Path, authorities: Path) -> None:
    """All that a daemon with these settings would serve or call with. Raises `InvalidRequest`."""
    if listen:
        tls_pair(certificate, key)
    if authorities != Path():
        certificates("oidc_ca_file", authorities)


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("ALL:@SECLEVEL=0")  # how strong a key is, gRPC judges: here it is only the right one
    return context


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or "it cannot be parsed").lower().replace("_", " ")
