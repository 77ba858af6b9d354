"""`bursar-web`: serve the pages of one daemon.

Run     bursar-web                                     for yourself, on this machine alone: it prints a link
        bursar-web --site --listen unix:/run/bursar-web.sock --host bursar.example.org
                                                       for everybody, behind a proxy that speaks https
"""

from __future__ import annotations

import argparse
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bursar.errors import BursarError, InvalidRequest

LISTEN = "127.0.0.1:7480"
LOOPBACK = ("127.0.0.1", "[::1]")


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
    return made


def bound(listen: str) -> dict[str, Any]:
    """Where to listen, as uvicorn has it. Raises `InvalidRequest`: pages are served to this machine alone."""
    if listen.startswith("unix:"):
        path = "/" + listen.removeprefix("unix:").lstrip("/")
        return {"uds": path}
    host, _, port = listen.rpartition(":")
    if host not in LOOPBACK or not (port.isascii() and port.isdigit()) or not 0 < int(port[:6]) < 65_536:
        raise InvalidRequest(
            f"--listen: {listen!r} is neither 127.0.0.1:PORT nor unix:/path; for other machines put a"
            " proxy that speaks https before it"
        )
    return {"host": host.strip("[]"), "port": int(port)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to stop."""
    given = parser().parse_args(arguments)
    try:
        where = bound(given.listen)
        if given.site and not given.host:
            raise InvalidRequest("--site: name with --host what browsers call it")
        if "uds" in where and not given.site:
            raise InvalidRequest("--listen: a socket is for --site: a browser cannot open it")
        import uvicorn

        from bursar_web.app import Options, hosts_of, make_app
    except ImportError as missing:
        sys.stderr.write(f"error: {missing.name} is not installed: pip install 'bursar[web]'\n")
        return 2
    except BursarError as problem:
        sys.stderr.write(f"error: {problem}\n")
        return 2
    link = "" if given.site else secrets.token_urlsafe(24)
    options = Options(given.server, hosts_of(given.listen, given.host), secure=given.site, link=link)
    if link:
        address = f"http://{given.listen}/login?link={link}"
        sys.stdout.write(f"open {address}\n(good once; it logs you in as who runs this)\n")
        sys.stdout.flush()
    uvicorn.run(make_app(options), log_level="warning", server_header=False, access_log=False, **where)
    if "uds" in where:
        Path(where["uds"]).unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
