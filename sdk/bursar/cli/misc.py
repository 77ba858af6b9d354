"""Verbs about the program itself: version, config, completion, sim."""

from __future__ import annotations

import importlib
import os
import platform
import sys
from typing import Any

import click

import bursar
from bursar.cli.common import listing, server_of
from bursar.cli.groups import NearChoice, NearGroup
from bursar.cli.output import Column, Output, Row, emit_one
from bursar.errors import BursarError, InvalidRequest
from bursar.extras import absence


def part_of_daemon(module: str, what: str) -> Any:
    """A module of the daemon, which the light installation does not have. Raises `BursarError`."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("bursard"):
            name = (error.name or "").partition(".")[0]
            raise BursarError(absence(what, name, "daemon")) from None
        raise BursarError(
            f"{what} is part of the daemon, which is not installed; "
            "install it with `pip install 'bursar[daemon]'`"
        ) from None


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def sim(arguments: tuple[str, ...]) -> int:
    """Run the scheduler, budgets and ledger on a recorded workload under a virtual clock.

    Example: bursar sim --jobs jobs.csv --nodes nodes.csv -o json
    """
    module = part_of_daemon("bursard.sim.main", "the simulator")
    return int(module.run(list(arguments)) or 0)


@click.command()
@listing
def version(output: Output) -> None:
    """Print the version.

    Example: bursar version -o json
    """
    row = {"version": bursar.__version__, "python": platform.python_version()}
    emit_one(row, output, lambda r: f"bursar {r['version']}", identity="version")


_CONFIG_COLUMNS = (Column("server"), Column("from"), Column("user"), Column("state_dir"))


@click.group(cls=NearGroup, invoke_without_command=True)
@click.option("--server", metavar="ADDR", help="unix:///path or grpcs://host:7443.")
@listing
def config(server: str | None, output: Output) -> None:
    """Show the resolved configuration: server, user, and the files looked at.

    Without a command it shows the configuration; `new-token` makes a secret for a user of grpcs://.

    Example: bursar config new-token --user ana --role submitter
    """
    if click.get_current_context().invoked_subcommand is not None:
        return
    import getpass

    from bursar.client import address, logins

    found = address.resolve(server_of(server))
    token = address.token_path()
    if found.socket is None and logins.known(found.target):
        token = logins.path()
    row: Row = {
        "server": found.url,
        "from": found.origin,
        "user": getpass.getuser(),
        "uid": os.getuid(),
        "state_dir": str(address.state_home()),
        "pointers": [str(path) for path in address.pointer_paths()],
        "token": "BURSAR_TOKEN" if os.environ.get("BURSAR_TOKEN") else str(token),
        "token_present": bool(os.environ.get("BURSAR_TOKEN")) or token.exists(),
        "ca_file": os.environ.get("BURSAR_CA_FILE"),
        "python": sys.executable,
        "version": bursar.__version__,
    }
    emit_one(row, output, _config_text, columns=_CONFIG_COLUMNS, identity="server")


_ROLES = ("viewer", "finance", "submitter", "project-admin", "operator", "admin", "auditor", "none")


@config.command("new-token")
@click.option("--user", required=True, metavar="NAME", help="Who calls with it: the name in audit and cost.")
@click.option("--role", required=True, type=NearChoice(_ROLES), help="What the user may do.")
@click.option("--project", default="", metavar="PATH", help="Over this project alone, and all below it.")
@listing
def new_token(user: str, role: str, project: str, output: Output) -> None:
    """Make a secret for a user, and the lines of bursard's tokens_file that admit it.

    The role `none` gives nothing but what `bursar grant` gives the user.
    Nothing is sent or kept: the secret is shown this once, and the daemon needs only its hash.

    Example: bursar config new-token --user ana --role submitter
    """
    import hashlib
    import secrets

    from bursar import users
    from bursar.options import quote
    from bursar.projects import problem_of

    if wrong := users.problem_of(user):
        raise InvalidRequest(f"--user: {user!r} {wrong}")
    token = "user_" + secrets.token_urlsafe(32)
    digest = hashlib.sha256(token.encode()).hexdigest()
    if project and (problem := problem_of(project)):
        raise InvalidRequest(f"--project: {project!r} is not a project path: {problem}; write nlp/finetune")
    lines = f"[[token]]\nuser = {quote(user)}\nrole = {quote(role)}\nsha256 = {quote(digest)}\n"
    if project:
        lines += f"project = {quote(project.lower())}\n"
    row: Row = {
        "token": token,
        "user": user,
        "role": role,
        "project": project.lower(),
        "sha256": digest,
        "toml": lines,
    }
    emit_one(row, output, _token_text, columns=_TOKEN_COLUMNS, identity="token")


_TOKEN_COLUMNS = (Column("token"), Column("user"), Column("role"), Column("project"), Column("sha256"))


def _token_text(row: Row) -> str:
    return (
        f"token, shown this once: {row['token']}\n"
        f"{row['user']} keeps it in ~/.config/bursar/token (mode 0600) or in BURSAR_TOKEN.\n\n"
        "Append these lines to bursard's tokens_file (mode 0600) and `systemctl reload bursard`:\n\n"
        f"{row['toml']}"
    )


def _config_text(row: Row) -> str:
    shown = {**row, "token": row["token"] + ("" if row["token_present"] else " (absent)")}
    del shown["token_present"]
    lines = []
    for key, value in shown.items():
        text = ", ".join(value) if isinstance(value, list) else "-" if value is None else value
        lines.append(f"{key.replace('_', ' '):<10} {text}")
    return "\n".join(lines)


@click.command()
@click.argument("shell", type=NearChoice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    Example: eval "$(bursar completion bash)"
    """
    from click.shell_completion import get_completion_class

    from bursar.cli.main import cli
    from bursar.cli.shells import install

    install()
    found = get_completion_class(shell)
    if found is None:
        raise InvalidRequest(f"there is no completion for {shell!r}")
    click.echo(found(cli, {}, "bursar", "_BURSAR_COMPLETE").source())
