"""Tokens of a site's identity provider: what is taken, and everything that is not."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import json
import pwd
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from identity_provider import CLIENT, Provider, provider
from joserfc.jwk import ECKey, RSAKey
from whole_site import START, Site

from bursar.client import logins
from bursar.client.inall import InAll
from bursar.clock import HOUR_US, SECOND_US, VirtualClock
from bursar.errors import InvalidRequest, ServerUnavailable, Unauthenticated
from bursard import settings
from bursard.access import keyset
from bursard.access.identity import Grant, Identity, Role
from bursard.access.keyset import AGAIN_US, BELIEVED_US, FRESH_US, Keys, KeyUnknown, fetcher
from bursard.access.oidc import KEPT_MAX, TOKEN_CHARS_MAX, Rules, Verifier, read_grants
from bursard.access.tokens import Authority
from bursard.state import State

NOW_S = START // SECOND_US


@pytest.fixture
def idp() -> Iterator[Provider]:
    with provider(lambda: NOW_S) as made:
        yield made


class World:
    """A provider, the daemon's view of it, and a clock."""

    def __init__(self, idp: Provider, **rules: Any) -> None:
        self.idp = idp
        self.clock = VirtualClock(START)
        mapped = ("nlp-team=submitter@nlp", "ops=operator", "cn=a,ou=b=viewer")
        self.rules = Rules(
            **({"issuer": idp.issuer, "audiences": (CLIENT, "bursar-web"), "client_id": CLIENT} | rules),
            grants=read_grants(mapped),
        )
        self.keys = Keys(self.rules.issuer, fetcher(Path()), self.clock.boot_us)
        self.verifier = Verifier(self.rules, self.keys, self.clock.now)
        self.state = State()
        self.authority = Authority(self.state, self.clock, local_role=None, provider=self.verifier)

    def admit(self, token: str) -> Identity:
        return asyncio.run(self.authority.admit(f"Bearer {token}"))

    def refusal(self, token: str) -> str:
        with pytest.raises(Unauthenticated) as refused:
            self.admit(token)
        return refused.value.message


def test_a_good_token_is_its_user_with_the_roles_of_their_groups(idp: Provider) -> None:
    world = World(idp)
    found = world.admit(idp.token(groups=["nlp-team", "ops", "cn=a,ou=b", "no-such-group"]))
    assert found.name == "ann@example.org"
    assert set(found.held) == {
        Grant(Role.SUBMITTER, "nlp"), Grant(Role.OPERATOR), Grant(Role.VIEWER),
    }  # fmt: skip
    assert not found.local


def test_what_was_granted_by_hand_adds_to_what_groups_give(idp: Provider) -> None:
    world = World(idp)
    assert "ann@example.org has no role here" in world.refusal(idp.token(groups=[]))
    world.state.grants.put("ann@example.org", Grant(Role.FINANCE))
    assert world.admit(idp.token(groups=[])).held == (Grant(Role.FINANCE),)


def test_the_group_star_is_everybody_and_nobody_can_be_in_a_group_of_that_name(idp: Provider) -> None:
    world = World(idp)
    world.verifier.rules = msgspec.structs.replace(world.rules, grants=read_grants(["*=viewer"]))
    assert world.admit(idp.token(groups=None)).held == (Grant(Role.VIEWER),)
    world.verifier.rules = msgspec.structs.replace(world.rules, grants={})
    assert "no role" in world.refusal(idp.token(groups=["*"]))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another issuer": ({"iss": "https://evil.example"}, "another iss"),
    "no issuer": ({"iss": None}, "lacks iss"),
    "for another program": ({"aud": "other"}, "another aud"),
    "for several others": ({"aud": ["other", "more"]}, "another aud"),
    "for nobody": ({"aud": None}, "lacks aud"),
    "an audience that is no text": ({"aud": [7]}, "another aud"),
    "for us and others, asked for by nobody": ({"aud": [CLIENT, "other"]}, "another program"),
    "for us and others, asked for by another": (
        {"aud": [CLIENT, "other"], "azp": "other"}, "another program",
    ),
    "expired": ({"exp": NOW_S - 61}, "has expired"),
    "without an end": ({"exp": None}, "lacks exp"),
    "an end that is true": ({"exp": True}, "another exp"),
    "an end that is a text": ({"exp": "9999999999"}, "another exp"),
    "not yet good": ({"nbf": NOW_S + 61}, "another nbf"),
    "of the future": ({"iat": NOW_S + 61}, "another iat"),
    "without its time": ({"iat": None}, "lacks iat"),
    "of nobody": ({"sub": None}, "lacks sub"),
    "without a name": ({"email": None}, "no text as email"),
    "a name that is a list": ({"email": ["ann@example.org"]}, "no text as email"),
    "an address that was not verified": ({"email_verified": False}, "not verified"),
    "an address of which nothing is known": ({"email_verified": None}, "not verified"),
    "an address verified in words": ({"email_verified": "true"}, "not verified"),
    "a name with a colon": ({"email": "node:n1"}, "no name of a user"),
    "a name of two lines": ({"email": "ann\nroot"}, "no name of a user"),
    "a name that is too long": ({"email": "a" * 64}, "no name of a user"),
    "the name of the daemon": ({"email": "bursard"}, "no name of a user"),
    "the name root": ({"email": "root"}, "no name of a user"),
    "a name of one digit": ({"email": "0"}, "machine's own"),
    "a name of digits": ({"email": "1000"}, "machine's own"),
    "a local account without a name": ({"email": "uid-1000"}, "machine's own"),
    "groups that are a table": ({"groups": {"ops": True}}, "no list"),
    "too many groups": ({"groups": [""] * 1001}, "no list"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_token_is_refused_that_is(idp: Provider, case: str) -> None:
    claims, words = REFUSED[case]
    assert words in World(idp).refusal(idp.token(**claims))


@pytest.mark.parametrize(("uid", "taken"), [(1, False), (999, False), (65_534, False), (1_000, True)])
def test_an_account_of_the_system_is_nobodys_name(
    idp: Provider, monkeypatch: pytest.MonkeyPatch, uid: int, taken: bool
) -> None:
    entry = pwd.struct_passwd(("games", "x", uid, uid, "", "/", "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwnam", {"games": entry}.__getitem__)
    world = World(idp, user_claim="preferred_username")
    token = idp.token(preferred_username="games")
    if taken:
        assert world.admit(token).name == "games"
    else:
        assert "machine's own" in world.refusal(token)
    assert World(idp, user_claim="preferred_username", user_prefix="sso.").admit(token).name == "sso.games"


@pytest.mark.parametrize("claims", [
    {"exp": NOW_S - 59}, {"nbf": NOW_S + 59}, {"iat": NOW_S + 59},
    {"aud": [CLIENT]}, {"aud": [CLIENT, "other"], "azp": CLIENT}, {"aud": "bursar-web"}, {"azp": CLIENT},
])  # fmt: skip
def test_a_clock_that_is_a_little_off_and_one_of_our_programs_are_taken(
    idp: Provider, claims: dict[str, Any]
) -> None:
    assert World(idp).admit(idp.token(**claims)).name == "ann@example.org"


@pytest.mark.parametrize("kind", ["logout+jwt", "secevent+jwt", "JWE"])
def test_a_token_of_another_purpose_is_refused(idp: Provider, kind: Any) -> None:
    assert "another kind" in World(idp).refusal(tampered(idp.token(), typ=kind))


@pytest.mark.parametrize("kind", [None, "JWT", "at+jwt", "application/at+jwt"])
def test_identity_and_access_tokens_are_taken_alike(idp: Provider, kind: str | None) -> None:
    assert World(idp).admit(idp.token({"typ": kind})).name == "ann@example.org"


def tampered(token: str, **head: Any) -> str:
    """The token with other words in its head, and its signature as it was."""
    top, body, signature = token.split(".")
    said = json.loads(base64.urlsafe_b64decode(top + "==")) | head
    kept = {name: value for name, value in said.items() if value is not None}
    return f"{base64.urlsafe_b64encode(json.dumps(kept).encode()).decode().rstrip('=')}.{body}.{signature}"


def test_a_token_is_not_good_without_the_very_signature_of_the_very_text(idp: Provider) -> None:
    world = World(idp)
    top, body, signature = idp.token().split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "==")) | {"groups": ["ops"]}
    other = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    for token in (f"{top}.{other}.{signature}", f"{top}.{body}.", f"{top}.{body}.{signature[:-6]}AAAAAA"):
        assert "cannot be verified" in world.refusal(token)
    foreign = RSAKey.generate_key(2048, {"kid": "k1", "alg": "RS256"})
    assert "cannot be verified" in world.refusal(idp.token(key=foreign))


def test_a_public_key_is_never_taken_for_a_shared_secret(idp: Provider) -> None:
    """The known way in: HS256 with the text of the public key, or no algorithm at all."""
    world = World(idp)
    signed = tampered(idp.token(), alg="HS256").rpartition(".")[0]
    proof = hmac.digest(idp.key.as_pem(private=False), signed.encode(), "sha256")
    forged = f"{signed}.{base64.urlsafe_b64encode(proof).decode().rstrip('=')}"
    assert "not allowed" in world.refusal(forged)
    del idp.public[0]["alg"]
    assert "not allowed" in World(idp).refusal(forged)
    top, body, _ = tampered(idp.token(), alg="none").split(".")
    assert "not allowed" in World(idp).refusal(f"{top}.{body}.")


def test_only_allowed_algorithms_count_and_only_the_one_that_a_key_is_for(idp: Provider) -> None:
    world = World(idp)
    assert "another algorithm" in world.refusal(tampered(idp.token(), alg="ES256"))
    loose = RSAKey.import_key({**idp.key.as_dict(private=True), "alg": "PS256"})
    assert "cannot be verified" in world.refusal(idp.token({"alg": "PS256"}, key=loose))
    free = World(idp, algorithms=("RS256", "PS256"))
    assert "another algorithm than its key is for" in free.refusal(idp.token({"alg": "PS256"}, key=loose))


def test_keys_that_the_token_brings_itself_are_not_looked_at(idp: Provider) -> None:
    world = World(idp)
    mine = RSAKey.generate_key(2048, {"kid": "mine"})
    for brought in ({"jwk": mine.as_dict(private=False)}, {"jku": "http://127.0.0.1:1/keys"}):
        assert "not known here" in world.refusal(
            idp.token({"kid": "mine", "alg": "RS256", **brought}, key=mine)
        )
    assert "cannot be verified" in world.refusal(tampered(idp.token(), crit=["exp"], exp=1))
    assert "names no key" in world.refusal(idp.token({"kid": None}))


@pytest.mark.parametrize("text", ["a.b.c", "..", "e30.e30.", "\x00.\x00.\x00", "é.é.é", "a.b.c.d.e"])
def test_what_is_no_token_is_refused_and_never_a_fault(idp: Provider, text: str) -> None:
    assert "token" in World(idp).refusal(text)


def test_a_token_that_is_too_long_is_not_looked_at(idp: Provider) -> None:
    assert "more than the 7000" in World(idp).refusal(f"{'a' * TOKEN_CHARS_MAX}.b.c")


def test_a_key_that_is_new_is_learnt_when_a_token_names_it_and_one_that_is_gone_is_good_no_more(
    idp: Provider,
) -> None:
    async def story() -> None:
        world = World(idp)
        first = f"Bearer {idp.token()}"
        assert (await world.authority.admit(first)).name == "ann@example.org"
        idp.rotate("k2")
        second = f"Bearer {idp.token()}"
        with pytest.raises(KeyUnknown):  # looked just now
            await world.authority.admit(second)
        world.clock.advance(AGAIN_US)
        assert (await world.authority.admit(second)).name == "ann@example.org"
        assert world.authority.identify(first).name == "ann@example.org"
        del idp.public[0]
        world.clock.advance(AGAIN_US)
        await world.keys.learn()
        with pytest.raises(KeyUnknown):
            world.authority.identify(first)
        assert world.authority.identify(second).name == "ann@example.org"

    asyncio.run(story())


@pytest.mark.parametrize("kind", ["the same", "another"])
def test_a_key_that_is_replaced_under_its_name_is_good_no_more_and_the_new_one_is_learnt(
    idp: Provider, kind: str
) -> None:
    async def story() -> None:
        world = World(idp)
        first = f"Bearer {idp.token()}"
        name = idp.public[0]["kid"]
        assert (await world.authority.admit(first)).name == "ann@example.org"
        if kind == "another":
            idp.rotate(name)
            del idp.public[0]
        else:
            idp.key = RSAKey.generate_key(2048, {"kid": name, "alg": "RS256", "use": "sig"})
            idp.public[:] = [idp.key.as_dict(private=False)]
        second = f"Bearer {idp.token()}"
        with pytest.raises(KeyUnknown):  # looked just now
            await world.authority.admit(second)
        world.clock.advance(AGAIN_US)
        assert (await world.authority.admit(second)).name == "ann@example.org"
        with pytest.raises(Unauthenticated):
            world.authority.identify(first)
        assert world.authority.identify(second).name == "ann@example.org"

    asyncio.run(story())


def test_strangers_tokens_make_us_ask_once_in_a_while_however_many_they_are(idp: Provider) -> None:
    async def story() -> None:
        world = World(idp)
        strange = RSAKey.generate_key(2048, {"kid": "strange", "alg": "RS256"})
        token = f"Bearer {idp.token(key=strange)}"
        refused = await asyncio.gather(
            *(world.authority.admit(token) for _ in range(100)), return_exceptions=True
        )
        assert {type(one) for one in refused} == {KeyUnknown}
        assert (idp.asked["/keys"], idp.asked["/.well-known/openid-configuration"]) == (1, 1)

    asyncio.run(story())


def test_a_provider_that_is_away_keeps_nobody_out_for_a_day(idp: Provider) -> None:
    async def story() -> None:
        world = World(idp)
        await world.keys.learn()
        world.keys._fetch = _away
        for passed in (FRESH_US, HOUR_US):
            world.clock.advance(passed)
            await world.keys.learn()
        idp.life_s = 2 * BELIEVED_US // SECOND_US
        token = f"Bearer {idp.token()}"
        assert world.authority.identify(token).name == "ann@example.org"
        assert "does not tell its keys: gone" in world.keys.problem
        world.clock.advance(BELIEVED_US)
        with pytest.raises(KeyUnknown, match="gone"):
            world.authority.identify(token)

    asyncio.run(story())


def _away(_: str) -> bytes:
    raise OSError("gone")


def test_an_end_holds_for_a_token_that_was_good_before_and_for_its_streams(idp: Provider) -> None:
    async def story() -> None:
        world = World(idp)
        token = f"Bearer {idp.token()}"
        who = await world.authority.admit(token)
        world.clock.advance((idp.life_s + 59) * SECOND_US)
        assert world.authority.renew(who, token) == who
        world.clock.advance(2 * SECOND_US)
        with pytest.raises(Unauthenticated, match="expired"):
            world.authority.renew(who, token)

    asyncio.run(story())


def test_tokens_that_are_kept_are_bounded(idp: Provider) -> None:
    world = World(idp)
    world.admit(idp.token())
    kept = world.verifier._kept
    [(digest, claimed)] = kept.items()
    kept.update({f"{number}": claimed for number in range(KEPT_MAX - 1)})
    world.admit(idp.token(sub="another"))
    assert len(kept) == KEPT_MAX
    assert digest not in kept


DOCUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "is another's": ({"issuer": "https://evil.example"}, "it is 'https://evil.example'"),
    "names keys in clear elsewhere": ({"jwks_uri": "http://evil.example/keys"}, "no address of keys"),
    "names no keys": ({"jwks_uri": None}, "no address of keys"),
    "names a file": ({"jwks_uri": "file:///etc/passwd"}, "no address of keys"),
}


@pytest.mark.parametrize("case", DOCUMENTS)
def test_a_document_is_not_believed_that(idp: Provider, case: str) -> None:
    told, words = DOCUMENTS[case]
    idp.document |= told
    world = World(idp)
    assert words in world.refusal(idp.token())


def keys_of(idp: Provider, *public: Any) -> str:
    idp.public = list(public)
    return World(idp).refusal(idp.token())


def test_keys_that_are_no_use_are_passed_over(idp: Provider) -> None:
    weak = {**idp.public[0], "n": base64.urlsafe_b64encode(b"\xff" * 128).decode().rstrip("=")}
    assert "no key" in keys_of(idp, weak)
    assert "no key" in keys_of(idp, {"kty": "oct", "kid": "k1", "k": "c2VjcmV0"}, 7, {"kty": "RSA"})
    assert "no key" in keys_of(idp, {**idp.public[0], "use": "enc"})
    assert "no list of at most 64" in keys_of(idp, *[idp.public] * 65)


def test_answers_of_a_provider_are_bounded_and_it_cannot_lead_elsewhere(idp: Provider) -> None:
    fetch = fetcher(Path())
    idp.document = {"issuer": "x" * keyset.DOCUMENT_BYTES_MAX}
    with pytest.raises(ValueError, match="more than"):
        fetch(f"{idp.issuer}{keyset.DISCOVERY}")
    with pytest.raises(OSError, match="302"):
        fetch(f"{idp.issuer}/authorize?redirect_uri={idp.issuer}/keys&state=s")


def test_who_is_refused_learns_where_to_log_in(idp: Provider) -> None:
    world = World(idp)
    with pytest.raises(Unauthenticated) as refused:
        world.authority.identify("Bearer nothing")
    assert refused.value.facts == {"issuer": idp.issuer, "client_id": CLIENT}


def test_elliptic_keys_and_other_claims_and_a_prefix(idp: Provider) -> None:
    idp.public = []
    idp.rotate("e1")
    world = World(idp, user_claim="preferred_username", user_prefix="sso.", groups_claim="realm_access.roles")
    token = idp.token(preferred_username="root", groups=None, realm_access={"roles": ["ops"]})
    found = world.admit(token)
    assert (found.name, found.held) == ("sso.root", (Grant(Role.OPERATOR),))
    assert isinstance(idp.key, ECKey)


def test_the_whole_door_takes_such_a_token_and_charges_its_user(idp: Provider) -> None:
    async def story() -> None:
        with tempfile.TemporaryDirectory(prefix="b") as folder:
            async with Site(folder) as site:
                site.authority._provider = Verifier(
                    replaced(idp), Keys(idp.issuer, fetcher(Path()), site.clock.boot_us), site.clock.now
                )
                token = idp.token()
                assert (await site.call("Jobs.List", token=token))[0] == "OK"
                assert (await site.call("Money.ClosePeriod", token=token))[0] == "PERMISSION_DENIED"
                assert (await site.call("Jobs.List", token=idp.token(aud="x")))[0] == "UNAUTHENTICATED"

    asyncio.run(story())


def replaced(idp: Provider) -> Rules:
    return Rules(idp.issuer, (CLIENT,), CLIENT, grants=read_grants(["nlp-team=submitter@nlp"]))


GOOD = {
    "oidc": {
        "issuer": "https://id.example.org", "audience": ["bursar-cli"], "client_id": "bursar-cli",
        "roles": ["nlp-team=submitter@nlp", "*=viewer"],
    }
}  # fmt: skip


def load(tmp_path: Path, **changed: Any) -> settings.Settings:
    path = tmp_path / "bursard.toml"
    lines = [f"{name} = {json.dumps(value)}" for name, value in (GOOD["oidc"] | changed).items()]
    path.write_text("[oidc]\n" + "\n".join(lines))
    return settings.load(["--config", str(path)], {}).settings


def test_the_settings_are_the_rules(tmp_path: Path) -> None:
    rules = load(tmp_path).provider
    assert rules is not None
    assert (rules.issuer, rules.audiences, rules.leeway_s) == ("https://id.example.org", ("bursar-cli",), 60)
    assert rules.grants == {"nlp-team": (Grant(Role.SUBMITTER, "nlp"),), "*": (Grant(Role.VIEWER),)}
    assert settings.Settings().provider is None


@pytest.mark.parametrize(("changed", "words"), [
    ({"issuer": "http://id.example.org"}, "is not https"),
    ({"issuer": "id.example.org"}, "no plain address"),
    ({"issuer": "https://[x"}, "no plain address"),
    ({"issuer": ""}, "no use without oidc_issuer"),
    ({"audience": []}, "those of any program"),
    ({"algorithms": ["HS256"]}, "'HS256' is not one of"),
    ({"algorithms": ["none"]}, "'none' is not one of"),
    ({"algorithms": []}, "at least one"),
    ({"user_claim": ""}, "name the claim"),
    ({"leeway": "1h"}, "at most 5m"),
    ({"roles": ["ops"]}, "is not GROUP=ROLE"),
    ({"roles": ["=operator"]}, "is not GROUP=ROLE"),
    ({"roles": ["ops=agent"]}, "no role of a user"),
    ({"roles": ["ops=viewer@/x"]}, "not a project path"),
])  # fmt: skip
def test_settings_are_refused_that_would_let_the_wrong_ones_in(
    tmp_path: Path, changed: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words):
        load(tmp_path, **changed)


def test_the_table_of_the_docs_is_taken_as_it_stands(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs/security.md").read_text()
    path = tmp_path / "bursard.toml"
    path.write_text(text.partition("```toml\n")[2].partition("```")[0])
    rules = settings.load(["--config", str(path)], {}).settings.provider
    assert rules is not None
    assert rules.grants == {
        "nlp-team": (Grant(Role.SUBMITTER, "nlp"),), "platform": (Grant(Role.OPERATOR),),
        "*": (Grant(Role.VIEWER),),
    }  # fmt: skip


ODD_ANSWERS = {
    "that are no HTTP": b"SSH-2.0-OpenSSH_9\r\n",
    "that are nothing": b"",
    "of a chunk cut short": b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n20\r\n{"iss',
    "with a line too long": b"HTTP/1.1 200 OK\r\nx: " + b"a" * 70_000 + b"\r\n\r\n{}",
    "with too many lines": b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n{}",
    "that are deep": b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 100_000,
}


@contextlib.contextmanager
def raw_server(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """One that says what no library would; the address that it is at."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    made, _ = listening.accept()
                    with made, contextlib.suppress(OSError):
                        made.recv(65_536)
                        answer(made)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize("case", ODD_ANSWERS)
def test_no_answers_end_the_task_that_looks_for_keys(case: str) -> None:
    async def looked(keys: Keys) -> None:
        await keys.learn()

    with raw_server(lambda made: made.sendall(ODD_ANSWERS[case])) as url:
        keys = Keys(url, fetcher(Path()), lambda: 1)
        asyncio.run(looked(keys))
        assert keys.problem.startswith("its provider does not tell its keys")
        with pytest.raises(ServerUnavailable, match="cannot be asked"):
            logins.discover(url)


def test_a_key_on_a_curve_that_is_not_known_is_passed_over(idp: Provider) -> None:
    idp.public.insert(0, {"kty": "EC", "kid": "odd", "crv": "P-192", "x": "AA", "y": "AA"})
    assert World(idp).admit(idp.token()).name == "ann@example.org"


def test_an_answer_that_drips_is_waited_for_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """However soon its next byte comes. It drips until nobody listens, in head and body."""
    monkeypatch.setattr(keyset, "TIMEOUT_S", 0.2)
    pace = threading.Event()

    def dripping(head: bytes, drop: bytes) -> Callable[[socket.socket], None]:
        def answer(made: socket.socket) -> None:
            made.sendall(head)
            for _ in range(500):
                made.sendall(drop)
                pace.wait(0.01)

        return answer

    for head, drop in (
        (b"HTTP/1.1 200 OK\r\ncontent-length: 250000\r\n\r\n", b" "),
        (b"HTTP/1.1 200 OK\r\nx: ", b"a"),
    ):
        with raw_server(dripping(head, drop)) as url, pytest.raises(TimeoutError):
            fetcher(Path())(url)


def test_an_answer_is_read_until_its_time_and_no_longer() -> None:
    clock = iter(range(10))
    near, far = socket.socketpair()
    with near, far, InAll(near, near.makefile("rb", buffering=0), 3.0, lambda: float(next(clock))) as read:
        far.sendall(b"abcdef")
        assert [read.read(1), read.read(1), read.read(1)] == [b"a", b"b", b"c"]
        with pytest.raises(TimeoutError):
            read.read(1)


HEADS = {
    "half a character": b'{"alg":"\\ud800","kid":"k1"}',
    "a number for a list": b'{"alg":"RS256","kid":"k1","crit":1}',
    "a list of tables": b'{"alg":"RS256","kid":"k1","crit":[{}]}',
    "depth": b'{"a":' + b"[" * 2_900,
    "a table for a name": b'{"alg":{},"kid":"k1"}',
}


def test_a_head_of_any_bytes_is_a_token_that_is_refused(idp: Provider, caplog: Any) -> None:
    async def main() -> None:
        with tempfile.TemporaryDirectory(prefix="b") as folder:
            async with Site(folder) as site:
                world = World(idp)
                site.authority._provider = world.verifier
                await world.keys.learn()
                for case, head in HEADS.items():
                    token = base64.urlsafe_b64encode(head).decode().rstrip("=") + ".e30.AAAA"
                    said = await site.call("Events.Server", token=token)
                    assert "UNAUTHENTICATED" in str(said), (case, said)

    asyncio.run(main())
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
