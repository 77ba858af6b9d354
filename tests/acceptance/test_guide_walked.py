"""The install guide, walked: every command of it, in order, on two machines where nothing of ours is.

Why     a guide is believed by whoever has nothing else; a command that fails in the middle leaves them there.
        Skipped, with the reason, where the machine cannot do it (root, systemd, namespaces, overlays).
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from systemd_machine import ROOT, Machine, skip_where_none_can_be

GUIDE = (ROOT / "docs/install.md").read_text()
SERVER = "bursar.example.com"
LEFT_OUT = {
    "apt-get": "the machine has no network, and Python is there",
    "python3 -m venv": "the programs stand in /opt/bursar as they would",
    "/opt/bursar/bin/pip": "likewise",
}
"""Beginnings of commands that are not run, and why."""
SAVED_AS = {"kind: CostModel": "rack-a.yaml", "kind: Budget": "budget.yaml"}
"""What the guide calls a document that it shows, by its first line."""


class Block(NamedTuple):
    """A block of the guide."""

    section: str
    language: str
    text: str


def blocks() -> list[Block]:
    found, section = [], ""
    for title, language, text in re.findall(r"(?ms)^## ([^\n]*)$|^```(\w+)\n(.*?)^```", GUIDE):
        section = title or section
        if language:
            found.append(Block(section, language, text))
    return found


class Site:
    """The machines of the guide, and who types at them. What was run is in `ran`."""

    def __init__(self, folder: Path) -> None:
        for name in ("first", "second"):
            (folder / name).mkdir()
        self.first = Machine(folder / "first", hosts=SERVER)
        self.first.until(self.first.pid1, "systemd runs")
        self.second = Machine(folder / "second", hosts=SERVER, beside=self.first)
        self.second.until(self.second.pid1, "systemd runs there too")
        self.ran: list[str] = []
        for machine in (self.first, self.second):
            for user in ("alice", "ana"):
                self.root(machine, f"useradd --create-home {user}")

    def close(self) -> None:
        self.second.close()
        self.first.close()

    def root(self, machine: Machine, script: str, stdin: str = "") -> str:
        """As root, in the checkout; what it printed."""
        return _done(machine, script, "bash", "-ec", f"cd /srv/checkout; {script}", stdin=stdin)

    def user(self, name: str, script: str) -> str:
        """As somebody who has just logged in to the first machine."""
        home = ("env", "-i", f"HOME=/home/{name}", "PATH=/usr/local/bin:/usr/bin:/bin")
        who = ("setpriv", "--reuid", name, "--regid", name, "--init-groups", *home)
        return _done(self.first, script, *who, "bash", "-ec", f"cd; {script}")

    def type(self, block: Block, machine: Machine) -> None:
        """The commands of a block."""
        for line in block.text.splitlines():
            who, _, command = line.partition(" ")
            if command.startswith(tuple(LEFT_OUT)):
                continue
            if command.startswith(("bursar run", "bursar node show", "bursar doctor")):
                self.wait_for_nodes(1 if block.section.startswith("5.") else 2)
            if who == "#":
                self.root(machine, command)
            else:
                assert who == "$", line
                self.user("alice", command)
            self.ran.append(command)

    def wait_for_nodes(self, count: int) -> None:
        """As somebody would who looks at `bursar nodes` before the next line."""

        def up() -> bool:
            shown = self.first.run("bursar", "nodes", "-o", "json")
            states = [node["state"] for node in json.loads(shown.stdout)] if shown.returncode == 0 else []
            return states.count("up") == count

        self.first.until(up, f"{count} nodes are up")

    def save(self, machine: Machine, path: str, text: str) -> None:
        self.root(machine, f"cat > {shlex.quote(path)}", stdin=text)

    def copy(self, name: str) -> None:
        """A file of the checkout of the first machine to that of the second."""
        self.save(self.second, name, self.root(self.first, f"cat {name}"))


def _done(machine: Machine, said: str, *words: str, stdin: str = "") -> str:
    done = machine.run(*words, stdin=stdin)
    if done.returncode:
        log = machine.run("journalctl", "--no-pager", "-n", "30").stdout
        raise AssertionError(f"{said}\nexit code {done.returncode}\n{done.stdout}{done.stderr}\n{log}")
    return done.stdout


@pytest.fixture
def site() -> Iterator[Site]:
    skip_where_none_can_be("the install guide is NOT walked", "ip", "openssl", "useradd")
    folder = Path(tempfile.mkdtemp(prefix="guide-"))
    made = Site(folder)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_every_command_of_the_install_guide_does_what_it_is_there_for(site: Site) -> None:
    machine, everywhere = site.first, []
    for block in blocks():
        if block.section.startswith("2."):
            everywhere.append(block)
        if "gpu-02.token /etc" in block.text:  # "On the second machine: steps 1 and 2, …"
            machine = site.second
            for before in everywhere:
                site.type(before, machine)
            for name in ("gpu-02.token", "ca.pem"):
                site.copy(name)
        elif block.section.startswith("7."):
            machine = site.first
        if block.language == "toml":
            path, _, text = block.text.removeprefix("# ").partition("\n")
            site.save(machine, path, text)
        elif block.language == "yaml":
            site.save(machine, SAVED_AS[block.text.partition("\n")[0]], block.text)
        elif block.language == "bash" and "openssl" in block.text:
            site.root(machine, block.text)
        elif block.language == "bash":
            _log_in_as_ana(site, block.text)
        elif block.section.startswith("7.") and "new-token" not in block.text:
            continue  # Ana's, in the shell of the block before
        else:
            site.type(block, machine)
    typed = {
        line[2:] for block in blocks() if block.language == "console" for line in block.text.splitlines()
    }
    left_out = {line for line in typed if line.startswith(tuple(LEFT_OUT))}
    assert typed - set(site.ran) == left_out | {"bursar config"}
    assert site.first.run("test", "-e", "/etc/bursar").returncode == 1
    assert site.first.shown("bursard", "ActiveState") == "inactive"


def _log_in_as_ana(site: Site, commands: str) -> None:
    """With the token of `new-token`, whose lines admit it once they are in the daemon's file."""
    told = site.root(site.first, "bursar config new-token --user ana --role submitter")
    [token] = re.findall(r"user_[\w-]{20,}", told)
    lines = told[told.index("[[token]]") :]
    site.root(site.first, "cat >> /etc/bursar/tokens.toml", stdin=lines)
    site.root(site.first, "systemctl reload bursard")
    authority = site.root(site.first, "cat ca.pem")
    for name, text in (("token.txt", token + "\n"), ("ca.pem", authority)):
        site.root(site.first, f"cat > /home/ana/{name}; chown ana /home/ana/{name}", stdin=text)
    shown = site.user("ana", f"{commands}\nbursar config -o json\nbursar nodes -q")
    assert f"grpcs://{SERVER}:7443" in shown
    assert shown.endswith("}\ngpu-01\ngpu-02\n")
