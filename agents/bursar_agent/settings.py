"""What an operator can set on an agent, and where each value came from.

Owns    the fields, their defaults and their checks; `bursar.options` reads TOML < environment < flags.
Why     a mistyped key that is silently ignored costs more than a refused start.
"""

from __future__ import annotations

import argparse
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from bursar.errors import InvalidRequest
from bursar.model import MARKETS
from bursar.model.constraints import PLACE_FIELDS
from bursar.options import add_flags, collect, masked
from bursar.words import decimal_of
from bursar_agent.metadata import SOURCES
from bursar_agent.runner import runtimes

CONFIG_PATH = Path("/etc/bursar/agent.toml")
ENV_PREFIX = "BURSAR_AGENT_"
CONTAINERS: Final = ("auto", "off", *runtimes.KINDS)
"""What `containers` may say."""
TEXT_CHARS_MAX: Final = 200
"""What the daemon takes of a place or of a label's value."""
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_URL = re.compile(r"http://[A-Za-z0-9.-]+(:[0-9]{1,5})?|http://\[[0-9a-fA-F:]+\](:[0-9]{1,5})?")
_SIZE = re.compile(r"(\d+)\s*([kMGT]i?B?|B)?")
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY_UNITS = {"k": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One agent. Every field is a TOML key, an environment variable and a flag of the same name."""

    server: str = "unix:///run/bursar/bursar.sock"
    """Where bursard listens: unix:///path or grpcs://host:7443."""

    name: str = field(default_factory=lambda: socket.gethostname().split(".")[0])
    """Name of this node, unique in the cluster. Default: the host name."""

    state_dir: Path = Path("/var/lib/bursar-agent")
    """Spool, attempts and logs. One agent per directory; made with mode 0711."""

    pool: str = "local"
    """Pool this node belongs to; its cost model or prices are found by it."""

    labels: Mapping[str, str] = field(default_factory=dict)
    """For constraints: a table in TOML, k=v,k=v elsewhere."""

    cpus: str = ""
    """CPUs to give to jobs, such as 16 or 1.5. Default: what affinity and cgroup allow."""

    memory_bytes: str = ""
    """Memory to give to jobs, such as 64GiB. Default: what the machine or cgroup has."""

    simulate_gpus: str = ""
    """TYPE:COUNT, such as H100:8: devices that do not exist, marked as simulated everywhere."""

    address: str = "127.0.0.1"
    """Where the other members of a gang reach this node."""

    forward_port: str = ""
    """Port at `address` where gateways on other machines come to replicas here. Default: any that is free; it
    is opened once there is such a gateway."""

    provider: str = "onprem"
    """Cloud of this machine; with region, instance type and market it finds the price."""

    region: str = ""
    """Region of the provider."""

    zone: str = ""
    """Zone of the provider."""

    rack: str = ""
    """Rack, for topology constraints."""

    instance_type: str = ""
    """Machine type of the provider."""

    market: str = "on-demand"
    """on-demand | spot | committed-1y | committed-3y: the market whose price this machine pays."""

    notice_file: Path = Path()
    """A file that appears when the provider is about to take this machine back, as JSON: `said`, `left_s`
    (seconds since it was written) and `advice` (true: it may). Jobs are then stopped with their grace."""

    notices: str = ""
    """aws, azure, gcp: whose metadata service says when this machine is taken back. Default: none."""

    metadata_url: str = ""
    """Where that service is, such as http://127.0.0.1:1338. Default: where the provider has it."""

    token_file: Path = Path()
    """Node token, needed for grpcs://; mode 0600, or the agent refuses it."""

    ca_file: Path = Path()
    """Certificate authority of the server's certificate. Default: the system's."""

    cgroup_root: str = ""
    """A cgroup below which jobs are limited (version 1: one per hierarchy, separated by `:`). Default: the
    one that systemd delegated to this agent; without one, limits are not enforced, and the node says so."""

    mps: str = "auto"
    """auto | off: whether fractions of a GPU are held to their share through NVIDIA's MPS, where that is
    installed; otherwise they share the device in time, their memory is not limited, and the node says so."""

    containers: str = "auto"
    """auto, off, podman, docker, apptainer or enroot: what runs jobs with an image. auto: the first of these
    that works; the node says which in its label `containers`."""

    log_level: str = "INFO"
    """DEBUG | INFO | WARNING | ERROR."""

    @property
    def cpu_milli(self) -> int:
        """`cpus` in thousandths; 0: as found."""
        return _parse_cpus(self.cpus)

    @property
    def forward_at(self) -> int:
        """`forward_port` as a number; 0: any."""
        return _parse_port(self.forward_port)

    @property
    def memory_limit(self) -> int:
        """`memory_bytes` as a number; 0: as found."""
        return _parse_bytes(self.memory_bytes)


@dataclass(frozen=True, kw_only=True)
class CommandLine:
    """What was asked for: settings and the one-shot actions."""

    settings: Settings
    check_config: bool = False
    print_config: bool = False
    terminate_all: bool = False
    terminate_idle: bool = False
    forsake: str = ""


def load(argv: Sequence[str], environ: Mapping[str, str]) -> CommandLine:
    """Read everything, check it. Raises `InvalidRequest` naming the place, the fault and the remedy."""
    parser = argparse.ArgumentParser(
        prog="bursar-agent",
        description="Runs jobs on this machine, meters them, and reports to bursard.",
        epilog="example: bursar-agent --server unix:///run/bursar/bursar.sock --name gpu-01 --pool rack-a",
        allow_abbrev=False,
    )
    add_flags(parser, Settings, argv, CONFIG_PATH)
    parser.add_argument(
        "--terminate-all",
        action="store_true",
        help="end every job, supervisor and launcher under the state directory, then exit",
    )
    parser.add_argument(
        "--terminate-idle",
        action="store_true",
        help="end launcher and supervisors under the state directory unless a job runs, then exit",
    )
    parser.add_argument(
        "--forsake",
        metavar="CLUSTER",
        default="",
        help="let go of a cluster that is gone for good: end every job under the state directory, tell nobody"
        " of it, and belong to the next daemon that the agent connects to; then exit",
    )
    options = vars(parser.parse_args(argv))
    given = collect(Settings, options, environ, ENV_PREFIX, CONFIG_PATH)
    settings = Settings(**{name: _convert(name, raw, at) for name, (raw, at) in given.items()})
    _check(settings, {name: at for name, (_, at) in given.items()})
    return CommandLine(
        settings=settings,
        check_config=options["check_config"],
        print_config=options["print_config"],
        terminate_all=options["terminate_all"],
        terminate_idle=options["terminate_idle"],
        forsake=options["forsake"],
    )


_PATHS = ("state_dir", "token_file", "notice_file", "ca_file")


def _convert(name: str, raw: Any, at: str) -> Any:
    if name == "labels":
        return _parse_labels(raw, at)
    if isinstance(raw, bool) or not isinstance(raw, str | int | float):
        raise InvalidRequest(f"{at}: expected a text, not {type(raw).__name__}")
    return Path(str(raw)) if name in _PATHS else str(raw)


def _parse_labels(raw: object, at: str) -> dict[str, str]:
    if isinstance(raw, Mapping):
        return {str(key): str(value) for key, value in raw.items()}
    labels = {}
    for pair in str(raw).split(",") if raw else ():
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise InvalidRequest(f"{at}: {pair!r} is not a label; write k=v,k=v")
        labels[key.strip()] = value.strip()
    return labels


def _is_address(url: str) -> bool:
    try:
        return _URL.fullmatch(url) is not None and urlsplit(url).port != 0
    except ValueError:  # no such port
        return False


def _check(settings: Settings, places: Mapping[str, str]) -> None:
    def fail(name: str, message: str) -> None:
        raise InvalidRequest(f"{places.get(name, name)}: {masked(message)}")

    if not _NAME.fullmatch(settings.name):
        fail("name", f"{settings.name!r} is no node name; use 1 to 63 letters, digits, . _ -")
    if not settings.server.startswith(("unix:///", "grpcs://")):
        fail(
            "server",
            f"{settings.server!r} is no server address; write unix:///path or grpcs://host:7443",
        )
    if settings.server.startswith("grpcs://") and "@" in settings.server:
        fail("server", "an address has nothing before its host; write grpcs://host:7443, and --token-file")
    for name in PLACE_FIELDS:
        if wrong := _unlike_text(getattr(settings, name)):
            fail(name, wrong)
    for key, value in settings.labels.items():
        if wrong := _unlike_text(value):
            fail("labels", f"{key!r}: {wrong}")
    if settings.server.startswith("grpcs://") and settings.token_file == Path():
        fail("server", "grpcs:// needs --token-file with this node's token")
    if settings.market not in MARKETS:
        fail("market", f"{settings.market!r} is no market; write {', '.join(MARKETS[:-1])} or {MARKETS[-1]}")
    if settings.mps not in ("auto", "off"):
        fail("mps", f"{settings.mps!r} is no choice; write auto or off")
    if settings.containers not in CONTAINERS:
        fail("containers", f"{settings.containers!r} is no choice; write {', '.join(CONTAINERS)}")
    if settings.notices and settings.notices not in SOURCES:
        fail("notices", f"{settings.notices!r} is no provider with notices; write {', '.join(SOURCES)}")
    if settings.notices and settings.notice_file != Path():
        fail("notices", "says the same as notice_file; set one of them")
    if settings.metadata_url and not _is_address(settings.metadata_url):
        fail(
            "metadata_url", f"{settings.metadata_url!r} is no address; write http://HOST or http://HOST:PORT"
        )
    if settings.log_level not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        fail("log_level", f"{settings.log_level!r} is no level; write DEBUG, INFO, WARNING or ERROR")
    for name, parse in (
        ("cpus", _parse_cpus), ("memory_bytes", _parse_bytes), ("simulate_gpus", parse_gpus),
        ("forward_port", _parse_port),
    ):  # fmt: skip
        try:
            parse(getattr(settings, name))
        except ValueError as problem:
            fail(name, str(problem))


def _unlike_text(value: str) -> str:
    """Why the daemon's door would refuse it of a node; empty when it would not."""
    if not value.isprintable():
        return f"{value[:60]!r} has a control character, such as a line's end; write it on one line"
    if len(value) > TEXT_CHARS_MAX:
        return f"has {len(value)} characters; at most {TEXT_CHARS_MAX}"
    return ""


def parse_gpus(text: str) -> tuple[str, int]:
    """`H100:8` to type and count; empty: none. Raises `ValueError`."""
    if not text:
        return ("", 0)
    kind, _, count = text.partition(":")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]{0,31}", kind) or not (count or "1").isdigit():
        raise ValueError(f"{text!r} is not TYPE:COUNT, such as H100:8")
    number = int(count or "1")
    if not 1 <= number <= 64:
        raise ValueError(f"{text!r}: 1 to 64 devices can be simulated")
    return (kind.upper(), number)


def _parse_cpus(text: str) -> int:
    if not text:
        return 0
    value = decimal_of(text)
    milli = int(value * 1000) if value is not None else 0
    if not 1 <= milli <= 10_000_000:
        raise ValueError(f"{text!r} is not a number of CPUs, such as 16 or 1.5")
    return milli


def _parse_port(text: str) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:6]) <= 65_535):
        raise ValueError(f"{text[:40]!r} is no port; write 1 to 65535")
    return int(text)


def _parse_bytes(text: str) -> int:
    if not text:
        return 0
    match = _SIZE.fullmatch(text.strip())
    if not match or int(match[1]) == 0:
        raise ValueError(f"{text!r} is not a size, such as 64GiB or 64000000000")
    unit = (match[2] or "").removesuffix("B")
    scale = _BINARY_UNITS[unit[0]] if unit.endswith("i") else _UNITS[unit]
    return int(match[1]) * scale
