"""The small programs of steps as files: for the jobs of a node, and for login machines.

Owns    which there are, and how they start.
Why     they run again and again inside jobs: straight into Python without site packages, whatever PATH says;
        and nothing is loaded that lies in the job's directory or is named by its PYTHONPATH.
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import Final

from bursar.aside import clear_for_file, own_directory, read_own
from bursar.steps import modules, names

SLURM: Final = ("srun", "scontrol", "sbatch", "scancel", "squeue", "sinfo", "sacct", "salloc")
_ROOT: Final = str(Path(__file__).resolve().parents[2])
_HEAD: Final = "#!{python} -IS\nimport sys\nsys.path.insert(0, {root!r})\n"
_SHIM: Final = _HEAD + "from bursar.steps.shims import main\nsys.exit(main({name!r}, sys.argv[1:]))\n"
_SERVE: Final = _HEAD + "from bursar.steps.server import main\nmain()\n"
_PROFILE: Final = f"""\
if [ -n "${{{names.OWN_BASH_ENV}-}}" ]; then . "${names.OWN_BASH_ENV}"; fi
# A profile sets PATH anew, of a login shell or one that a script reads: put Slurm's commands back in front.
bursar_path() {{
case ":$PATH:" in
*":${{{names.DIRECTORY}-}}/{names.SHIMS}:"*) ;;
*) PATH="${{{names.DIRECTORY}-}}/{names.SHIMS}:$PATH:${{{names.DIRECTORY}-}}/{names.TOOLS}" ;;
esac
}}
bursar_path
trap '{{ bursar_path; }} 2>/dev/null' RETURN
# A script that sets PATH itself finds them all the same: elsewhere they are in /usr/bin.
command_not_found_handle() {{
local at
for at in "${{{names.DIRECTORY}-}}/{names.SHIMS}" "${{{names.DIRECTORY}-}}/{names.TOOLS}"; do
if [ -x "$at/$1" ]; then exec "$at/$1" "${{@:2}}"; fi
done
printf '%s: line %s: %s: command not found\n' "$0" "${{BASH_LINENO[0]}}" "$1" >&2
return 127
}}
"""
_BEGIN: Final = "from bursar.cli.start import main; main()"
_BURSAR: Final = f"#!/bin/sh\n{{server}}exec {{python}} -EP -c '{_BEGIN}' \"$@\"\n"


def install(directory: Path, server: str = "", module_init: str = "") -> None:
    """Write the programs for the jobs of one node. Raises `OSError`.

    Args:
        server: address of the daemon, for a `bursar` that is not told another.
        module_init: the file that gives a bash `module`; empty where the node has none.
    """
    for folder in (directory, directory / names.SHIMS, directory / names.TOOLS):
        own_directory(folder, 0o755)
    write_shims(directory / names.SHIMS)
    default = f': "${{BURSAR_SERVER:={server}}}"; export BURSAR_SERVER\n' if server else ""
    _write(directory / names.TOOLS / "bursar", _BURSAR.format(server=default, python=sys.executable))
    for name in ("bursar-rsh", names.LAUNCH):
        _write(directory / names.TOOLS / name, _program(_SHIM, name=name))
    _write(directory / names.SERVE, _program(_SERVE))
    _write(directory / names.BASH_ENV, _PROFILE + modules.lines(module_init))


def write_shims(directory: Path) -> None:
    """Write Slurm's commands into a directory. Raises `OSError`."""
    for name in SLURM:
        _write(directory / name, _program(_SHIM, name=name))


def _program(form: str, **words: str) -> str:
    return form.format(python=sys.executable, root=_ROOT, **words)


def _write(path: Path, text: str) -> None:
    """Replace a program as a whole: jobs may be starting it."""
    if _holds(path, text):
        return
    clear_for_file(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.chmod(0o755)
    temporary.rename(path)


def _holds(path: Path, text: str) -> bool:
    """Is this program there, whole, for everybody to run? Whatever else is there is replaced."""
    wanted = text.encode()
    try:
        found = path.stat()
        same = stat.S_IMODE(found.st_mode) == 0o755 and found.st_size == len(wanted)
        return same and read_own(path, len(wanted)) == wanted
    except OSError:
        return False
