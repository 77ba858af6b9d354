"""The way in: finds the verb, runs it, and turns every failure into a message and an exit code.

Owns    the list of verbs (with the line of help each has in `bursar --help`, so that no verb is
        loaded for it), and contract section 2's exit codes.
Why     one place decides what the shell sees when something goes wrong.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, NoReturn

import click

import bursar
from bursar.cli import lazy
from bursar.cli.groups import NearGroup, ill_used, no_such_option
from bursar.errors import BursarError


class Verb(NamedTuple):
    """One verb: where its command is (`module:attribute` below bursar.cli), and its line of help."""

    where: str
    help: str


SECTIONS: Final[dict[str, dict[str, Verb]]] = {
    "Jobs": {
        "submit": Verb("submit:submit", "Submit a job file or script."),
        "run": Verb("submit:run", "Submit a command with flags."),
        "convert": Verb("convert:convert", "Make a job file of another system's file."),
        "plan": Verb("submit:plan", "Show where a job would go and what it would cost."),
        "ls": Verb("jobs:ls", "List jobs."),
        "show": Verb("jobs:show", "Show one job, whole."),
        "logs": Verb("jobs:logs", "Print what a job wrote."),
        "explain": Verb("jobs:explain", "Say why a job is where it is."),
        "advise": Verb("advice:advise", "Say what a job paid for and did not use."),
        "wait": Verb("jobs:wait", "Wait until jobs have ended."),
        "cancel": Verb("jobs:cancel", "Stop and end jobs."),
        "hold": Verb("jobs:hold", "Keep pending jobs from starting."),
        "snooze": Verb("jobs:snooze", "Put off the idle policies of a job."),
        "release": Verb("jobs:release", "Let held jobs start."),
        "requeue": Verb("jobs:requeue", "Stop a job's attempt and run it again."),
        "update": Verb("jobs:update", "Change a pending job."),
        "attach": Verb("attach:attach", "Run a program or a shell inside a running job."),
        "notebook": Verb("notebook:notebook", "Start Jupyter in a job, or open one that runs."),
        "port-forward": Verb("portforward:port_forward", "Let ports here lead to those of a running job."),
        "step": Verb("steps:step", "Start processes on the nodes of the running job."),
        "top": Verb("cluster:top", "Show what runs now, live."),
    },
    "Services": {
        "service": Verb("services:service", "List, show, scale or update services."),
        "key": Verb("services:key", "Make, list or revoke the keys of services."),
    },
    "Cluster": {
        "nodes": Verb("cluster:nodes", "List nodes."),
        "node": Verb("cluster:node", "Show, drain, cordon, resume, calibrate, enrol or remove a node."),
        "reserve": Verb("reserve:reserve", "Reserve nodes for a window of time, list or cancel that."),
        "cloud": Verb("cloud:cloud", "List, check, release or end rented machines."),
        "offers": Verb("cluster:offers", "Compare the prices of machines."),
        "events": Verb("cluster:events", "List or follow what happened."),
        "doctor": Verb("cluster:doctor", "Check the server's invariants."),
    },
    "Money": {
        "cost": Verb("money:cost", "Sum up cost by any dimension."),
        "budget": Verb("budget:budget", "List or show budgets, give them money."),
        "forecast": Verb("forecast:forecast", "Say where budgets end, and when they are spent."),
        "ledger": Verb("ledger:ledger", "Correct what jobs were charged."),
        "period": Verb("period:period", "Close months of the books, and list them."),
        "prices": Verb("prices:prices", "List or apply prices."),
        "whatif": Verb("report:whatif", "Try other prices on a past period."),
        "report": Verb("report:report", "Write a report: FOCUS export, statement."),
    },
    "Policy": {
        "policy": Verb("policy:policy", "Apply, check, list, show, compare or remove policies."),
    },
    "Operations": {
        "grant": Verb("rights:grant", "Give, list or take away roles."),
        "secret": Verb("rights:secret", "Keep, list or remove the secrets of jobs."),
        "up": Verb("local:up", "Start a whole cluster on this machine."),
        "down": Verb("local:down", "Stop the cluster of `bursar up`, jobs included."),
        "status": Verb("local:status", "Show the cluster of `bursar up`."),
        "web": Verb("web:web", "Get a login address of the web pages."),
        "sim": Verb("misc:sim", "Run the scheduler on a recorded workload."),
        "backup": Verb("backup:backup", "Back up the server's books, or try a backup."),
        "restore": Verb("backup:restore", "Put a backup into an empty state directory."),
        "archive": Verb("backup:archive", "Move the events of closed months to a file."),
        "audit": Verb("backup:audit", "Verify the books: log, ledger, ends."),
        "login": Verb("login:login", "Log in by the site's identity provider."),
        "logout": Verb("login:logout", "End that login."),
        "config": Verb("misc:config", "Show the resolved configuration."),
        "schema": Verb("schema:schema", "Print the schema of job files or policies, for editors."),
        "slurm-shims": Verb("steps:slurm_shims", "Write Slurm's commands into a directory."),
        "completion": Verb("misc:completion", "Print a shell's completion script."),
        "version": Verb("misc:version", "Print the version."),
    },
}
VERBS: Final = {name: verb for section in SECTIONS.values() for name, verb in section.items()}


class VerbGroup(NearGroup):
    """Loads a verb's module when the verb is used, and knows the nearest right name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every verb."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb's command, loaded now."""
        if cmd_name not in VERBS:
            return None
        module, _, attribute = VERBS[cmd_name].where.partition(":")
        found: click.Command = getattr(importlib.import_module(f"bursar.cli.{module}"), attribute)
        if "_BURSAR_COMPLETE" in os.environ:
            from bursar.cli.complete import prepare

            prepare(found, cmd_name)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The verbs by section, from the table above."""
        for section, verbs in SECTIONS.items():
            with formatter.section(section):
                formatter.write_dl([(name, verb.help) for name, verb in verbs.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; a reader that went away is no error of ours."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            _hush()
            raise click.exceptions.Exit(141) from None


@click.group(
    cls=VerbGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    invoke_without_command=False,
)
@click.option(
    "--server",
    metavar="ADDR",
    help="unix:///path or grpcs://host:7443; else BURSAR_SERVER, a running `bursar up`, "
    "/run/bursar/bursar.sock.",
)
@click.version_option(bursar.__version__, prog_name="bursar")
def cli(server: str | None) -> None:
    """Bursar: a compute scheduler that knows what everything costs before it starts.

    Example: bursar up --detach && bursar run --follow -- echo hello
    """


def run(arguments: Sequence[str]) -> int:
    """Run one command line; the exit code of contract section 2."""
    if "_BURSAR_COMPLETE" in os.environ:
        from bursar.cli.shells import install

        install()
    try:
        result = cli.main(list(arguments), prog_name="bursar", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        sys.stdout.write(error.format_message() + "\n")
        return 0
    except click.ClickException as error:
        return _usage(error)
    except (click.Abort, KeyboardInterrupt):
        sys.stderr.write("\n")
        return 130
    except BursarError as error:
        return _refused(error)
    except BrokenPipeError:
        _hush()
        return 141
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sys.stderr.write(f"error: {where}{error.strerror or error}\n")
        return 1
    except Exception as error:
        if os.environ.get("BURSAR_DEBUG"):
            raise
        sys.stderr.write(
            f"error: a defect of bursar itself: {type(error).__name__}: {error}\n"
            "Set BURSAR_DEBUG=1 to see where, and please report it.\n"
        )
        return 1


def _usage(error: click.ClickException) -> int:
    context = getattr(error, "ctx", None)
    message = error.format_message()
    if isinstance(error, click.NoSuchOption) and context is not None:
        message = no_such_option(error.option_name, context)
    elif type(error) is click.BadOptionUsage:
        context = context or click.Context(cli, info_name="bursar")
        message = ill_used(error.option_name, context)
    sys.stderr.write(f"error: {message}\n")
    if context is not None:
        sys.stderr.write(f"`{context.command_path} --help` tells how it is used.\n")
    return 2


def _refused(error: BursarError) -> int:
    from bursar.cli.terminal import clean, paint

    # What others say is in it: a server's words, a provider's, the other end's of a stream.
    message = "\n".join(map(clean, error.message.split("\n")))
    sys.stderr.write(f"{paint('error', 'red', sys.stderr)}: {message}\n")
    remedy = error.facts.pop("remedy", "")
    if error.exit_code == 3:
        for name, value in sorted(error.facts.items()):
            sys.stderr.write(f"  {clean(name.replace('_', ' '))}: {clean(value)}\n")
    if remedy and remedy not in error.message:
        sys.stderr.write(f"remedy: {clean(remedy)}\n")
    return error.exit_code


def _hush() -> None:
    """Let what is still buffered for a closed pipe go nowhere, without a word."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def _open_closed() -> None:
    """Give each standard stream that the caller has closed a place where nothing is: else the next file or
    connection that is opened would be taken for it.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


def main() -> NoReturn:
    """Entry point of the `bursar` program."""
    # gRPC reads these when it is loaded: this process never forks, and tells its failures itself.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    lazy.install()
    _open_closed()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _hush()
        code = 141
    sys.exit(code)


if __name__ == "__main__":
    main()
