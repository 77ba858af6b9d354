"""TLS between two programs that know each other's certificates from a third, which both trust.

Owns    a pair of key and certificate that lives as long as its program, and the contexts of both ends.
Why     ports that come and go have no names that an authority would vouch for. The daemon knows who said
        what, so a certificate is good because it says whose it is, and no other is.
"""

from __future__ import annotations

import os
import ssl
from base64 import b64decode, b64encode
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

CHARS_MAX: Final = 2_048
"""Of one certificate: ours has 400."""
# Nobody's clock decides whether it is good.
_FROM, _UNTIL = datetime(2000, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)


class Pair(NamedTuple):
    """`file` has key and certificate; `certificate` is the latter as others are told of it: DER in base64."""

    file: Path
    certificate: str


def is_certificate(text: str) -> bool:
    """Does it look like one certificate, and nothing else?"""
    if not 0 < len(text) <= CHARS_MAX:
        return False
    try:
        found = b64decode(text, validate=True)
    except ValueError:
        return False
    return _is_sequence(found) and b64encode(found).decode() == text


def _is_sequence(found: bytes) -> bool:
    """Is it one sequence of DER, as long as it says?"""
    if len(found) < 2 or found[0] != 0x30:
        return False
    size = found[1] - 0x80 if found[1] > 0x80 else 0
    length = int.from_bytes(found[2 : 2 + size]) if size else found[1]
    return len(found) == 2 + size + length


def digest_of(certificate: str) -> str:
    """What names a certificate, in hexadecimal digits."""
    return sha256(certificate.encode()).hexdigest()


def make_pair(file: Path) -> Pair:
    """A fresh key, written to a private file. Raises `OSError`, `ImportError`."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bursar")])
    made = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), _FROM, _UNTIL
    ).sign(key, hashes.SHA256())
    certificate = made.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    fresh = file.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as written:
        written.write(secret + certificate)
    os.replace(fresh, file)
    return Pair(file, b64encode(made.public_bytes(serialization.Encoding.DER)).decode())


def context(pair: Pair, trusted: Iterable[str], *, server: bool) -> ssl.SSLContext:
    """Of one end: it shows `pair`, and the other end must show one of `trusted`. What is none lets
    nobody in, and keeps nobody out. Raises `OSError`: none of them is one, or there is no pair.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.check_hostname = False
    made.verify_mode = ssl.CERT_REQUIRED
    made.verify_flags = ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    made.load_cert_chain(pair.file)
    for one in trusted:
        with suppress(ssl.SSLError):
            made.load_verify_locations(cadata=b64decode(one))
    if not made.cert_store_stats()["x509"]:
        raise OSError("none of the certificates can be read")
    return made
