"""The program `bursar`: what waits for its first use is put off before anything else is loaded.

Why     click, gRPC, protobuf and msgspec load modules of the standard library that no verb needs; only who is
        first can put them off. And ctrl-C is taken before they are loaded, for it may come meanwhile.
"""

from __future__ import annotations

import sys
from typing import NoReturn

from bursar.cli import interrupts, lazy


def main() -> NoReturn:
    """Entry point of the `bursar` program."""
    interrupts.install()
    try:
        lazy.install()
        from bursar.cli.main import main as begin

        begin()
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        interrupts.leave()
