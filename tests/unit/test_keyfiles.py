"""The files of TLS: what is wrong with which of them, before gRPC is given any."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bursar.errors import InvalidRequest
from bursard import keyfiles
from bursard.__main__ import main


def _made(password: bytes | None = None) -> tuple[bytes, bytes]:
    """(certificate, key) in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bursard")])
    begins = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, begins, begins.replace(year=2036))
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    how = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return certificate, key.private_bytes(pem, pkcs8, how)


CERTIFICATE, KEY = _made()
OTHER_KEY = _made()[1]
ENCRYPTED_KEY = _made(b"secret")[1]
CUT = CERTIFICATE[:120] + b"\n-----END CERTIFICATE-----\n"


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(CERTIFICATE)
    key.write_bytes(KEY)
    key.chmod(0o600)
    return cert, key


def test_a_certificate_and_its_key_are_taken_as_they_are(files: tuple[Path, Path]) -> None:
    assert keyfiles.tls_pair(*files) == (KEY, CERTIFICATE)


@pytest.mark.parametrize("data", [b"", b"\x00\xff" * 500, KEY, b"-----BEGIN CERTIFICATE-----"])
def test_a_certificate_that_is_none_is_named_with_its_file(files: tuple[Path, Path], data: bytes) -> None:
    files[0].write_bytes(data)
    with pytest.raises(InvalidRequest, match=f"^tls_cert_file: {files[0]} (holds no certificate|is damaged)"):
        keyfiles.tls_pair(*files)


def test_a_certificate_that_was_cut_is_damaged(files: tuple[Path, Path]) -> None:
    files[0].write_bytes(CUT)
    with pytest.raises(InvalidRequest, match=f"^tls_cert_file: {files[0]} is damaged: .+; copy it again"):
        keyfiles.tls_pair(*files)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "holds no private key in PEM"),
        (b"\x00\xff" * 500, "holds no private key in PEM"),
        (CERTIFICATE, "holds no private key in PEM"),
        (OTHER_KEY, "is not the key of the certificate in"),
        (ENCRYPTED_KEY, "is encrypted, .*openssl pkey -in"),
        (KEY[:60] + b"\n-----END PRIVATE KEY-----\n", "is damaged"),
    ],
)
def test_a_key_that_cannot_be_the_certificates_is_named_with_its_file(
    files: tuple[Path, Path], data: bytes, said: str
) -> None:
    files[1].write_bytes(data)
    with pytest.raises(InvalidRequest, match=f"^tls_key_file: {files[1]} {said}"):
        keyfiles.tls_pair(*files)


@pytest.mark.parametrize("put", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir])
def test_what_is_no_plain_file_is_neither_waited_for_nor_read_without_end(
    files: tuple[Path, Path], put: Callable[[Path], None]
) -> None:
    for path, setting in zip(files, ("tls_cert_file", "tls_key_file"), strict=True):
        kept = path.read_bytes()
        path.unlink()
        put(path)
        with pytest.raises(InvalidRequest, match=f"{setting}: {path} cannot be read: it is no plain file"):
            keyfiles.tls_pair(*files)
        path.rmdir() if path.is_dir() else path.unlink()
        path.write_bytes(kept)
        path.chmod(0o600)


def test_a_file_past_the_bound_is_refused(files: tuple[Path, Path]) -> None:
    with files[0].open("ab") as stream:
        stream.truncate(keyfiles.FILE_BYTES_MAX + 1)
    with pytest.raises(InvalidRequest, match=r"tls_cert_file: .* it has more than"):
        keyfiles.tls_pair(*files)


def test_check_config_looks_into_them_too(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    cert, key = files
    asked = ["--listen", "127.0.0.1:7443", "--tls-cert-file", str(cert), "--tls-key-file", str(key)]
    assert main([*asked, "--check-config"]) == 0
    key.write_bytes(OTHER_KEY)
    assert main([*asked, "--check-config"]) == 2
    assert f"tls_key_file: {key} is not the key of" in capsys.readouterr().err


def test_authorities_that_are_none_are_named() -> None:
    with pytest.raises(InvalidRequest, match="oidc_ca_file: /dev/zero cannot be read: it is no plain file"):
        keyfiles.check("", Path(), Path(), Path("/dev/zero"))
