"""`bursar login`: a person's login at the site's identity provider becomes their calls, for one server."""

from __future__ import annotations

import asyncio
import base64
import datetime
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from identity_provider import CLIENT, Provider, provider
from whole_site import Site

from bursar.cli import login as verbs
from bursar.cli.main import run
from bursar.client import address, logins
from bursar.client.link import Identity
from bursar.clock import SystemClock
from bursar.errors import BursarError, Forbidden, InvalidRequest, ServerUnavailable, Unauthenticated
from bursard.access.keyset import Keys, fetcher
from bursard.access.oidc import Rules, Verifier, read_grants

SERVER = "bursar.example.org:7443"


@pytest.fixture
def now() -> dict[str, float]:
    return {"s": 1_800_000_000.0}


@pytest.fixture
def idp(now: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("BURSAR_TOKEN", raising=False)
    monkeypatch.setattr(logins, "wall_s", lambda: now["s"])
    with provider(lambda: int(now["s"])) as made:
        made.approved = True
        yield made


def log_in(idp: Provider, now: dict[str, float], sleep: Callable[[float], None] = lambda _: None) -> None:
    found = logins.discover(idp.issuer)
    started = logins.start(found, CLIENT, now["s"])
    logins.keep(SERVER, logins.finish(found, CLIENT, started, lambda: now["s"], sleep))


def token(now: dict[str, float]) -> str:
    return logins.token(SERVER, lambda: now["s"])[0]


def test_a_login_is_kept_for_its_server_alone_in_a_file_of_its_owner(
    idp: Provider, now: dict[str, float]
) -> None:
    log_in(idp, now)
    assert stat.S_IMODE(logins.path().stat().st_mode) == 0o600
    assert token(now).count(".") == 2
    assert logins.known(SERVER)
    assert not logins.known("other.example.org:7443")
    with pytest.raises(Unauthenticated, match="bursar login"):
        logins.token("other.example.org:7443")


def test_a_login_waits_for_its_person_as_slowly_as_the_provider_asks(
    idp: Provider, now: dict[str, float]
) -> None:
    idp.approved = False
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        idp.pending = "slow_down" if len(waited) == 1 else "authorization_pending"
        idp.approved = len(waited) == 3

    log_in(idp, now, sleep)
    assert waited == [0.0, logins.POLL_S, logins.POLL_S]


@pytest.mark.parametrize("word", ["access_denied", "expired_token", "anything else"])
def test_a_login_that_is_not_given_says_so(idp: Provider, now: dict[str, float], word: str) -> None:
    idp.approved, idp.pending = False, word
    with pytest.raises(Unauthenticated, match=word):
        log_in(idp, now)
    assert not logins.path().exists()


def test_a_login_that_nobody_comes_to_ends_by_itself(idp: Provider, now: dict[str, float]) -> None:
    idp.approved = False

    def sleep(_: float) -> None:
        now["s"] += 300

    with pytest.raises(Unauthenticated, match="in time"):
        log_in(idp, now, sleep)


def test_a_token_is_refreshed_before_it_ends_and_once_for_two_commands(
    idp: Provider, now: dict[str, float]
) -> None:
    log_in(idp, now)
    first, asked = token(now), idp.asked["/token"]
    assert token(now) == first
    now["s"] += idp.life_s - logins.SOON_S
    second = token(now)
    assert second != first
    assert token(now) == second
    assert idp.asked["/token"] == asked + 1
    assert "r1" in logins.path().read_text()


def test_a_login_that_cannot_be_refreshed_is_good_to_its_end_and_then_says_what_to_do(
    idp: Provider, now: dict[str, float]
) -> None:
    log_in(idp, now)
    idp.refreshes = False
    now["s"] += idp.life_s + 1
    with pytest.raises(Unauthenticated, match="bursar login --server grpcs://bursar"):
        token(now)


def test_a_file_that_others_can_read_is_not_used(idp: Provider, now: dict[str, float]) -> None:
    log_in(idp, now)
    logins.path().chmod(0o640)
    with pytest.raises(Forbidden, match="others can read it"):
        token(now)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 7}', '{"bursar.example.org:7443": {}}'])
def test_a_file_that_was_damaged_is_no_login(idp: Provider, text: str) -> None:
    logins.path().parent.mkdir(exist_ok=True, parents=True)
    logins.path().write_text(text)
    logins.path().chmod(0o600)
    assert not logins.known(SERVER)


def test_logging_out_forgets_the_login_and_tells_the_provider(idp: Provider, now: dict[str, float]) -> None:
    idp.document["revocation_endpoint"] = f"{idp.issuer}/revoke"
    log_in(idp, now)
    assert logins.forget(SERVER)
    assert not logins.known(SERVER)
    assert idp.forms[-1] == {"token": "r1", "client_id": CLIENT}
    assert not logins.forget(SERVER)


@pytest.mark.parametrize(("told", "words"), [
    ({"issuer": "https://evil.example"}, "calls itself"),
    ({"token_endpoint": "http://evil.example/token"}, "is not https"),
    ({"device_authorization_endpoint": ""}, "no login for devices"),
])  # fmt: skip
def test_a_provider_is_not_followed_that(
    idp: Provider, now: dict[str, float], told: dict[str, Any], words: str
) -> None:
    idp.document |= told
    with pytest.raises(InvalidRequest, match=words):
        log_in(idp, now)


def test_a_provider_that_is_away_is_said_to_be(idp: Provider) -> None:
    with pytest.raises(ServerUnavailable, match="cannot be asked"):
        logins.discover("http://127.0.0.1:1")
    with pytest.raises(InvalidRequest, match="not https"):
        logins.discover("http://id.example.org")


def test_no_words_of_a_provider_are_more_than_an_error(
    idp: Provider, now: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, told = idp.answer, {"verification_uri": "v", "user_code": "u", "device_code": "d"}
    for page, words, problem in (
        ("/device", told | {"expires_in": float("nan")}, InvalidRequest),
        ("/device", told | {"expires_in": 10**400}, InvalidRequest),
        ("/device", told | {"expires_in": 60, "interval": float("nan")}, InvalidRequest),
        ("/device", told | {"expires_in": 60, "device_code": "\ud800"}, ServerUnavailable),
        ("/token", {"id_token": unsigned(b'{"exp":1' + b"0" * 400 + b"}")}, Unauthenticated),
        ("/token", {"id_token": unsigned(b'{"exp":NaN}')}, Unauthenticated),
        ("/token", {"id_token": unsigned(b"[" * 4_000)}, Unauthenticated),
        ("/token", {"id_token": unsigned(b'{"exp":1}') + "\n"}, Unauthenticated),
    ):
        monkeypatch.setattr(
            idp, "answer", lambda path, *rest, p=page, w=words: (200, w) if path == p else answer(path, *rest)
        )
        with pytest.raises(problem):
            log_in(idp, now)


def test_nothing_that_a_provider_says_acts_on_a_terminal(
    idp: Provider, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither where to go, nor the code, nor why not; what is of several lines stays so."""
    answer = idp.answer
    told = {
        "verification_uri": "https://x\x1b]52;c;cm0=\x07", "user_code": "\x1b[2Jcode", "device_code": "d",
        "interval": 0, "expires_in": 5,
    }  # fmt: skip
    odd = {"/device": (200, told), "/token": (400, {"error": "no\nway\x1b[2J"})}
    monkeypatch.setattr(idp, "answer", lambda path, *rest: odd[path] if path in odd else answer(path, *rest))
    monkeypatch.setattr(verbs, "_told", lambda _: (idp.issuer, CLIENT))
    assert run(["login", "--server", f"grpcs://{SERVER}"]) != 0
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert "\x07" not in said
    assert "open https://x\\x1b]52;c;cm0=\\x07\nand enter the code \\x1b[2Jcode\n" in said
    assert "the login was not given: no\nway\\x1b[2J\n" in said


def unsigned(claims: bytes) -> str:
    return f"e30.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.AAAA"


def test_an_end_beyond_all_years_is_the_last_one(idp: Provider, now: dict[str, float]) -> None:
    log_in(idp, now)
    kept = json.loads(logins.path().read_text())
    kept[SERVER]["id_token"] = unsigned(b'{"exp":1e300}')
    logins.path().write_text(json.dumps(kept))
    _, left_s = logins.token(SERVER, lambda: now["s"])
    assert left_s == logins.ENDS_S_MAX - now["s"]


def test_only_scopes_that_a_provider_has_are_asked_for(idp: Provider, now: dict[str, float]) -> None:
    idp.document["scopes_supported"] = ["openid", "email"]
    log_in(idp, now)
    assert {form["scope"] for form in idp.forms if "scope" in form} == {"openid email"}


def test_a_token_of_the_environment_goes_before_a_login_and_a_login_before_the_token_file(
    idp: Provider, now: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = address.parse(f"grpcs://{SERVER}", "--server")
    log_in(idp, now)
    address.token_path().write_text("of-the-file")
    address.token_path().chmod(0o600)
    assert Identity(there, None).metadata() == (("authorization", f"Bearer {token(now)}"),)
    other = address.parse("grpcs://other.example.org:7443", "--server")
    assert Identity(other, None).metadata() == (("authorization", "Bearer of-the-file"),)
    monkeypatch.setenv("BURSAR_TOKEN", "of-the-environment")
    assert Identity(there, None).metadata() == (("authorization", "Bearer of-the-environment"),)


def certificate(folder: str) -> tuple[bytes, bytes]:
    """Of `localhost`: key and certificate, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    day = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(day)
        .not_valid_after(day + datetime.timedelta(days=36_500))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    Path(folder, "ca.pem").write_bytes(made)
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return key.private_bytes(*plain), made


def test_the_verbs_against_a_real_server_over_tls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("BURSAR_TOKEN", raising=False)
    clock = SystemClock()

    async def said(*words: str) -> tuple[int, str, str]:
        code = await asyncio.to_thread(run, [*words])
        told = capsys.readouterr()
        return code, told.out, told.err

    async def story(idp: Provider) -> None:
        with tempfile.TemporaryDirectory(prefix="b") as folder:
            site = Site(folder)
            port = site.server.add_secure_port(
                "localhost:0", grpc.ssl_server_credentials([certificate(folder)])
            )
            async with site:
                monkeypatch.setenv("BURSAR_CA_FILE", f"{folder}/ca.pem")
                there = ("--server", f"grpcs://localhost:{port}")
                code, _, err = await said("login", *there)
                assert (code, "has no identity provider" in err) == (2, True)
                rules = Rules(idp.issuer, (CLIENT,), CLIENT, grants=read_grants(["nlp-team=submitter@nlp"]))
                keys = Keys(idp.issuer, fetcher(Path()), site.clock.boot_us)
                site.authority._provider = Verifier(rules, keys, clock.now)
                code, out, err = await said("login", *there)
                assert (code, f"{idp.issuer}/activate" in err, "WDJB-MJHT" in err) == (0, True, True)
                assert "as ann@example.org (submitter of nlp)" in out
                assert (await said("ls", *there))[0] == 0
                kept = json.loads(logins.path().read_text())
                assert list(kept) == [f"localhost:{port}"]
                assert (await said("logout", *there))[:2] == (0, f"logged out of {there[1]}\n")
                assert (await said("logout", *there))[0] == 4
                code, _, err = await said("ls", *there)
                assert (code, "bursar login" in err) == (3, True)
                idp.claims["groups"] = []
                site.clock.advance(1)
                code, _, err = await said("login", *there)
                assert (code, "has no role here" in err, logins.known(f"localhost:{port}")) == (
                    3,
                    True,
                    False,
                )

    with provider(lambda: clock.now() // 1_000_000) as idp:
        idp.approved = True
        asyncio.run(story(idp))


def test_on_a_socket_there_is_nothing_to_log_in_to(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("login", "logout"):
        assert run([verb, "--server", "unix:///tmp/none/bursar.sock"]) == 2
        assert "knows you by your account" in capsys.readouterr().err


def test_no_fault_of_the_file_is_more_than_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    os.makedirs(logins.path())
    with pytest.raises(BursarError, match="cannot be read"):
        logins.known(SERVER)
