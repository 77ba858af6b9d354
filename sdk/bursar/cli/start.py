"""The program `bursar`: what waits for its first use is put off before anything else is loaded.

Why     click, gRPC, protobuf and msgspec load modules of the standard library that no verb needs; only who is
        first can put them off.
"""

from __future__ import annotations

from typing import NoReturn

from bursar.cli import lazy


def main() -> NoReturn:
    """Entry point of the `bursar` program."""
    lazy.install()
    from bursar.cli.main import main as begin

    begin()
