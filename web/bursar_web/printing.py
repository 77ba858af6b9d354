"""A page as a PDF, made by a process of its own: `python -m bursar_web.printing` reads HTML and writes PDF.

Why     laying out a long statement takes seconds and memory, which other pages are not to wait for nor to go
        without. A child has as much time and memory as is said here, and fetches nothing; two print at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import resource
import sys
from typing import Final

from bursar.errors import BursarError, NotBuilt, RateLimited, ServerUnavailable

AT_ONCE: Final = 2
WAIT_MAX: Final = 8
"""Who wait for their turn; more are told to come again."""
PRINT_S: Final = 60
CPU_S: Final = 60
MEMORY_BYTES: Final = 2 << 30
EXIT_TOLD: Final = 3
"""The child says on its standard error why it cannot print at all."""


class Printer:
    """Prints for everybody who is logged in, so many at once.

    Args:
        argv: of the child, which tests replace; empty: this program.
        there: whether pages offer it; None: as it is installed.
    """

    def __init__(
        self,
        argv: tuple[str, ...] = (),
        there: bool | None = None,
    ) -> None:
        self.there = importlib.util.find_spec("weasyprint") is not None if there is None else there
        self._argv = argv or (sys.executable, "-m", "bursar_web.printing")
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0

    async def pdf(self, page: bytes) -> bytes:
        """Raises `NotBuilt` without WeasyPrint, `RateLimited`, `ServerUnavailable` if it takes too long."""
        if self._waiting >= WAIT_MAX:
            raise RateLimited("too many statements are being printed; come again in a minute")
        self._waiting += 1
        try:
            async with self._turns:
                return await self._print(page)
        finally:
            self._waiting -= 1

    async def _print(self, page: bytes) -> bytes:
        pipe = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_exec(*self._argv, stdin=pipe, stdout=pipe, stderr=pipe)
        try:
            async with asyncio.timeout(PRINT_S):
                made, said = await child.communicate(page)
        except TimeoutError:
            raise ServerUnavailable(
                f"printing took more than {PRINT_S} s; take the page that prints (.html) instead"
            ) from None
        finally:
            if child.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    child.kill()
                await child.wait()
        if child.returncode == EXIT_TOLD:
            raise NotBuilt(said.decode(errors="replace").strip()[-500:])
        if child.returncode or not made:
            raise ServerUnavailable(
                "it could not be printed within its time and memory; take the page that prints (.html)"
                " instead"
            )
        return made


def main() -> int:
    """The child."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    from bursar.cli.pdf import pdf_of

    try:
        made = pdf_of(sys.stdin.buffer.read())
    except BursarError as problem:
        sys.stderr.write(f"{problem}\n")
        return EXIT_TOLD
    sys.stdout.buffer.write(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
