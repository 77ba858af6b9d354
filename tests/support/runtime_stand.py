"""A runtime for tests: the program that behaves as podman does, or podman itself with an image made here."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bursar_agent import containers

IMAGE = "localhost/bursar-test:1"
_FAKE = Path(__file__).with_name("fake_podman.py")
_PROGRAMS = ("sh", "sleep", "cat", "env", "id", "ls", "touch", "true")


class Stand:
    """A runtime as an agent finds it, and for the program in podman's place what it was asked."""

    def __init__(self, runtime: Mapping[str, Any], folder: Path | None = None) -> None:
        self.runtime = dict(runtime)
        self.state = folder / "state" if folder is not None else None

    @property
    def kept(self) -> Path:
        """The state of the program in podman's place."""
        assert self.state is not None
        return self.state

    @property
    def real(self) -> bool:
        """It is podman itself."""
        return self.state is None

    def calls(self, verb: str) -> list[dict[str, Any]]:
        """Command lines and environments of one verb, in order."""
        assert self.state is not None
        found = [json.loads(line) for line in (self.state / "calls").read_text().splitlines()]
        return [one for one in found if verb in one["argv"][:2]]

    def containers(self) -> list[str]:
        """Names of those of ours that are there."""
        if self.state is not None:
            folder = self.state / "containers"
            return sorted(path.name for path in folder.iterdir()) if folder.exists() else []
        said = subprocess.run(
            ["podman", "ps", "--all", "--format", "{{.Names}}", "--filter", "label=bursar.member"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return sorted(name for name in said.stdout.split() if re.match(r"bursar-att_cc", name))

    def wants(self, name: str, value: object) -> None:
        """Have the program behave so."""
        assert self.state is not None
        self.state.mkdir(exist_ok=True)
        (self.state / name).write_text(json.dumps(value))

    def has_image(self, image: str) -> None:
        """It is there without a pull."""
        name = image.replace("/", "%")
        folder = self.state / "images" if self.state is not None else None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(json.dumps({"Id": "7" * 64, "Digest": "sha256:" + "5" * 64}))


def fake(folder: Path, **more: Any) -> Stand:
    """The program in podman's place, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "podman"
    shutil.copy(_FAKE, program)
    program.chmod(0o755)
    runtime = {
        "kind": "podman", "program": str(program), "version": "4.9.3", "globals": [], "create": [],
        "init": False, "holds": [], "cgroup": True, "rootless": os.geteuid() != 0, "gpus": "",
        "library": "/usr/share",
    }  # fmt: skip
    stand = Stand(runtime | more, folder)
    stand.has_image(IMAGE)
    return stand


def podman(cache: Path) -> Stand | str:
    """Podman itself with an image of a few programs of this machine; or why not."""
    if shutil.which("podman") is None:
        return "podman is not installed here (`apt-get install podman`)"
    found = containers.find("podman", limited=False, devices=False, cache=cache)
    if found.runtime is None:
        return f"podman does not run containers here: {'; '.join(found.problems)}"
    there = subprocess.run(["podman", "image", "exists", IMAGE], check=False).returncode == 0
    if not there:
        subprocess.run(["podman", "import", "-", IMAGE], input=_root(), check=True, capture_output=True)
    return Stand(found.runtime)


def _root() -> bytes:
    """A root directory as a tar: some programs and what they load."""
    files: dict[str, str] = {}
    for name in _PROGRAMS:
        path = os.path.realpath(shutil.which(name) or f"/bin/{name}")
        files[f"bin/{name}"] = path
        for line in subprocess.run(
            ["ldd", path], capture_output=True, text=True, check=False
        ).stdout.splitlines():
            match = re.search(r"(/\S+) \(0x", line)
            if match is not None:
                files[match[1].lstrip("/")] = os.path.realpath(match[1])
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for folder in ("tmp", "proc", "sys", "dev", "etc"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for target, source in sorted(files.items()):
            tar.add(source, target)
    return buffer.getvalue()
