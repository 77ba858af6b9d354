"""What `up` wants and the keeper notes, as files: whole, or damaged with what is wrong about them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bursar.local import files
from bursar.local.files import ChildSpec, Damaged, Desired, Kept
from bursar.local.processes import Process, place_of

DAEMON = ChildSpec("daemon", "bursard", "/s/daemon", ("python", "-m", "bursard"))
AGENT = ChildSpec("local-1", "bursar_agent", "/s/agents/local-1", ("python", "-m", "bursar_agent"))
WEB = ChildSpec("web", "bursar_web", "/s/web", ("python", "-m", "bursar_web"))
WISH = Desired("unix:///r/s", "/s", "/r", 1, "/p", "H100:8", (DAEMON, AGENT))
CHILD: dict[str, Any] = AGENT.to_json()


def test_a_wish_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert files.read_desired(tmp_path) == Desired()
    files.write_json(tmp_path / files.DESIRED, WISH.to_json())
    assert files.read_desired(tmp_path) == WISH
    served = {
        **WISH.to_json(),
        "http": "127.0.0.1:1",
        "children": [*WISH.to_json()["children"], WEB.to_json()],
    }
    files.write_json(tmp_path / files.DESIRED, served)
    found = files.read_desired(tmp_path)
    assert (found.http, found.children[2], found.agent_names) == ("127.0.0.1:1", WEB, ("local-1",))
    before = {name: value for name, value in WISH.to_json().items() if name != "http"}
    files.write_json(tmp_path / files.DESIRED, before)  # of a release that had no pages
    assert files.read_desired(tmp_path) == WISH
    many = [{**CHILD, "name": f"local-{at}"} for at in range(65)]
    files.write_json(tmp_path / files.DESIRED, {**WISH.to_json(), "agents": 64, "children": many})
    assert files.read_desired(tmp_path).agents == 64


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"agents": 0, "children": [CHILD]}, "it does not name one daemon and 1 to 64 agents"),
        ({"agents": 65, "children": [CHILD] * 66}, "it does not name one daemon and 1 to 64 agents"),
        ({"agents": 2}, "it does not name one daemon and 1 to 64 agents"),
        ({"http": "127.0.0.1:1"}, "it does not name one daemon and 1 to 64 agents"),
        ({"http": 7480}, "http is missing or no str"),
        ({"agents": True}, "agents is missing or no int"),
        ({"server": 1}, "server is missing or no str"),
        ({"simulate_gpus": None}, "simulate_gpus is missing or no str"),
        ({"children": {}}, "children is missing or no list"),
        ({"children": [7, CHILD]}, "a child is no table"),
        ({"children": [{**CHILD, "command": []}, CHILD]}, "a command is no list of words"),
        ({"children": [{**CHILD, "command": [1]}, CHILD]}, "a command is no list of words"),
        ({"children": [{**CHILD, "command": ["a\0"]}, CHILD]}, "a command is no list of words"),
        ({"children": [{**CHILD, "name": ""}, CHILD]}, "a child has no name"),
        ({"children": [{**CHILD, "name": "a/b"}, CHILD]}, "a child has no name"),
        ({"children": [{**CHILD, "name": ".a"}, CHILD]}, "a child has no name"),
        ({"children": [{**CHILD, "module": None}, CHILD]}, "module is missing or no str"),
    ],
)
def test_a_wish_that_cannot_be_meant_is_damaged(tmp_path: Path, changes: Any, problem: str) -> None:
    files.write_json(tmp_path / files.DESIRED, {**WISH.to_json(), **changes})
    with pytest.raises(Damaged, match=problem):
        files.read_desired(tmp_path)


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, Kept(WISH)),
        ({"processes": {"daemon": {"pid": 7, "ticks": 9}, "x": 5}, "failures": {"daemon": 2, "x": True},
          "ready": ["daemon", 3]},
         Kept(WISH, None, {"daemon": Process(7, 9)}, {"daemon": 2}, ("daemon",), True)),
        ({"served": True}, Kept(WISH, served=True)),
        ({"served": 1}, Kept(WISH)),
        ({"ready": ["local-1"]}, Kept(WISH, ready=("local-1",))),
    ],
)  # fmt: skip
def test_notes_of_the_keeper_are_believed_word_by_word(tmp_path: Path, more: Any, expected: Kept) -> None:
    here = place_of(tmp_path)
    found = {**WISH.to_json(), **more, "place": here}
    processes = found.get("processes", {})
    if "daemon" in processes:
        processes["daemon"] = Process(7, 9).to_json()
    files.write_json(tmp_path / files.CLUSTER, found)
    assert files.read_kept(tmp_path) == replace(expected, place=here)


@pytest.mark.parametrize("more", [{"processes": [1]}, {"failures": [1]}, {"ready": {"a": 1}}])
def test_notes_that_are_no_tables_are_damaged(tmp_path: Path, more: Any) -> None:
    files.write_json(tmp_path / files.CLUSTER, {**WISH.to_json(), **more})
    with pytest.raises(Damaged, match="its processes are no table"):
        files.read_kept(tmp_path)
