"""One definition for both clients: what waits is written from what awaits, method for method."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from bursar.client import AsyncClient, AsyncWireClient, Client, WireClient

ROOT = Path(__file__).parents[2]
ROOM = ROOT / "sdk/bursar/client"


def check() -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / ".ci/generate-clients"), "--check"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_waiting_clients_are_what_make_clients_writes():
    done = check()
    assert (done.returncode, done.stderr) == (0, "")


def public(kind):
    return {name: value for name, value in vars(kind).items() if not name.startswith("_")}


@pytest.mark.parametrize(("awaiting", "waiting"), [(AsyncClient, Client), (AsyncWireClient, WireClient)])
def test_both_clients_have_the_same_methods_with_the_same_arguments_and_words(awaiting, waiting):
    assert list(public(awaiting)) == list(public(waiting))
    for name, method in public(awaiting).items():
        other = getattr(waiting, name)
        if isinstance(method, property):
            continue
        mine, its = inspect.signature(method), inspect.signature(other)
        assert str(mine).replace("Async", "") == str(its), name
        assert inspect.getdoc(method) == inspect.getdoc(other), name
    assert str(inspect.signature(awaiting.__init__)) == str(inspect.signature(waiting.__init__))


def test_every_method_of_the_client_says_what_it_does():
    assert [name for name, method in public(Client).items() if not inspect.getdoc(method)] == []
