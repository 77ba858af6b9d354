"""`bursar-agent`: reads the command line, sets up logging, runs the agent, maps errors to exit codes."""

from __future__ import annotations

import os

# Before grpc is imported anywhere: we never fork here, and its handlers would only cost.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import asyncio
import errno
import gc
import logging
import sys
from collections.abc import Sequence

from bursar import lastword, strays
from bursar.errors import BursarError, StoreUnavailable
from bursar.extras import needing
from bursar.options import to_toml
from bursar.words import plural
from bursar_agent import settings as settings_module

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class ExtraFormatter(logging.Formatter):
    """Event first, then what belongs to it as key=value."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, plus a traceback where there is one."""
        extra = " ".join(
            f"{key}={value}" for key, value in vars(record).items() if key not in _STANDARD and value != ""
        )
        text = super().format(record)
        first, newline, rest = text.partition("\n")
        return f"{first}  {extra}{newline}{rest}" if extra else text


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0 done, 2 wrong settings or refused, 5 not usable now."""
    lastword.hold()
    asked = None
    try:
        asked = settings_module.load(sys.argv[1:] if argv is None else argv, os.environ)
        _log_to_stderr(asked.settings.log_level)
        if asked.print_config:
            sys.stdout.write(to_toml(asked.settings))
            return 0
        if asked.check_config:
            sys.stdout.write("settings are good\n")
            return 0
        if asked.terminate_all or asked.terminate_idle:
            with needing("bursar-agent", "agent"):
                from bursar_agent.terminate import terminate

            count = asyncio.run(terminate(asked.settings.state_dir, members=asked.terminate_all))
            did = "ended" if asked.terminate_all else "left alone"
            lastword.say(f"{did} {plural(count, 'member')} under {asked.settings.state_dir}")
            return 0
        if asked.forsake:
            with needing("bursar-agent", "agent"):
                from bursar_agent.terminate import forsake

            count = asyncio.run(forsake(asked.settings.state_dir, asked.forsake))
            folder = asked.settings.state_dir
            lastword.say(f"ended {plural(count, 'member')} of {asked.forsake}; {folder} is of no cluster now")
            return 0
        with needing("bursar-agent", "agent"):
            from bursar_agent.app import App

        strays.overhear()
        app = App(asked.settings)
        # What start-up built lives as long as the process: never look at it again.
        gc.collect()
        gc.freeze()
        asyncio.run(app.run())
        return 0
    except BursarError as problem:
        lastword.say(f"bursar-agent: {problem.message}")
        return problem.exit_code
    except OSError as problem:
        where = f"{problem.filename}: " if problem.filename else ""
        remedy = ""
        if problem.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "; free some space, then run this again"
        elif problem.errno in (errno.EACCES, errno.EPERM):
            remedy = f"; give it back: chmod -R u+rwX {asked.settings.state_dir}" if asked else ""
        lastword.say(f"bursar-agent: {where}{problem.strerror or problem}{remedy}")
        return StoreUnavailable.exit_code


def _log_to_stderr(level: str) -> None:
    handler = logging.StreamHandler(lastword.Unblocked(sys.stderr))
    handler.setFormatter(ExtraFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)


if __name__ == "__main__":
    sys.exit(main())
