"""What an operator can set on bursard, and where each value came from: TOML < environment < flags."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bursar.broker import read_broker
from bursar.client.logins import problem_of_address
from bursar.clock import SECOND_US, parse_duration
from bursar.errors import InvalidRequest
from bursar.options import add_flags, collect, masked
from bursar.resources import parse_size
from bursard.access.oidc import ASYMMETRIC, Rules, read_grants
from bursard.state import Limits

CONFIG_PATH = Path("/etc/bursar/bursard.toml")
ENV_PREFIX = "BURSARD_"
OIDC_LEEWAY_MAX = "5m"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One daemon. Every field is a TOML key, an environment variable and a flag of the same name."""

    state_dir: Path = Path("/var/lib/bursar")
    """Database, log of events and snapshots. One daemon per directory; made with mode 0700."""

    socket_dir: Path = Path("/run/bursar")
    """Where bursar.sock and auth.sock are made: who may enter this directory may call."""

    listen: str = ""
    """HOST:PORT for TLS clients and agents; needs tls_cert_file and tls_key_file. Default: no TCP at all."""

    tls_cert_file: Path = Path()
    """Server certificate chain, PEM."""

    tls_key_file: Path = Path()
    """Its private key, PEM; mode 0600."""

    tokens_file: Path = Path()
    """User tokens by hash: [[token]] user, role, sha256; mode 0600. `bursar config new-token` makes one."""

    oidc_issuer: str = ""
    """Identity provider (OpenID Connect) whose tokens are taken: its address, as tokens have it."""

    oidc_audience: tuple[str, ...] = ()
    """Whom tokens must be made for (`aud`): the client ids of `bursar login` and of bursar-web."""

    oidc_client_id: str = ""
    """What `bursar login` calls itself at the provider. Default: nobody logs in by it."""

    oidc_algorithms: tuple[str, ...] = ("RS256", "ES256")
    """How tokens may be signed: RS, PS or ES with 256, 384 or 512; never by a shared secret."""

    oidc_user_claim: str = "email"
    """Claim that is the user's name; of `email`, only one that the provider has verified."""

    oidc_user_prefix: str = ""
    """Put before that name, so that no account of this machine has the same."""

    oidc_groups_claim: str = "groups"
    """Claim that lists a user's groups; `a.b` is b inside a."""

    oidc_roles: tuple[str, ...] = ()
    """GROUP=ROLE or GROUP=ROLE@PROJECT: what a group holds; the group * is everybody with a token."""

    oidc_leeway: str = "60s"
    """How far the provider's clock may be from ours."""

    oidc_ca_file: Path = Path()
    """Authority that signed the provider's certificate, PEM. Default: those of the system."""

    secrets_key_file: Path = Path()
    """Key that seals secrets, mode 0600, made at the first start. Default: beside state_dir, .secrets-key."""

    alert_secrets: Path = Path()
    """Directory of passwords and tokens that AlertChannels name, each 0600. Default: beside state_dir."""

    local_role: str = "submitter"
    """Role of local users other than root and the daemon's own: viewer | submitter | operator | none."""

    policies: tuple[str, ...] = ()
    """Directories or files of policy documents applied at the first start (flag: repeat by comma)."""

    local_cloud: Path = Path()
    """A file with zones, machine types, prices and faults: machines of provider `local` are rented by it, as
    processes on this machine."""

    currency: str = "USD"
    """The one currency of this cluster's books; fixed at the first start."""

    default_time_limit: str = "24h"
    """Time limit of a job that names none: the worst case must be finite to be held."""

    meter_interval: str = "60s"
    """How often agents report usage while a job runs."""

    overdue_after: str = "2m"
    """How late an agent in contact may be to start a job, or to end one past its limit; then no new work."""

    grace_max: str = "1h"
    """The longest `checkpoint.grace` of a job: so long others wait for the place that it gives back."""

    user_pending_max: str = "250000"
    """Jobs and tasks of one user that may wait at once; operators' count too."""

    user_texts_max: str = "64MiB"
    """What scripts, environments and all else of one user's jobs may take while they have not ended."""

    user_changes_max: str = "100000"
    """Changes by one user in a day (`update`, `hold`, `apply`, `grant` and such); operators' count too."""

    user_log_max: str = "1GiB"
    """What the calls of one user may write into the log in a day, submissions included."""

    log_cap: str = "64MiB"
    """Size cap of one member's log: head and tail are kept."""

    run_as_submitter: bool = False
    """Agents that run as root start jobs under the submitter's account."""

    telemetry_mqtt_url: str = ""
    """mqtt://host:1883: telemetry and events are published there; `url` under [telemetry.mqtt]."""

    log_level: str = "INFO"
    """DEBUG | INFO | WARNING | ERROR."""

    log_format: str = "json"
    """json | text."""

    @property
    def limits(self) -> Limits:
        """What decisions rest on."""
        return Limits(
            default_time_limit_us=parse_duration(self.default_time_limit),
            meter_interval_us=parse_duration(self.meter_interval),
            overdue_after_us=parse_duration(self.overdue_after),
            grace_max_us=parse_duration(self.grace_max),
            user_pending_max=int(self.user_pending_max),
            user_texts_bytes=parse_size(self.user_texts_max),
            user_changes_a_day=int(self.user_changes_max),
            user_log_bytes_a_day=parse_size(self.user_log_max),
        )

    @property
    def secrets_key(self) -> Path:
        """`secrets_key_file`, else beside the state directory, so that no copy of that has the key."""
        if self.secrets_key_file != Path():
            return self.secrets_key_file
        return self.state_dir.with_name(self.state_dir.name + ".secrets-key")

    @property
    def alert_secrets_dir(self) -> Path:
        """`alert_secrets`, else beside the state directory, so that no copy of that has what is in it."""
        if self.alert_secrets != Path():
            return self.alert_secrets
        return self.state_dir.with_name(self.state_dir.name + ".alert-secrets")

    @property
    def provider(self) -> Rules | None:
        """The site's identity provider; None: there is none."""
        if not self.oidc_issuer:
            return None
        return Rules(
            self.oidc_issuer,
            self.oidc_audience,
            self.oidc_client_id,
            self.oidc_algorithms,
            self.oidc_user_claim,
            self.oidc_user_prefix,
            self.oidc_groups_claim,
            read_grants(self.oidc_roles),
            parse_duration(self.oidc_leeway) // SECOND_US,
            self.oidc_ca_file,
        )

    @property
    def log_cap_bytes(self) -> int:
        """`log_cap` as a number."""
        return parse_size(self.log_cap)


@dataclass(frozen=True, kw_only=True)
class CommandLine:
    """What was asked for."""

    settings: Settings
    check_config: bool
    print_config: bool


def load(argv: Sequence[str], environ: Mapping[str, str]) -> CommandLine:
    """Read everything, check it. Raises `InvalidRequest` naming the place, the fault and the remedy."""
    parser = argparse.ArgumentParser(
        prog="bursard",
        description="Bursar's scheduler daemon: admits, holds, places, meters and keeps the ledger.",
        epilog="example: bursard --state-dir /var/lib/bursar --socket-dir /run/bursar",
        allow_abbrev=False,
    )
    add_flags(parser, Settings, argv, CONFIG_PATH)
    options = vars(parser.parse_args(argv))
    given = collect(Settings, options, environ, ENV_PREFIX, CONFIG_PATH)
    settings = Settings(**{name: _convert(name, raw, at) for name, (raw, at) in given.items()})
    _check(settings, {name: at for name, (_, at) in given.items()})
    return CommandLine(
        settings=settings, check_config=options["check_config"], print_config=options["print_config"]
    )


_LISTS = ("policies", "oidc_audience", "oidc_algorithms", "oidc_roles")
_PATHS = (
    "state_dir",
    "socket_dir",
    "tls_cert_file",
    "tls_key_file",
    "tokens_file",
    "oidc_ca_file",
    "secrets_key_file",
    "local_cloud",
    "alert_secrets",
)


def _convert(name: str, raw: Any, at: str) -> Any:
    if name in _LISTS:
        items = raw if isinstance(raw, list) else str(raw).split(",")
        return tuple(str(item).strip() for item in items if item)
    if name == "run_as_submitter":
        text = str(raw).lower()
        if text not in ("true", "false"):
            raise InvalidRequest(f"{at}: expected true or false, not {raw!r}")
        return text == "true"
    if not isinstance(raw, str | int) or isinstance(raw, bool):
        raise InvalidRequest(f"{at}: expected a text, not {type(raw).__name__}")
    if name in _PATHS:
        return Path(str(raw)).absolute() if str(raw) else Path()
    return str(raw)


_COUNT = re.compile("[1-9][0-9]{0,8}")
_AT_LEAST = {
    "default_time_limit": "1s",
    "grace_max": "5s",
    "meter_interval": "1s",
    "overdue_after": "10s",
    "oidc_leeway": "1s",
}


def _check(settings: Settings, places: Mapping[str, str]) -> None:
    def fail(name: str, message: str) -> None:
        raise InvalidRequest(f"{places.get(name, name)}: {masked(message)}")

    for name, least in _AT_LEAST.items():
        try:
            duration_us = parse_duration(getattr(settings, name))
        except InvalidRequest as error:
            raise InvalidRequest(f"{places.get(name, name)}: {error.message}") from None
        if duration_us < parse_duration(least):
            fail(name, f"{getattr(settings, name)!r} is too short: at least {least}")
    for name in ("log_cap", "user_texts_max", "user_log_max"):
        try:
            parse_size(getattr(settings, name))
        except InvalidRequest as error:
            fail(name, error.message)
    for name, what in (("user_pending_max", "jobs"), ("user_changes_max", "changes")):
        if not _COUNT.fullmatch(getattr(settings, name)):
            fail(name, f"{getattr(settings, name)!r} is no number of {what}, 1 to 999999999")
    if settings.local_role not in ("viewer", "submitter", "operator", "none"):
        fail("local_role", f"{settings.local_role!r} is not viewer, submitter, operator or none")
    if settings.log_level not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        fail("log_level", f"{settings.log_level!r} is no level; write DEBUG, INFO, WARNING or ERROR")
    if settings.log_format not in ("json", "text"):
        fail("log_format", f"{settings.log_format!r} is not json or text")
    if len(settings.currency) != 3 or not settings.currency.isupper():
        fail("currency", f"{settings.currency!r} is no currency code; write three letters such as USD")
    if settings.listen and (settings.tls_cert_file == Path() or settings.tls_key_file == Path()):
        fail("listen", "TCP is served with TLS only: set tls_cert_file and tls_key_file")
    if settings.listen and not settings.listen.rpartition(":")[2].isdigit():
        fail("listen", f"{settings.listen!r} is not HOST:PORT, such as 0.0.0.0:7443")
    if settings.telemetry_mqtt_url:
        try:
            read_broker(settings.telemetry_mqtt_url)
        except InvalidRequest as error:
            fail("telemetry_mqtt_url", error.message)
    _check_provider(settings, fail)


def _check_provider(settings: Settings, fail: Callable[[str, str], None]) -> None:
    """`[oidc]`: nothing of it without an issuer, and nothing that could be passed off as a signature."""
    if not settings.oidc_issuer:
        for name in ("oidc_audience", "oidc_client_id", "oidc_roles"):
            if getattr(settings, name):
                fail(name, "is of no use without oidc_issuer, the provider's address")
        return
    if problem := problem_of_address(settings.oidc_issuer):
        fail("oidc_issuer", f"{settings.oidc_issuer!r} {problem}")
    if not settings.oidc_audience:
        fail("oidc_audience", "say whom tokens are made for; without it, those of any program would do")
    for algorithm in settings.oidc_algorithms:
        if algorithm not in ASYMMETRIC:
            fail("oidc_algorithms", f"{algorithm!r} is not one of {', '.join(ASYMMETRIC)}")
    if not settings.oidc_algorithms:
        fail("oidc_algorithms", f"name at least one of {', '.join(ASYMMETRIC)}")
    if not settings.oidc_user_claim:
        fail("oidc_user_claim", "name the claim that is the user's name, such as email or preferred_username")
    if parse_duration(settings.oidc_leeway) > parse_duration(OIDC_LEEWAY_MAX):
        fail("oidc_leeway", f"{settings.oidc_leeway!r} is too long: at most {OIDC_LEEWAY_MAX}")
    try:
        read_grants(settings.oidc_roles)
    except InvalidRequest as error:
        fail("oidc_roles", error.message)
