"""`bursar schema`: JSON Schemas for editors."""

from __future__ import annotations

import json

import click

from bursar.cli.groups import NearChoice
from bursar.cli.output import write_text


@click.command()
@click.argument("of", type=NearChoice(("job", "policy")), metavar="job|policy")
def schema(of: str) -> None:
    """Print the JSON Schema of the job file or of policy documents, for editors.

    In VS Code and others with a YAML language server, a first line such as
    `# yaml-language-server: $schema=bursar-job.json` checks a file while you type.

    Example: bursar schema job
    """
    from bursar import schemas

    found = schemas.job_schema() if of == "job" else schemas.policy_schema()
    write_text(json.dumps(found, indent=2, ensure_ascii=False))
