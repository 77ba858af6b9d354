"""Project paths such as `nlp/finetune`: what one looks like, and which is below which.

Why     a project owns budgets, rights and secrets. Two ideas of what a path is, or of what lies below one,
        would let one of them be dodged.
"""

from __future__ import annotations

import re
from typing import Final

PROJECT_MAX: Final = 200
"""Characters of the longest path."""
PROJECT_DEPTH_MAX: Final = 8
"""Levels of the deepest path."""

_PART = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)
_PATH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*)*", re.ASCII)


def problem_of(path: str) -> str:
    """What is wrong with a project path, in a few words; empty when nothing is."""
    if _PATH.fullmatch(path) and len(path) <= PROJECT_MAX and path.count("/") < PROJECT_DEPTH_MAX:
        return ""
    if not path:
        return "it is empty"
    if path.startswith("/") or path.endswith("/"):
        return "it starts or ends with /"
    if any(char.isspace() for char in path):
        return "it holds a space"
    parts = path.split("/")
    if "" in parts:
        return "it has an empty part (//)"
    if any(part in (".", "..") for part in parts):
        return "it has a part . or .., and projects are not directories"
    if len(parts) > PROJECT_DEPTH_MAX:
        return f"it has {len(parts)} levels; at most {PROJECT_DEPTH_MAX}"
    for part in parts:
        shown = repr(part if len(part) <= 60 else part[:57] + "...")
        if _PART.fullmatch(part) is None:
            return f"{shown} holds something else than letters, digits, '.', '_' and '-'"
        if not part[0].isalnum():
            return f"{shown} does not start with a letter or digit"
    return f"it has {len(path)} characters; at most {PROJECT_MAX}"


def is_within(path: str, root: str) -> bool:
    """Is a project the root itself, or below it, however they are written? All are below the empty root."""
    path, root = path.lower(), root.lower()
    return not root or path == root or path.startswith(root + "/")


def top_of(path: str) -> str:
    """The top-level project of a path, as it is compared."""
    return path.partition("/")[0].lower()
