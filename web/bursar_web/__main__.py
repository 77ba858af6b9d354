"""`bursar-web`: serve the pages of one daemon.

Run     bursar-web                                     for yourself, on this machine alone: it prints a link
        bursar-web --site --listen unix:/run/bursar-web.sock --host bursar.example.org
                                                       for everybody, behind a proxy that speaks https
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import secrets
import socket
import stat
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from bursar import lastword, strays
from bursar.aside import clear_for_file, own_directory, read_own, set_aside
from bursar.client.logins import problem_of_address
from bursar.errors import BursarError, InvalidRequest, StoreUnavailable
from bursar.local.pages import loopback
from bursar.systemd import Notifier
from bursar.tracebacks import Tracebacks

LISTEN = "127.0.0.1:7480"
SECRET_CHARS_MAX = 4_096
_TOKEN = re.compile(r"[\w-]{43,}", re.ASCII)
"""As long as those that are made here: one that was cut short is easier to guess."""
STOP_S = 3
"""How long open answers have to end before they are cut."""


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(prog="bursar-web", description="Serve the pages of one daemon.")
    made.add_argument("--server", metavar="ADDR", help="unix:///path or grpcs://host:7443")
    made.add_argument(
        "--listen", metavar="ADDR", default=LISTEN, help=f"127.0.0.1:PORT or unix:/path [default: {LISTEN}]"
    )
    made.add_argument(
        "--host",
        action="append",
        default=[],
        metavar="NAME",
        help="what browsers call it; may be given again",
    )
    made.add_argument(
        "--site",
        action="store_true",
        help="for everybody: people log in with tokens, nobody as who runs this; browsers come by https",
    )
    made.add_argument(
        "--oidc-issuer",
        metavar="URL",
        help="with --site: people log in by this identity provider too",
    )
    made.add_argument("--oidc-client-id", metavar="ID", help="what these pages are called there")
    made.add_argument(
        "--oidc-client-secret-file", metavar="FILE", help="their secret there, mode 0600; none: public"
    )
    made.add_argument(
        "--state-dir",
        metavar="DIR",
        help="where `bursar web url` leaves its links (as `bursar up` starts it)",
    )
    return made


def socket_path(listen: str) -> str:
    """The path of `unix:/path`; empty of an address. Raises `InvalidRequest` of any but this machine's."""
    if listen.startswith("unix:"):
        return "/" + listen.removeprefix("unix:").lstrip("/")
    loopback(listen, "--listen")
    return ""


def listening(listen: str) -> socket.socket:
    """The socket at an address of this machine. Raises `StoreUnavailable`: it is taken, say."""
    address = loopback(listen, "--listen")
    made = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
    except OSError as error:
        made.close()
        raise StoreUnavailable(f"cannot listen at {listen}: {error.strerror}; choose another port") from None
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to stop."""
    lastword.hold()
    given = parser().parse_args(arguments)
    try:
        path = socket_path(given.listen)
        if given.site and not given.host:
            raise InvalidRequest("--site: name with --host what browsers call it")
        if path and not given.site:
            raise InvalidRequest("--listen: a socket is for --site: a browser cannot open it")
        provider = provider_of(given)
        import uvicorn

        from bursar_web.app import Options, hosts_of, make_app
        from bursar_web.listening import BACKLOG, connections_max, listener
        from bursar_web.provider import Client

        bound = None if path else listening(given.listen)
    except ImportError as missing:
        lastword.say(f"bursar-web: {missing.name} is not installed: pip install 'bursar[web]'")
        return 2
    except BursarError as problem:
        lastword.say(f"bursar-web: {problem}")
        return 2
    link = "" if given.site or given.state_dir else secrets.token_urlsafe(24)
    folder = Path(given.state_dir) if given.state_dir else None
    home = "" if given.site else str(Path.home())
    scrape = _scraped_with(folder)
    options = Options(
        given.server,
        hosts_of(given.listen, given.host),
        given.site,
        link,
        folder,
        home,
        scrape,
        Client(*provider) if provider else None,
    )
    if link:
        address = f"http://{given.listen}/login?link={link}"
        sys.stdout.write(f"open {address}\n(good once; it logs you in as who runs this)\n")
        sys.stdout.flush()
    notifier = Notifier(os.environ)
    server = uvicorn.Server(
        uvicorn.Config(
            make_app(options),
            uds=path or None,
            log_level="error",  # its warnings are lines that a stranger can write, one for each bad request
            server_header=False,
            access_log=False,
            timeout_graceful_shutdown=STOP_S,
            http=listener(connections_max()),
            backlog=BACKLOG,
            callback_notify=_alive(notifier),
            timeout_notify=max(1, notifier.watchdog_us // 3_000_000),
        )
    )
    logging.getLogger("uvicorn.error").addFilter(Tracebacks())
    for handler in logging.getLogger("uvicorn").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(lastword.Unblocked(sys.stderr))
    strays.overhear()
    server.run(sockets=[bound] if bound else None)
    if path:
        Path(path).unlink(missing_ok=True)
    return 0


def provider_of(given: argparse.Namespace) -> tuple[str, str, str] | None:
    """Issuer, client id and secret of the site's identity provider. Raises `InvalidRequest`."""
    issuer, client_id, path = given.oidc_issuer, given.oidc_client_id, given.oidc_client_secret_file
    if not issuer and not client_id and not path:
        return None
    if not issuer or not client_id:
        raise InvalidRequest("--oidc-issuer and --oidc-client-id are of use together alone")
    if not given.site:
        raise InvalidRequest("--oidc-issuer: is for --site; here whoever runs this logs in by the link")
    if problem := problem_of_address(issuer):
        raise InvalidRequest(f"--oidc-issuer: {issuer!r} {problem}")
    if not path:
        return issuer, client_id, ""
    try:
        with open(path, encoding="utf-8") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            secret = file.read(SECRET_CHARS_MAX).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"--oidc-client-secret-file: {path} cannot be read: {error}") from None
    if mode & 0o077:
        raise InvalidRequest(f"--oidc-client-secret-file: {path} can be read by others; chmod 0600 it")
    return issuer, client_id, secret


def scrape_secret(folder: Path) -> str:
    """The secret with which Prometheus reads `/metrics` as whoever runs this. It is made at the first start
    and kept in `metrics-token`, which only they can read. What is none lies aside, and another is made.
    """
    path = folder / "metrics-token"
    own_directory(folder)
    clear_for_file(path)
    try:
        found = read_own(path, SECRET_CHARS_MAX).decode("ascii").strip()
        if _TOKEN.fullmatch(found):
            return found
        raise ValueError("it is no token")
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as problem:
        lastword.say(f"bursar-web: {path} cannot be used and lies aside as {set_aside(path)}: {problem}")
    secret = secrets.token_urlsafe(32)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "w", encoding="ascii") as made:
        made.write(secret + "\n")
    return secret


def _scraped_with(folder: Path | None) -> str:
    """The secret for `/metrics`, or none: pages are served without it too, on a full disk for one."""
    try:
        return scrape_secret(folder) if folder is not None else ""
    except OSError as problem:
        lastword.say(f"bursar-web: /metrics is served without the token of {folder}: {problem}")
        return ""


def _alive(notifier: Notifier) -> Callable[[], Awaitable[None]]:
    """What tells whoever keeps us that the loop turns."""

    async def tell() -> None:
        notifier.send("READY=1\nWATCHDOG=1")

    return tell


if __name__ == "__main__":
    sys.exit(main())
