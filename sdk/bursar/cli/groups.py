"""Groups of verbs that know the nearest right name. Loads click alone: `bursar --help` comes this way."""

from __future__ import annotations

import difflib
from typing import Any, Final

import click

LATER: Final = {
    "bursar": ("attach", "forecast", "whatif", "advise", "period", "service", "key", "cloud", "web"),
    "bursar budget": ("grant", "transfer", "history"),
    "bursar prices": ("import",),
    "bursar report": ("idle", "waste", "utilization", "budgets", "commitments", "models"),
}
"""Verbs of the public contract that this version does not have, by the group that will."""


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


class NearGroup(click.Group):
    """A group that answers a wrong verb with the nearest right one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with a hint."""
        known = self.list_commands(ctx)
        if args and args[0] not in known and args[0] in LATER.get(ctx.command_path, ()):
            raise not_built(f"{ctx.command_path} {args[0]}".removeprefix("bursar "))
        if args and not args[0].startswith("-") and args[0] not in known:
            raise click.UsageError(f"there is no verb {args[0]!r}; {nearest(args[0], known)}", ctx)
        return super().resolve_command(ctx, args)


def not_built(what: str) -> Exception:
    """The refusal of what the contract names and this version does not do; to be raised."""
    import bursar
    from bursar.errors import NotBuilt

    return NotBuilt(f"{what} is part of the contract, not built yet in version {bursar.__version__}")
