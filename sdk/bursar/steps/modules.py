"""Environment modules and Lmod on a node: whether they are there, and how a bash of a job finds `module`.

Owns    the label of the node, and lines of what every bash of an `#SBATCH` job reads.
Why     `module` is a function that login shells define. A job's shell is none, so its scripts would find
        nothing and go on without what they load.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from typing import Final

LABEL: Final = "modules"
"""Of nodes that have them; its value says which they are."""
COMMANDS: Final = ("module", "ml")
_PROFILES: Final = ("z00_lmod.sh", "lmod.sh", "modules.sh")
_DEFINES: Final = """\
if ! type module >/dev/null 2>&1; then
bursar_modules() {{
local strict=$-
set +eu
unset -f module ml
. {init}
case $strict in *e*) set -e ;; esac
case $strict in *u*) set -u ;; esac
}}
module() {{ bursar_modules; module "$@"; }}
ml() {{ bursar_modules; ml "$@"; }}
fi
"""
"""They are loaded with their first use: most shells of a job want none, and loading takes a while."""


def find(env: Mapping[str, str], profiles: str = "/etc/profile.d") -> str:
    """The file with which a bash gets `module`; empty where the node has none."""
    roots = [env.get("MODULESHOME", ""), os.path.dirname(os.path.dirname(env.get("LMOD_CMD", "")))]
    files = [f"{root}/init/bash" for root in roots if root]
    files += [f"{profiles}/{name}" for name in _PROFILES]
    return next((file for file in files if os.path.isfile(file)), "")


def label_of(init: str) -> dict[str, str]:
    """What the node says of itself."""
    if not init:
        return {}
    return {LABEL: "lmod" if "lmod" in os.path.realpath(init).lower() else "environment-modules"}


def lines(init: str) -> str:
    """What a bash reads, so that it has `module`; nothing where the node has none."""
    return _DEFINES.format(init=shlex.quote(init)) if init else ""
