"""Writes packaging/man and packaging/completions, which the wheel carries, from the programs' own help.

Run     make docs  (python docs/generate_man.py); with --check it only says whether the files are true.
Why     `man bursar` and a completion that is there without a line in a shell's start-up file, saying what the
        programs say.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from generate_cli import commands, help_of

import bursar

PACKAGING = Path(__file__).parent.parent / "packaging"
SHELLS = {"bash": "bursar.bash", "zsh": "_bursar", "fish": "bursar.fish"}
DAEMONS = {
    "bursard": ("the scheduler daemon of Bursar", "/etc/bursar/bursard.toml", "BURSARD_"),
    "bursar-agent": ("runs and meters jobs on one node", "/etc/bursar/agent.toml", "BURSAR_AGENT_"),
}
CLIENTS = {
    "bursar-web": "serves the pages of one daemon to browsers",
    "bursar-gateway": "sends requests for services to their replicas",
}
EXIT_CODES = """0 done; 1 the job or a check failed; 2 the command line or a file is wrong; 3 refused (budget,
quota, permission); 4 not found; 5 the server cannot be reached; 124 wait ran past its time."""


def roff(text: str) -> str:
    """Text that roff prints as it is."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join("\\&" + line if line.startswith((".", "'")) else line for line in escaped.split("\n"))


def block(text: str) -> str:
    """Lines that keep their breaks."""
    return f".nf\n{roff(text)}\n.fi\n"


def head(name: str, section: int, about: str) -> str:
    """The first lines of a page."""
    title = f'.TH {name.upper()} {section} "" "Bursar {bursar.__version__}" "Bursar"\n'
    return title + f".SH NAME\n{roff(name)} \\- {roff(about)}\n"


def cli_page() -> str:
    """`bursar(1)`: every verb."""
    parts = [head("bursar", 1, "a compute scheduler that knows what everything costs before it starts")]
    parts.append(f".SH DESCRIPTION\n{block(help_of([]))}")
    current = ""
    for section, words in commands():
        if section != current:
            parts.append(f".SH {section.upper()}\n")
            current = section
        parts.append(f'.SS "bursar {" ".join(words)}"\n{block(help_of(words))}')
    parts.append(f'.SH "EXIT STATUS"\n{roff(EXIT_CODES)}\n')
    parts.append(
        ".SH ENVIRONMENT\nBURSAR_SERVER: the server; BURSAR_TOKEN: the token; BURSAR_CA_FILE: the authority\n"
        "of the server's certificate; NO_COLOR: no colours.\n"
    )
    return (
        "".join(parts)
        + '.SH "SEE ALSO"\nbursard(8), bursar\\-agent(8), bursar\\-web(8), bursar\\-gateway(8)\n'
    )


def said_by(name: str) -> str:
    """What a program says of itself, as a block."""
    module = name.replace("-", "_")
    environ = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1"}
    command = [sys.executable, "-m", module, "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True, env=environ).stdout
    return block(re.sub(r"usage: \S+", f"usage: {name}", text, count=1).rstrip())


def daemon_page(name: str) -> str:
    """`bursard(8)` and `bursar-agent(8)`."""
    about, file, prefix = DAEMONS[name]
    files = f".SH FILES\n{file}: every setting, as TOML, under the name of its flag.\n"
    variables = f".SH ENVIRONMENT\n{prefix}NAME: a setting; above the file, below the flags.\n"
    return head(name, 8, about) + f".SH DESCRIPTION\n{said_by(name)}" + files + variables


def client_page(name: str) -> str:
    """`bursar-web(8)` and `bursar-gateway(8)`."""
    variables = (
        ".SH ENVIRONMENT\nBURSAR_SERVER: the server; BURSAR_CA_FILE: the authority of its certificate.\n"
    )
    return head(name, 8, CLIENTS[name]) + f".SH DESCRIPTION\n{said_by(name)}" + variables


def completion(shell: str) -> str:
    """The script that `bursar completion SHELL` prints."""
    command = [sys.executable, "-m", "bursar.cli.main", "completion", shell]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def files() -> dict[Path, str]:
    """Every file by its path."""
    found = {PACKAGING / "man/bursar.1": cli_page()}
    found |= {PACKAGING / f"man/{name}.8": daemon_page(name) for name in DAEMONS}
    found |= {PACKAGING / f"man/{name}.8": client_page(name) for name in CLIENTS}
    return found | {PACKAGING / "completions" / name: completion(shell) for shell, name in SHELLS.items()}


def main() -> int:
    """Write, or with --check compare: 1 when a file is out of date."""
    os.environ.pop("BURSAR_SERVER", None)
    wrong = 0
    for path, text in files().items():
        if "--check" not in sys.argv[1:]:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
        elif not path.exists() or path.read_text("utf-8") != text:
            print(
                f"{path.relative_to(PACKAGING.parent)} is not what the programs say: run make docs",
                file=sys.stderr,
            )
            wrong = 1
    return wrong


if __name__ == "__main__":
    sys.exit(main())
