"""Private directories of members go whole: any depth, any mode, any owner, and never through a link."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from bursar_agent.runner import scratch

WITHOUT = "-dac_override,-dac_read_search,-fowner"
needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root and setpriv"
)


def as_the_unit(story: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python as the agent's unit does: root without the right to pass by modes and owners."""
    head = "import os, sys; sys.path[:0] = sys.argv[1].split(':')\nfrom bursar_agent.runner import scratch\n"
    return subprocess.run(
        ["setpriv", f"--bounding-set={WITHOUT}", f"--inh-caps={WITHOUT}", sys.executable, "-c", head + story,
         ":".join(sys.path), *words],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_what_is_below_a_link_stays_and_all_else_goes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("x")
    path = tmp_path / "scratch"
    (path / "a" / "moved.0" / "c").mkdir(parents=True)
    (path / "moved.1").mkdir()
    (path / "a" / "moved.0" / "c" / "file").write_text("x")
    (path / "link").symlink_to(kept)
    (path / "a" / "link").symlink_to(kept)
    os.mkfifo(path / "a" / "pipe")
    (path / "a" / "moved.0").chmod(0)
    scratch.remove(str(path))
    assert not path.exists()
    assert (kept / "file").read_text() == "x"
    assert stat.S_IMODE(kept.stat().st_mode) & 0o700 == 0o700
    scratch.remove(str(path))  # and what is not there is no fault
    assert capfd.readouterr().err == ""


def test_a_link_in_its_place_goes_and_leads_nobody_anywhere(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir(mode=0o755)
    (tmp_path / "kept" / "file").write_text("x")
    (tmp_path / "scratch").symlink_to(tmp_path / "kept")
    scratch.remove(str(tmp_path / "scratch"))
    assert not os.path.lexists(tmp_path / "scratch")
    assert (tmp_path / "kept" / "file").read_text() == "x"


def test_no_depth_is_too_much(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Deeper than a path may be long, a process may have files open, or Python may call itself."""
    here = os.open(".", os.O_RDONLY)
    try:
        os.mkdir(tmp_path / "scratch")
        os.chdir(tmp_path / "scratch")
        for _ in range(3000):
            os.mkdir("directory")
            os.chdir("directory")
        Path("file").write_text("x")
    finally:
        os.fchdir(here)
        os.close(here)
    scratch.remove(str(tmp_path / "scratch"))
    assert not (tmp_path / "scratch").exists()
    assert capfd.readouterr().err == ""


@needs_root
def test_root_without_the_right_to_pass_by_modes_removes_what_another_user_made() -> None:
    """A private directory of another account in `/tmp`, with one that its own user shut."""
    story = (
        "path = '/tmp/bursar-att_scratch1.0@test.scratch'\n"
        "scratch.make(path, 65534, 65534)\n"
        "pid = os.fork()\n"
        "if not pid:\n"
        "    os.setgid(65534); os.setuid(65534); os.makedirs(path + '/a/b')\n"
        "    open(path + '/a/b/file', 'w').close(); os.chmod(path + '/a/b', 0); os._exit(0)\n"
        "os.waitpid(pid, 0)\n"
        "try:\n    os.listdir(path)\nexcept PermissionError:\n    print('closed')\n"
        "scratch.remove(path)\n"
        "print(os.path.lexists(path))\n"
    )
    done = as_the_unit(story)
    assert (done.stdout.split(), done.stderr) == (["closed", "False"], "")
