"""Groups of verbs that know the nearest right name. Loads click alone: `bursar --help` comes this way."""

from __future__ import annotations

import difflib
from typing import Any

import click


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
        if args and not args[0].startswith("-") and args[0] not in known:
            raise click.UsageError(f"there is no verb {args[0]!r}; {nearest(args[0], known)}", ctx)
        return super().resolve_command(ctx, args)
