"""Groups of verbs that know the nearest right name. Loads click alone: `bursar --help` comes this way."""

from __future__ import annotations

import difflib
from itertools import product
from typing import Any, Final

import click

from bursar.errors import InvalidRequest

LIKENESS_MIN: Final = 0.65
"""Of two words, 0 to 1, that one may have been meant for the other."""
LIKENESS_BEHIND: Final = 0.1
"""What is more unlike than the nearest by this was not meant."""


_ELSEWHERE: Final = {
    **dict.fromkeys(("ps", "list", "jobs", "job", "queue", "squeue", "sacct", "qstat", "get"), "ls"),
    **dict.fromkeys(("stop", "kill", "rm", "abort", "scancel", "qdel"), "cancel"),
    **dict.fromkeys(("delete", "remove"), "cancel rm"),
    **dict.fromkeys(("launch", "apply", "create", "sbatch", "qsub"), "submit"),
    **dict.fromkeys(("exec", "ssh", "shell", "bash", "sattach", "connect"), "attach"),
    **dict.fromkeys(("describe", "inspect", "info", "scontrol"), "show"),
    **dict.fromkeys(("log", "tail", "output"), "logs"),
    **dict.fromkeys(("srun", "salloc"), "run"),
    **dict.fromkeys(("init", "start", "server"), "up"),
    **dict.fromkeys(("retry", "rerun", "restart"), "requeue"),
    **dict.fromkeys(("unhold", "resume"), "release"),
    **dict.fromkeys(("sinfo", "clusters"), "nodes"),
    **dict.fromkeys(("why", "pending"), "explain"),
    **dict.fromkeys(("costs", "bill", "usage", "spend"), "cost"),
    **dict.fromkeys(("statement", "invoice", "focus", "waste", "showback", "chargeback"), "report"),
    "utilization": "report",
    **dict.fromkeys(("jupyter", "lab", "ipython"), "notebook"),
    **dict.fromkeys(("estimate", "quote", "dryrun", "dry-run"), "plan"),
    **dict.fromkeys(("serve", "deploy", "services", "scale", "endpoint"), "service"),
    **dict.fromkeys(("gpus", "show-gpus", "catalog", "instances"), "offers"),
    **dict.fromkeys(("forward", "tunnel"), "port-forward"),
}  # fmt: skip
"""Verbs of other systems and of common speech, each with what does that here."""
_LETTERS: Final = {
    "-t": "--time-limit", "-N": "--nodes", "-c": "--cpus", "-J": "--name", "-A": "--project", "-a": "--array",
    "-d": "--after", "-g": "--gpus", "-G": "--gpus", "-m": "--memory", "-D": "--workdir", "-e": "--env",
    "-u": "--user", "-f": "--follow",
}  # fmt: skip
"""The same for options of one letter."""


class NearChoice(click.Choice):  # type: ignore[type-arg]  # click has no argument for it in older releases
    """One of a few words; a wrong one is answered with the nearest right one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """As click does, with a hint."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            known = [str(word) for word in self.choices]
            self.fail(f"{value!r} is not one of {', '.join(known)}; {nearest(str(value), known)}", param, ctx)


def nearest(word: str, known: list[str]) -> str:
    """The hint after a wrong word: the right one that looks like it, else all there are."""
    near = difflib.get_close_matches(word.lower()[:100], known, 1)
    return f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"


def no_such_option(word: str, ctx: click.Context) -> str:
    """What is said of an option that a command does not have."""
    near = nearest_options(_LETTERS.get(word, word), ctx)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    return f"there is no option {word!r}{hint}"


def nearest_options(word: str, ctx: click.Context) -> list[str]:
    """Long options of a command that look like `word`, or have a word that does, the nearest first, three at
    most. `--tme` is near `--time-limit`: its dashes are no likeness, and half of a name may be one.
    """
    asked = word.lstrip("-").lower()[:100]
    shown = [one for one in ctx.command.get_params(ctx) if isinstance(one, click.Option) and not one.hidden]
    names = [name for one in shown for name in one.opts if name.startswith("--")]
    found = sorted((-_likeness(asked, name[2:]), name) for name in names)
    least = max(LIKENESS_MIN, max((-unlike for unlike, _ in found), default=0) - LIKENESS_BEHIND)
    return [name for unlike, name in found if -unlike >= least][:3]


def _likeness(word: str, name: str) -> float:
    pairs = product((word, *word.split("-")), (name, *name.split("-")))
    return max(difflib.SequenceMatcher(None, one, other).ratio() for one, other in pairs)


def ill_used(name: str, ctx: click.Context) -> str:
    """What is said of an option that was given without its value, or of a flag that was given one."""
    shown = (one for one in ctx.command.get_params(ctx) if isinstance(one, click.Option) and name in one.opts)
    option = next(shown, None)
    if option is not None and option.is_flag:
        return f"{name} takes no value"
    told = "" if option is None or not option.help else f": {option.help.rstrip('.')}"
    return f"{name} needs a value{told}"


def as_typed(message: str, command: click.Command) -> str:
    """The same with the option or the argument of this command in place of the field that it begins with."""
    field, colon, rest = message.partition(":")
    for one in command.params:
        named = field in (one.name, f"{one.name}s") and colon
        if named and isinstance(one, click.Option) and one.opts[-1].startswith("--"):
            return f"{one.opts[-1]}:{rest}"
        if named and isinstance(one, click.Argument):
            return f"{one.human_readable_name}:{rest}"
    return message


class NearGroup(click.Group):
    """A group that answers a wrong verb with the nearest right one."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb, and say of what is wrong where it stood in what was typed: click's parser does not
        know of which verb an option lacks its value, nor a server what its field is called here.
        """
        try:
            return super().invoke(ctx)
        except click.BadOptionUsage as error:
            command = self.get_command(ctx, ctx.invoked_subcommand or "")
            if error.ctx is None and command is not None:
                error.ctx = click.Context(command, ctx, ctx.invoked_subcommand)
            raise
        except InvalidRequest as error:
            command = self.get_command(ctx, ctx.invoked_subcommand or "")
            if command is not None:
                error.message = as_typed(error.message, command)
            raise

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with a hint."""
        known = self.list_commands(ctx)
        if args and not args[0].startswith("-") and args[0] not in known:
            meant = [verb for verb in _ELSEWHERE.get(args[0].lower(), "").split() if verb in known]
            hint = f"did you mean {meant[0]!r}?" if meant else nearest(args[0], known)
            raise click.UsageError(f"there is no verb {args[0]!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)
