"""Ctrl-C, whenever it comes: it ends the verb with 130, breaks no module, and is not lost."""

import subprocess
import sys

import pytest
from verbs_server import make_job

from bursar.cli.main import run
from bursar.v1 import jobs_pb2

HEAD = """
import os, signal, sys, time
from bursar.cli import interrupts, lazy
interrupts.install()
def press(): os.kill(os.getpid(), signal.SIGINT)
def busy():
    end = time.monotonic() + 20
    while time.monotonic() < end: pass
    print("it was lost")
"""
HEARD = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
"""What a shell started in the background ignores it, and so does all that it starts."""
HALF = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nfor _ in range(100): pass\nwhole = 1\n"
CASES = {
    "in an import": ("import half\nbusy()", "half.whole"),
    "in a module that waits for its first use": (
        "lazy.LAZY = {'half'}; lazy.install()\nimport half\nhalf.whole\nbusy()",
        'vars(half)["whole"]',
    ),
    "in a callback that drops it": (
        "class Gone:\n def __del__(self): press()\nGone()\nbusy()",
        "1",
    ),
    "while it computes": ("press()\nbusy()", "1"),
}
"""What is done, and what is 1 after it was interrupted."""


def ended(program: str, tmp_path) -> tuple[int, str, str]:
    (tmp_path / "half.py").write_text(HALF)
    program = f"{HEARD}{HEAD}\nsys.path.insert(0, {str(tmp_path)!r})\n" + program
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("case", CASES)
def test_it_ends_the_program_and_breaks_no_module(case, tmp_path):
    done, whole = CASES[case]
    indented = done.replace("\n", "\n    ")
    program = f"try:\n    {indented}\nexcept KeyboardInterrupt: print(f'ended, {{{whole}}}')"
    assert ended(program, tmp_path) == (0, "ended, 1\n", "")


def test_an_import_that_hangs_is_ended_by_pressing_it_again(tmp_path):
    (tmp_path / "hangs.py").write_text("import time\nfor _ in range(9):\n press()\n time.sleep(0.01)\n")
    program = "import builtins; builtins.press = press\nimport hangs"
    code, _, err = ended(program, tmp_path)
    assert (code, err) == (-2, "")


def test_the_program_ends_with_130_and_no_traceback_when_it_comes_as_it_loads(tmp_path):
    loads = "lazy.install = lambda: (__import__('half'), busy())"
    program = f"from bursar.cli import start\n{loads}\nstart.main()"
    assert ended(program, tmp_path) == (130, "", "")


def test_where_it_is_ignored_it_stays_ignored(tmp_path):
    head = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    command = [sys.executable, "-c", head + HEAD + "press(); print('goes on')"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "goes on\n"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("submit", "interrupted before the server answered; `bursar ls` tells whether the job is there"),
        ("wait", "job 12 goes on; `bursar cancel 12` stops it"),
    ],
)
def test_who_interrupts_a_submit_is_told_where_the_job_is(call, said, fake, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    fake.answers["Jobs/Submit"] = jobs_pb2.SubmitResponse(job=make_job())
    monkeypatch.setattr(f"bursar.client.sync.WireClient.{call}", interrupted)
    assert run(["run", "--wait", "--queue", "--", "true"]) == 130
    assert said in capsys.readouterr().err
