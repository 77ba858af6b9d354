"""The verbs of rights: `grant` and `secret`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

import click

from bursar.cli.common import changing, connected, listing
from bursar.cli.groups import NearGroup
from bursar.cli.output import NAME_LEAST, Column, Output, Row, emit, emit_one
from bursar.cli.terminal import clean, time_text
from bursar.codec import view
from bursar.errors import InvalidRequest

if TYPE_CHECKING:
    from bursar.client import WireClient

SECRET_BYTES_MAX: Final = 32 * 1024

GRANT_COLUMNS = (
    Column("user", wrap=True, least=NAME_LEAST),
    Column("role"),
    Column("project", wrap=True, least=NAME_LEAST),
)
SECRET_COLUMNS = (
    Column("name", wrap=True, least=NAME_LEAST),
    Column("project", shrink=True),
    Column("set_at", "set_at", lambda row: time_text(row["set_at"])),
)
_OVER = click.option(
    "--project", default="", metavar="PATH", help="Of this project and all below; else the site."
)


class _GrantGroup(NearGroup):
    """`grant USER ROLE` is what people write; `ls` and `rm` are verbs of it."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The first word that is no verb is a user."""
        if args and args[0] not in self.commands:
            args = ["add", *args]
        return super().resolve_command(ctx, args)


@click.group(cls=_GrantGroup)
def grant() -> None:
    """Give a user a role, over the site or one project: `bursar grant USER ROLE [--project PATH]`.

    Roles: viewer, finance, submitter, project-admin, operator, admin, auditor.

    Example: bursar grant ls --project nlp
    """


@grant.command("add")
@click.argument("user")
@click.argument("role")
@_OVER
@listing
@changing
def grant_add(client: WireClient, user: str, role: str, project: str, output: Output) -> None:
    """Give a role; the same as without `add`.

    Example: bursar grant add ana project-admin --project nlp/finetune
    """
    row = view.grant(client.grant(user, role, project=project))
    words = {"created": "is now", "unchanged": "was already"}
    emit_one(
        row,
        output,
        lambda r: f"{clean(r['user'])} {words[r['change']]} {r['role']} of {_of(r)}",
        columns=GRANT_COLUMNS,
        identity="user",
    )


@grant.command("ls")
@click.option("--user", default="", metavar="NAME", help="Of this user alone.")
@click.option("--project", default="", metavar="PATH", help="Of this project and all below it.")
@listing
@connected
def grant_ls(client: WireClient, user: str, project: str, output: Output) -> None:
    """List grants. Roles of the tokens file and of local_role stand in bursard's configuration.

    Example: bursar grant ls --project nlp
    """
    rows = [view.grant(one) for one in client.grants(user=user, project=project)]
    emit(rows, GRANT_COLUMNS, output, identity="user", empty="no grants")


@grant.command("rm")
@click.argument("user")
@click.argument("role")
@_OVER
@listing
@changing
def grant_rm(client: WireClient, user: str, role: str, project: str, output: Output) -> None:
    """Take a role away. Open streams of the user end.

    Example: bursar grant rm ana submitter --project nlp
    """
    row = view.grant(client.revoke(user, role, project=project))
    emit_one(
        row,
        output,
        lambda r: f"{clean(r['user'])} is no longer {r['role']} of {_of(r)}",
        columns=GRANT_COLUMNS,
        identity="user",
    )


def _of(row: Row) -> str:
    return str(row["project"] or "the site")


@click.group(cls=NearGroup)
def secret() -> None:
    """Keep, list or remove secrets that jobs are given as variables: `secrets: [NAME]` in a job file.

    Example: bursar secret set HF_TOKEN --project nlp
    """


@secret.command("set")
@click.argument("name")
@_OVER
@listing
@changing
def secret_set(client: WireClient, name: str, project: str, output: Output) -> None:
    """Read a value from standard input and keep it sealed. One final newline is left out.

    Jobs of the project and of all below it can name it; a nearer project's secret of the same name wins.

    Example: bursar secret set HF_TOKEN --project nlp
    """
    from bursar.model.check import secret_name_problem

    if problem := secret_name_problem(name):  # before a value is typed in vain
        raise InvalidRequest(problem)
    row = view.secret(client.set_secret(name, _read_value(), project=project))
    emit_one(row, output, _secret_text, columns=SECRET_COLUMNS, identity="name")


@secret.command("ls")
@click.option("--project", default="", metavar="PATH", help="Of this project and all below it.")
@listing
@connected
def secret_ls(client: WireClient, project: str, output: Output) -> None:
    """List the names of secrets; values are shown to nobody.

    Example: bursar secret ls
    """
    rows = [view.secret(one) for one in client.secrets(project=project)]
    emit(rows, SECRET_COLUMNS, output, identity="name", empty="no secrets")


@secret.command("rm")
@click.argument("name")
@_OVER
@listing
@changing
def secret_rm(client: WireClient, name: str, project: str, output: Output) -> None:
    """Give a secret to no job any more. Change it where it came from too.

    Example: bursar secret rm HF_TOKEN --project nlp
    """
    row = view.secret(client.remove_secret(name, project=project))
    emit_one(row, output, _secret_text, columns=SECRET_COLUMNS, identity="name")


def _secret_text(row: Row) -> str:
    return f"{clean(row['name'])} of {_of(row)} {row['change']}"


def _read_value() -> str:
    stream: Any = sys.stdin.buffer
    if sys.stdin.isatty():
        # Typed text would stand on the screen.
        value = click.prompt("value", hide_input=True, err=True, default="", show_default=False)
        data = str(value).encode()
    else:
        data = stream.read(SECRET_BYTES_MAX + 2)
    data = data.removesuffix(b"\n").removesuffix(b"\r")
    if not data or len(data) > SECRET_BYTES_MAX:
        raise InvalidRequest(
            f"standard input has {'no value' if not data else 'too much'}; a secret is 1 to"
            f" {SECRET_BYTES_MAX} bytes, as in `bursar secret set NAME < FILE`"
        )
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InvalidRequest("standard input is not UTF-8 text; encode it, as with base64") from None
