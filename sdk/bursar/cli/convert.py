"""The verb that makes a job file of another system's file."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from bursar.cli.output import say, write_text
from bursar.errors import InvalidRequest
from bursar.smallfile import read_small_file


@click.command()
@click.argument("file", metavar="FILE|-")
@click.option("--out", metavar="FILE", default=None, help="Write it there; else it is printed.")
def convert(file: str, out: str | None) -> None:
    """Make a job file of a SkyPilot, dstack, Nomad, Kubernetes or Ray file.

    Every line that has no equal is said, and stands in the new file as a comment. Needs no server.

    Example: bursar convert task.yaml --out job.yaml
    """
    from bursar.jobfile import looks_like_script
    from bursar.jobfile.convert import convert as made_of

    source, text = "<stdin>" if file == "-" else file, read_small_file(file)
    if looks_like_script(text):
        raise InvalidRequest(
            f"{source} is a script, which needs no other form: bursar submit {shlex.quote(file)}"
        )
    made = made_of(text, source)
    for line, sentence in made.notes:
        say(f"{source}:{line}: {sentence}")
    if out is None:
        write_text(made.text.rstrip("\n"))
        return
    try:
        with Path(out).open("x", encoding="utf-8") as stream:
            stream.write(made.text)
    except OSError as error:
        raise InvalidRequest(f"{out} cannot be written: {error.strerror or error}") from None
    say(f"{source} looked like {made.kind}; next: bursar plan {out}")
