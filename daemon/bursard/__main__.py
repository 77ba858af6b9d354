"""`bursard`: read the settings, run, and say plainly why when it cannot."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

# gRPC's fork handlers only cost, and hang: nothing here ever forks.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
# Its own lines go to stderr past our log, one for each call or handshake of a stranger that went wrong.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def main(argv: Sequence[str] | None = None) -> int:
    """The daemon's exit code: 0 stopped, 2 wrong settings, 5 cannot serve, 70 a commit is unknown."""
    from bursar import lastword
    from bursar.errors import BursarError
    from bursar.extras import needing
    from bursar.options import to_toml

    lastword.hold()
    try:
        with needing("bursard", "daemon"):
            from bursard.settings import load
        line = load(sys.argv[1:] if argv is None else argv, os.environ)
        if line.print_config:
            sys.stdout.write(to_toml(line.settings))
        if line.check_config:
            _check(line.settings)
        if line.check_config or line.print_config:
            return 0
        return _serve(line.settings)
    except BursarError as error:
        lastword.say(f"bursard: {error.message}")
        return error.exit_code


def _check(settings: object) -> None:
    """What a start would say of the files that it serves with. Raises `InvalidRequest`."""
    from bursard import keyfiles
    from bursard.settings import Settings

    assert isinstance(settings, Settings)
    keyfiles.check(settings.listen, settings.tls_cert_file, settings.tls_key_file, settings.oidc_ca_file)


def _serve(settings: object) -> int:
    import asyncio

    from bursar import strays
    from bursar.extras import needing

    with needing("bursard", "daemon"):
        from bursard import app, logs
        from bursard.settings import Settings

    assert isinstance(settings, Settings)
    logs.configure(settings.log_level, settings.log_format)
    os.umask(0o077)
    strays.overhear()
    return asyncio.run(app.run(settings))


if __name__ == "__main__":
    sys.exit(main())
