"""Tokens of a site's own identity provider (OpenID Connect): which are taken, for whom, with which roles.

Owns    the rules of `[oidc]`, every check of a token, and the mapping of its claims to a user and roles.
Why     a JWT proves nothing until all of it is checked: who signed it, with which kind of key, for whom, for
        when. Signatures and times are joserfc's; what a site admits is decided here, in one place. No secret
        of ours verifies a token, so no symmetric algorithm can: a public key would be taken for one.
"""

from __future__ import annotations

import hashlib
import pwd
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from joserfc import jwt
from joserfc.errors import BadSignatureError, ClaimError, ExpiredTokenError, MissingClaimError
from joserfc.jws import JWSRegistry

from bursar import users
from bursar.clock import SECOND_US
from bursar.errors import InvalidRequest, Unauthenticated
from bursar.projects import problem_of
from bursard.access.identity import Grant, Role
from bursard.access.keyset import Keys, KeyUnknown

ASYMMETRIC: Final = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512",
)  # fmt: skip
"""All that may be allowed: kinds of keys of which the provider alone has the half that signs."""
TYPES: Final = ("", "jwt", "at+jwt", "application/at+jwt")
"""What `typ` may say. A token of another purpose, such as a logout's, is signed by the same key."""
TOKEN_CHARS_MAX: Final = 7_000
"""gRPC carries some 8 kB of headers in all."""
HEADER_BYTES_MAX: Final = 4_096
GROUPS_MAX: Final = 1_000
KEPT_MAX: Final = 4_096
"""Tokens whose signature was checked, and is not checked again while its key is known."""
EVERYBODY: Final = "*"
NOBODYS_NAMES: Final = frozenset({"root"})
"""Names with a meaning of their own, which a provider cannot give, beside those of `bursar.users`."""
_LOCAL: Final = re.compile(r"(uid-)?[0-9]+", re.ASCII)
"""How accounts of this machine are called that have no name, and what could be taken for a number of one."""
_UID_OF_PEOPLE: Final = 1_000
_UID_OF_NOBODY: Final = 65_534


class Rules(msgspec.Struct, frozen=True):
    """`[oidc]` of bursard.toml, checked.

    Attributes:
        issuer: exactly as tokens have it. audiences: one of them must be a token's.
        client_id: what `bursar login` calls itself; "" where it may not be used.
        user_claim, user_prefix, groups_claim: where the name and the groups are found.
        grants: by group; `EVERYBODY` of whoever has a good token.
        leeway_s: how far the provider's clock may be off. ca_file: whom to trust for its address.
    """

    issuer: str
    audiences: tuple[str, ...]
    client_id: str = ""
    algorithms: tuple[str, ...] = ("RS256", "ES256")
    user_claim: str = "email"
    user_prefix: str = ""
    groups_claim: str = "groups"
    grants: Mapping[str, tuple[Grant, ...]] = {}
    leeway_s: int = 60
    ca_file: Path = Path()


class Claimed(msgspec.Struct, frozen=True):
    """What a good token says. ends_s: when it is good no more, leeway included, by the wall clock. key_print:
    of the key itself, since another may come to have its name.
    """

    user: str
    grants: tuple[Grant, ...]
    key_id: str
    key_print: str
    ends_s: float


def read_grants(lines: Sequence[str]) -> dict[str, tuple[Grant, ...]]:
    """`GROUP=ROLE` and `GROUP=ROLE@PROJECT`, by group; what a group's name holds ends at the last `=`.

    Raises `InvalidRequest` naming the line and what would be right.
    """
    found: dict[str, tuple[Grant, ...]] = {}
    roles = [role.value for role in Role if role is not Role.AGENT]
    for line in lines:
        group, separator, given = (part.strip() for part in line.rpartition("="))
        role, _, project = (part.strip() for part in given.partition("@"))
        if not separator or not group:
            raise InvalidRequest(f"{line!r} is not GROUP=ROLE or GROUP=ROLE@PROJECT")
        if role not in roles:
            raise InvalidRequest(f"{line!r}: {role!r} is no role of a user; there are {', '.join(roles)}")
        if project and (problem := problem_of(project)):
            raise InvalidRequest(f"{line!r}: {project!r} is not a project path: {problem}")
        found[group] = (*found.get(group, ()), Grant(Role(role), project.lower()))
    return found


class Verifier:
    """Checks tokens of one provider. `now`: wall clock, in microseconds."""

    def __init__(self, rules: Rules, keys: Keys, now: Callable[[], int]) -> None:
        self.rules = rules
        self.keys = keys
        self._now = now
        self._registry = JWSRegistry(algorithms=list(rules.algorithms), strict_check_header=False)
        self._registry.max_header_length = HEADER_BYTES_MAX
        self._claims = jwt.JWTClaimsRegistry(
            self._seconds,
            rules.leeway_s,
            iss={"essential": True, "value": rules.issuer},
            aud={"essential": True, "values": list(rules.audiences)},
            sub={"essential": True},
            exp={"essential": True},
            iat={"essential": True},
        )
        self._kept: dict[str, Claimed] = {}

    @property
    def facts(self) -> dict[str, str]:
        """What `bursar login` needs to know, told to whoever is refused."""
        told = {"issuer": self.rules.issuer, "client_id": self.rules.client_id}
        return told if self.rules.client_id else {}

    def check(self, token: str) -> Claimed:
        """What a token says, when it is good now.

        Raises:
            KeyUnknown: its key is not known (yet), or another than it was signed with has that name:
                `Keys.learn` may bring it.
            Unauthenticated: it is not good, and why.
        """
        digest = hashlib.sha256(token.encode()).hexdigest()
        known = self._kept.get(digest)
        good = known is not None and known.ends_s > self._seconds()
        if known is not None and good and self.keys.print_of(known.key_id) == known.key_print:
            return known
        self._kept.pop(digest, None)
        found = self._checked(token)
        if len(self._kept) >= KEPT_MAX:
            self._kept.pop(next(iter(self._kept)))
        self._kept[digest] = found
        return found

    def _seconds(self) -> int:
        return self._now() // SECOND_US

    def _checked(self, token: str) -> Claimed:
        if len(token) > TOKEN_CHARS_MAX:
            raise refused(f"has {len(token)} characters, more than the {TOKEN_CHARS_MAX} that travel")
        key_id = ""

        def key_of(guest: Any) -> Any:
            nonlocal key_id
            head = guest.headers()
            kind, key_id = head.get("typ", ""), head.get("kid")
            if not isinstance(kind, str) or kind.lower() not in TYPES:
                raise refused(f"is of another kind, {str(kind)[:40]!r}")
            if not isinstance(key_id, str) or not key_id:
                raise refused("names no key (`kid`)")
            return self.keys.of(key_id, head.get("alg", ""))

        try:
            made = jwt.decode(token, key_of, registry=self._registry)
            self._claims.validate(made.claims)
        except ExpiredTokenError:
            raise refused("has expired") from None
        except MissingClaimError as problem:
            raise refused(f"lacks {problem.claim}") from None
        except ClaimError as problem:
            raise refused(f"has another {problem.claim} than is right here") from None
        except BadSignatureError as problem:  # perhaps by a key that replaced the one of that name
            raise KeyUnknown(refused(f"cannot be verified ({_short(problem)})").message) from None
        except Unauthenticated:
            raise
        except Exception as problem:  # a stranger's bytes, whatever they break: they are no token
            raise refused(f"cannot be verified ({_short(problem)})") from None
        self._check_party(made.claims)
        ends_s = made.claims["exp"] + self.rules.leeway_s
        key_print = self.keys.print_of(key_id)
        return Claimed(self._user(made.claims), self._grants(made.claims), key_id, key_print, ends_s)

    def _check_party(self, claims: Mapping[str, Any]) -> None:
        """A token for several must have been asked for by one of ours (OpenID Connect Core 3.1.3.7)."""
        party, audience = claims.get("azp"), claims["aud"]
        ours = (*self.rules.audiences, self.rules.client_id)
        if (isinstance(audience, list) and len(audience) > 1 and party is None) or (
            party is not None and party not in ours
        ):
            raise refused("was made for another program (`azp`)")

    def _user(self, claims: Mapping[str, Any]) -> str:
        claim = self.rules.user_claim
        given = claims.get(claim)
        if not isinstance(given, str):
            raise refused(f"has no text as {claim}, which is to be the user's name")
        if claim == "email" and claims.get("email_verified") is not True:
            raise refused("has an email address that its provider has not verified (`email_verified`)")
        name = self.rules.user_prefix + given
        if users.problem_of(name) or name in NOBODYS_NAMES:
            raise refused(f"has {name[:80]!r} as {claim}, which is no name of a user")
        if _LOCAL.fullmatch(name) or _of_the_system(name):
            raise refused(f"has {name!r} as {claim}, which is an account of a machine's own, not a user")
        return name

    def _grants(self, claims: Mapping[str, Any]) -> tuple[Grant, ...]:
        given = _claim(claims, self.rules.groups_claim)
        groups = [] if given is None else [given] if isinstance(given, str) else given
        if not isinstance(groups, list) or len(groups) > GROUPS_MAX:
            raise refused(f"has no list of at most {GROUPS_MAX} as {self.rules.groups_claim}")
        names = (EVERYBODY, *(name for name in groups if isinstance(name, str) and name != EVERYBODY))
        found = [grant for name in dict.fromkeys(names) for grant in self.rules.grants.get(name, ())]
        return tuple(sorted(dict.fromkeys(found)))


def refused(why: str) -> Unauthenticated:
    """The error of a token that is not good."""
    return Unauthenticated(f"the token {why}; `bursar login` gets a new one")


def _of_the_system(name: str) -> bool:
    """Is it an account of this machine but no person's, such as daemon? Jobs would run as that on nodes."""
    try:
        uid = pwd.getpwnam(name).pw_uid
    except KeyError:
        return False
    return uid < _UID_OF_PEOPLE or uid == _UID_OF_NOBODY


def _claim(claims: Mapping[str, Any], path: str) -> Any:
    """A claim of that very name, else one inside others: `realm_access.roles`."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for part in path.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _short(problem: Exception) -> str:
    return ascii(str(problem).partition("\n")[0][:120])[1:-1]
