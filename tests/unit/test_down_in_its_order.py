"""What `down` does, step after step, with a cluster in each state: who is asked, ended, and kept."""

from __future__ import annotations

import signal
from types import SimpleNamespace
from typing import Any

import pytest

from bursar.local import stopping


class Played:
    """A cluster whose processes are words; every step that is taken is told."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, running: str, keeper: str, cloud: str, agents: int
    ) -> None:
        self.steps: list[str] = []
        self.left = {name: name for name in running.split()}
        self.alive = keeper
        self.directory, self.server = "DIR", "SERVER"
        self.desired = SimpleNamespace(cloud=cloud, agents=agents)
        told = self.steps.append

        def end_all(found: list[str], limit_s: float) -> None:
            told(f"end {' '.join(found) or 'nobody'} within {limit_s:g} s")

        def kill(process: str, number: signal.Signals) -> None:
            told(f"{number.name} to {process}")

        def wait_gone(found: list[str], limit_s: float) -> list[str]:
            told(f"wait for {' '.join(found)}, {limit_s:g} s")
            return found if "stubborn" in self.alive else []

        processes = SimpleNamespace(
            end_all=end_all, kill=kill, wait_gone=wait_gone, stopped=lambda process: "stopped" in keeper
        )
        monkeypatch.setattr(stopping, "processes", processes)
        monkeypatch.setattr(stopping, "_stop_jobs", lambda server, progress: told(f"cancel jobs at {server}"))
        monkeypatch.setattr(stopping, "_terminate", self._terminated)
        clouds = SimpleNamespace(
            end_agents=lambda directory: told(f"end agents of machines of {directory}"),
            give_back=lambda client, why, progress: told("give machines back"),
        )
        monkeypatch.setattr(stopping, "clouds", clouds)
        monkeypatch.setattr(stopping, "connected", lambda server: _Client())
        files = SimpleNamespace(write_json=self._written, CLUSTER="cluster.json")
        monkeypatch.setattr(stopping, "files", files)
        monkeypatch.setattr(
            stopping, "Kept", lambda desired, served: SimpleNamespace(to_json=lambda: desired)
        )

    def _terminated(self, directory: str, progress: Any, jobs: bool) -> int:
        self.steps.append(f"end {'all' if jobs else 'what has no job'} below {directory}")
        return 0

    def _written(self, path: Any, what: Any) -> None:
        self.steps.append("keep what was wished" if what else "keep nothing")

    def processes(self) -> dict[str, str]:
        return dict(self.left)

    def keeper(self) -> str | None:
        return self.alive or None

    def keeper_responds(self, keeper: str) -> bool:
        return "silent" not in keeper

    def ended(self) -> None:
        self.steps.append("the keeper has ended")

    def kept(self) -> Any:
        return SimpleNamespace(desired=self.desired, served=None)


class _Client:
    def __enter__(self) -> _Client:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class _Path(str):
    def __truediv__(self, name: str) -> _Path:
        return _Path(f"{self}/{name}")


S = f"{stopping.STOP_S:g}"
K = f"{stopping.KEEPER_STOP_S:g}"
WHOLE = ["end agents of machines of DIR", "end all below DIR"]


@pytest.mark.parametrize(
    ("running", "keeper", "cloud", "agents", "jobs", "steps"),
    [
        ("", "", "", 0, True, WHOLE),
        ("", "", "", 0, False, ["end what has no job below DIR"]),
        (
            "daemon a1", "keeper", "", 1, True,
            [
                "cancel jobs at SERVER", "give machines back", "SIGTERM to keeper", f"wait for keeper, {K} s",
                "the keeper has ended", f"end a1 within {S} s", f"end daemon within {S} s",
                "keep what was wished", *WHOLE,
            ],
        ),
        (
            "daemon a1", "keeper", "local", 1, True,
            [
                "cancel jobs at SERVER", "give machines back", "SIGTERM to keeper", f"wait for keeper, {K} s",
                "the keeper has ended", f"end a1 within {S} s", f"end daemon within {S} s",
                "keep what was wished", *WHOLE,
            ],
        ),
        (
            "daemon a1", "silent stubborn", "", 0, False,
            [
                "SIGTERM to silent stubborn", "wait for silent stubborn, 0 s", "SIGKILL to silent stubborn",
                "wait for silent stubborn, 2 s", "the keeper has ended", f"end a1 within {S} s",
                f"end daemon within {S} s", "keep nothing", "end what has no job below DIR",
            ],
        ),
        (
            "daemon a1", "stopped", "local", 1, True,
            [
                "SIGTERM to stopped", f"wait for stopped, {K} s", "the keeper has ended",
                f"end a1 within {S} s", f"end daemon within {S} s", "keep what was wished", *WHOLE,
            ],
        ),
        (
            "a1", "", "local", 1, True,
            [f"end a1 within {S} s", f"end nobody within {S} s", "keep what was wished", *WHOLE],
        ),
    ],
    ids=[
        "nothing", "nothing, jobs stay", "all", "with machines", "a keeper that hangs", "a daemon that hangs",
        "no keeper",
    ],
)  # fmt: skip
def test_down_takes_its_steps_in_their_order(
    running: str, keeper: str, cloud: str, agents: int, jobs: bool, steps: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    cluster: Any = Played(monkeypatch, running, keeper, cloud, agents)
    cluster.directory = _Path("DIR")
    stopping.stop(cluster, lambda text: None, jobs=jobs)
    assert cluster.steps == steps
