"""Where the server is and which secret opens it: flags, environment, a running `bursar up`, the default.

Owns    the order of contract section 1, the forms of an address, the pointer that `bursar up` leaves
        for other shells, and the token file.
Why     looked at before gRPC is loaded, by `bursar config`, `bursar status` and every client alike,
        so it imports the standard library alone.
"""

from __future__ import annotations

import fcntl
import grp
import itertools
import json
import os
import shlex
import socket
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from bursar.errors import Forbidden, InvalidRequest

DEFAULT_SOCKET: Final = "/run/bursar/bursar.sock"
"""Where the packaged service listens."""
SOCKET_PATH_MAX: Final = 100
"""Bytes of the longest socket path used as it is; the kernel's own limit is 107."""
CURRENT_NAME: Final = "current.json"
KEEPER_LOCK: Final = "keeper.lock"
"""In a state directory of `bursar up`: locked as long as its keeper lives."""
SERVICE_GROUP: Final = "bursar"
UNITS: Final = tuple(f"{place}/systemd/system/bursard.service" for place in ("/etc", "/usr/lib", "/lib"))
"""Where a site keeps the unit of the daemon."""
OF_UP: Final = "bursar up"
"""The origin of an address that nobody named: the newest `bursar up` that runs."""
_PROBE_TIMEOUT_S: Final = 0.5
_KEPT: Final = ("bursar.local.keeper", "bursard", "bursar_agent", "bursar_web", "bursar_gateway")
"""The modules that run of a cluster of `bursar up`, each in the directory that it serves."""


class Address(NamedTuple):
    """One server.

    Attributes:
        url: as it would be given to `--server`.
        origin: who named it, for `bursar config` and messages.
        socket: path of the unix socket; None over TLS.
        target: `host:port` over TLS; empty on a unix socket.
    """

    url: str
    origin: str
    socket: Path | None
    target: str


def resolve(server: str | Address | None, env: Mapping[str, str] | None = None) -> Address:
    """The server to talk to: `server`, `BURSAR_SERVER`, a running `bursar up`, the system's socket.

    An `Address` stays what it is, with who named it.
    """
    env = os.environ if env is None else env
    if isinstance(server, Address):
        return server
    if server:
        return parse(server, "--server")
    if env.get("BURSAR_SERVER"):
        return parse(env["BURSAR_SERVER"], "BURSAR_SERVER")
    for cluster in (*running_clusters(env), *kept_clusters(env)):
        return parse(cluster["server"], OF_UP)
    return parse(f"unix://{DEFAULT_SOCKET}", "default")


def parse(url: str, origin: str) -> Address:
    """Read `unix:///path` or `grpcs://host:port`. Raises `InvalidRequest`, naming the form meant."""
    scheme, separator, rest = url.partition("://")
    if "@" in rest and scheme != "unix":
        raise InvalidRequest(
            f"{origin}: an address has nothing before its host (what stands before the @ is not shown here);"
            " write it as grpcs://host:7443, and set BURSAR_TOKEN or write the token to its file"
        )
    if separator and scheme == "unix" and rest.startswith("/"):
        return Address(url, origin, Path(rest), "")
    if separator and scheme == "grpcs":
        host, _, port = rest.rstrip("/").rpartition(":")
        if host and port.isascii() and port.isdecimal() and 0 < int(port) < 65536:
            return Address(url, origin, None, f"{host}:{port}")
        raise InvalidRequest(f"{origin}: {url!r} names no port; write it as grpcs://host:7443")
    if separator and scheme in ("grpc", "http", "https", "tcp"):
        raise InvalidRequest(
            f"{origin}: {url!r} would be sent without identity; "
            "use grpcs://host:7443 or a unix socket, unix:///path"
        )
    raise InvalidRequest(
        f"{origin}: {url!r} is not a server address; write unix:///path or grpcs://host:7443"
    )


# ------------------------------------------------------------------ the running `bursar up`


def state_home(env: Mapping[str, str] | None = None) -> Path:
    """`$XDG_STATE_HOME/bursar` or `~/.local/state/bursar`: the default state directory."""
    env = os.environ if env is None else env
    base = env.get("XDG_STATE_HOME", "")
    if base.startswith("/"):
        return Path(base) / "bursar"
    return Path(env.get("HOME") or Path.home()) / ".local" / "state" / "bursar"


def up_command(state_dir: str | Path, *flags: str) -> str:
    """The `bursar up` of this directory, as it is typed: none is named where it is the default one."""
    where = () if Path(state_dir) == state_home() else ("--state-dir", shlex.quote(str(state_dir)))
    return f"`{' '.join(('bursar up', *where, *flags))}`"


def pointer_paths(env: Mapping[str, str] | None = None) -> list[Path]:
    """Where the pointer may lie: the session's run directory first, then the state home."""
    env = os.environ if env is None else env
    paths = []
    if env.get("XDG_RUNTIME_DIR", "").startswith("/"):
        paths.append(Path(env["XDG_RUNTIME_DIR"]) / "bursar" / CURRENT_NAME)
    return [*paths, state_home(env) / CURRENT_NAME]


def read_pointer(path: Path) -> list[dict[str, str]]:
    """The clusters named in one pointer file, newest first; nothing when it is absent or broken."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    if not isinstance(found, list):
        return []
    return [
        {"server": entry["server"], "state_dir": entry["state_dir"]}
        for entry in found
        if isinstance(entry, dict)
        and isinstance(entry.get("server"), str)
        and isinstance(entry.get("state_dir"), str)
    ]


def known_clusters(env: Mapping[str, str] | None = None) -> list[dict[str, str]]:
    """Every cluster some `bursar up` of this user has noted, newest first, alive or not."""
    found: list[dict[str, str]] = []
    for path in pointer_paths(env):
        found += [entry for entry in read_pointer(path) if entry not in found]
    return found


def running_clusters(env: Mapping[str, str] | None = None) -> list[dict[str, str]]:
    """The noted clusters whose socket accepts a connection now, newest first."""
    return [entry for entry in known_clusters(env) if _answers(entry["server"])]


def kept_clusters(env: Mapping[str, str] | None = None) -> list[dict[str, str]]:
    """The noted clusters whose keeper lives, newest first: their daemon listens, or will in a moment."""
    return [entry for entry in known_clusters(env) if _is_kept(entry["state_dir"])]


def _is_kept(state_dir: str) -> bool:
    try:
        fd = os.open(Path(state_dir) / KEEPER_LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def moved_to(state_dir: str) -> str:
    """Where a state directory lies that was moved under what runs of it; empty when none was."""
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            line = Path("/proc", pid, "cmdline").read_bytes()
            words = [os.fsdecode(word) for word in line.split(b"\0")]
            if dict(itertools.pairwise(words)).get("-m") not in _KEPT:
                continue
            here = os.readlink(f"/proc/{pid}/cwd")
            named = json.loads(Path(here, "desired.json").read_bytes())["state_dir"]
            if named == state_dir and os.path.realpath(state_dir) != os.path.realpath(here):
                return here
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            continue  # of somebody else, or gone by now, or of no state directory
    return ""


def moved_words(state_dir: str) -> str:
    """That a state directory was moved while it runs, where to, and what to do; empty when none was."""
    if not (now := moved_to(state_dir)):
        return ""
    here, there = shlex.quote(now), shlex.quote(state_dir)
    return (
        f"{state_dir} was moved to {now} while its cluster ran, which goes on there: put the directory back"
        f" (mv {here} {there}), or end what runs: bursar down --state-dir {here}"
    )


def is_expected(address: Address) -> bool:
    """Nobody listens now, and somebody is about to: a daemon restarts."""
    if address.socket is None or denied(address.socket) or probe(address.socket):
        return False
    return address.socket.exists() or any(one["server"] == address.url for one in kept_clusters())


def denied(path: Path) -> bool:
    """May this user not open the socket, or not even see whether it is there?"""
    try:
        first = path.stat()
        if os.access(path, os.W_OK):
            return False
        # A daemon that restarts takes its socket away and makes another one, between any two looks at it.
        again = path.stat()
    except PermissionError:
        return True
    except OSError:
        return False
    return (first.st_dev, first.st_ino) == (again.st_dev, again.st_ino)


def group_of(path: Path) -> str:
    """The group whose members may open a socket: its own, that of the directory, or the service's."""
    for one in (path, path.parent):
        try:
            gid = one.stat().st_gid
            return grp.getgrgid(gid).gr_name if gid else SERVICE_GROUP
        except (OSError, KeyError):
            continue
    return SERVICE_GROUP


def absence(address: Address) -> str:
    """Why nobody answers at a unix socket, and what to do: the cluster of `bursar up` that was meant
    restarts, has died or was stopped, or none was ever started.
    """
    known = [one for one in known_clusters() if one["server"] == address.url or address.origin == "default"]
    kept = kept_clusters()
    for one in known:
        if one in kept:
            return f"the daemon of {one['state_dir']} is restarting; call again in a few seconds"
    if known:
        where = known[0]["state_dir"]
        again = up_command(where)
        if moved := moved_words(where):
            return moved
        if not os.path.lexists(where):
            return (
                f"its state directory {where} is not there any more, and nothing of it runs: put it back if"
                f" it was moved; {again} begins a new, empty cluster there"
            )
        return f"the cluster in {where} has died, its keeper with it; {again} goes on where it stopped"
    assert address.socket is not None
    if address.socket.exists():
        return "nothing listens on it; start one with `bursar up`, or name another with --server"
    if address.origin == "default" and (unit := site_unit()):
        return (
            f"this machine has {unit}, and the daemon does not run: `systemctl status bursard` tells why,"
            " `systemctl start bursard` starts it; or name another server with --server"
        )
    if address.origin == "default" and (state_home() / KEEPER_LOCK).exists():
        return "the cluster of `bursar up` was stopped; start it again with `bursar up`"
    return (
        "there is no such socket and no cluster was started; start one with `bursar up`, or name another with"
        " --server"
    )


def site_unit() -> str:
    """The unit by which systemd runs the daemon of a site on this machine; empty where there is none."""
    return next((path for path in UNITS if os.path.exists(path)), "")


def note_cluster(server: str, state_dir: str, env: Mapping[str, str] | None = None) -> None:
    """Put a cluster first in every pointer that can be written."""
    entry = {"server": server, "state_dir": state_dir}
    _rewrite(env, lambda old: [entry, *(e for e in old if e["state_dir"] != state_dir)])


def forget_cluster(state_dir: str, env: Mapping[str, str] | None = None) -> None:
    """Take a cluster out of every pointer that can be written."""
    _rewrite(env, lambda old: [e for e in old if e["state_dir"] != state_dir])


def _rewrite(
    env: Mapping[str, str] | None,
    change: Callable[[list[dict[str, str]]], list[dict[str, str]]],
) -> None:
    for path in pointer_paths(env):
        old = read_pointer(path)
        new = change(old)
        if new == old:
            continue
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft = path.with_name(f".{path.name}.{os.getpid()}")
            draft.write_text(json.dumps(new, indent=1) + "\n", "utf-8")
            draft.chmod(0o600)
            draft.replace(path)
        except OSError:
            continue  # a pointer is a convenience; --server and BURSAR_SERVER still work


def _answers(server: str) -> bool:
    try:
        address = parse(server, "pointer")
    except InvalidRequest:
        return False
    return address.socket is not None and probe(address.socket)


def probe(path: Path) -> bool:
    """Does somebody accept connections on this unix socket?"""
    try:
        with reachable(path) as short, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
            s.settimeout(_PROBE_TIMEOUT_S)
            s.connect(short)
    except OSError:
        return False
    return True


class reachable:  # lower case: it reads as a verb in `with reachable(path) as short`
    """A name for a unix socket that fits the kernel's 107 bytes, valid until closed.

    A long path is entered through an open descriptor of its directory, `/proc/self/fd/N/name`:
    nothing is written to disk and nothing is left behind.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._directory = -1
        self.short = ""

    def __enter__(self) -> str:
        if len(os.fsencode(self._path)) <= SOCKET_PATH_MAX:
            self.short = str(self._path)
        else:
            self._directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            self.short = f"/proc/self/fd/{self._directory}/{self._path.name}"
        return self.short

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the descriptor back."""
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1


# ------------------------------------------------------------------ the token of a remote server


def token_path(env: Mapping[str, str] | None = None) -> Path:
    """`$XDG_CONFIG_HOME/bursar/token` or `~/.config/bursar/token`."""
    env = os.environ if env is None else env
    base = env.get("XDG_CONFIG_HOME", "")
    if base.startswith("/"):
        return Path(base) / "bursar" / "token"
    return Path(env.get("HOME") or Path.home()) / ".config" / "bursar" / "token"


def read_token(env: Mapping[str, str] | None = None) -> str:
    """`BURSAR_TOKEN`, else the token file; empty when there is neither.

    Raises:
        Forbidden: the file can be read by others: a secret others could have taken is not sent.
    """
    env = os.environ if env is None else env
    if env.get("BURSAR_TOKEN"):
        return env["BURSAR_TOKEN"].strip()
    path = token_path(env)
    try:
        mode = path.stat().st_mode
        if stat.S_IMODE(mode) & 0o077:
            raise Forbidden(
                f"{path} has mode {stat.S_IMODE(mode):04o}, so others can read the token; "
                f"run `chmod 600 {path}` and have the token renewed if others use this machine"
            )
        return path.read_text("utf-8").strip()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise Forbidden(f"the token file {path} cannot be read: {error}") from None
