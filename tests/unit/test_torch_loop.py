"""One line in a training loop: what it tells, how it stops, where it goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bursar.clock import VirtualClock
from bursar.model import Progress, read_progress
from bursar.progress import Reporter
from bursar.torch import Loop, batch_size, track, uncovered

torch = pytest.importorskip("torch")


class Training:
    """A loop whose steps take as long as they say."""

    def __init__(self, folder: Path) -> None:
        self.clock = VirtualClock()
        self.file = folder / "progress"
        self.model = torch.nn.Linear(3, 1)

    def loop(self, **more: Any) -> Loop:
        told = Reporter(str(self.file), self.clock.boot_us)
        return Loop(told=told, boot_us=self.clock.boot_us, state={"model": self.model}, **more)

    def batches(self, count: int, wait_s: int) -> Iterator[Any]:
        for _ in range(count):
            self.clock.advance(wait_s * 1_000_000)
            yield torch.zeros(8, 3), torch.zeros(8)

    def told(self) -> Progress:
        return read_progress(self.file.read_bytes())


@pytest.fixture
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Training:
    monkeypatch.setenv("BURSAR_CHECKPOINT_DIR", str(tmp_path))
    return Training(tmp_path)


def test_time_goes_where_it_was_spent(training: Training) -> None:
    loop = training.loop(total=9, tokens_per_sample=10, peak_flops=1000.0)
    for _ in loop(training.batches(4, wait_s=2)):
        training.clock.advance(5_000_000)
        with loop.checkpoint():
            training.clock.advance(1_000_000)
    training.clock.advance(8_000_000)
    loop.close()
    # 4 parameters * 6 * 10 tokens * 32 samples in 40 s: 192 of 1,000 FLOP/s.
    assert training.told() == Progress(
        step=4, total=9, samples=32, tokens=320, elapsed_us=40_000_000, data_wait_us=8_000_000,
        compute_us=20_000_000, checkpoint_us=4_000_000, mfu_ppm=192_000,
    )  # fmt: skip


def test_a_loop_that_is_told_to_stop_saves_and_the_next_goes_on(training: Training) -> None:
    loop = training.loop()
    seen = 0
    for epoch in loop.epochs(3):
        for _ in loop(training.batches(4, wait_s=1)):
            seen += 1
            if epoch == 1:
                with torch.no_grad():
                    training.model.weight.fill_(7.0)
                signal.raise_signal(signal.SIGUSR1)  # another thread of ours would answer later
    assert (seen, loop.stopped) == (5, True)
    loop.close()
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    again = Training(training.file.parent)
    after = again.loop()
    assert (after.step, after.samples, after.epoch, after.stopped) == (5, 40, 1, False)
    assert again.model.weight.tolist() == [[7.0, 7.0, 7.0]]
    assert list(after.epochs(3)) == [1, 2]
    after.close()


def test_what_is_saved_between_epochs_begins_with_the_next(training: Training) -> None:
    loop = training.loop()
    for _ in loop.epochs(2):
        assert len(list(loop(training.batches(2, wait_s=1)))) == 2
        loop.save()
    loop.close()
    after = training.loop()
    assert (after.step, list(after.epochs(2))) == (4, [])
    after.close()


def test_a_handler_of_the_program_stays_its_own(training: Training) -> None:
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        training.loop().close()
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_outside_a_job_the_batches_pass_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BURSAR_PROGRESS_FILE", raising=False)
    monkeypatch.delenv("BURSAR_CHECKPOINT_DIR", raising=False)
    assert list(track([1, 2, 3], signals=())) == [1, 2, 3]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("batch", "size"),
    [(torch.zeros(4, 2), 4), ((torch.zeros(3), 1), 3), ({"x": torch.zeros(5)}, 5), ([], 1), ({}, 1), (7, 1)],
)
def test_a_batch_has_as_many_samples_as_its_first_tensor(batch: Any, size: int) -> None:
    assert batch_size(batch) == size


@pytest.mark.parametrize(
    ("moved", "worked", "left"),
    [
        ([], [(0, 9)], 0),
        ([(0, 4), (2, 6)], [], 6),
        ([(0, 10)], [(2, 3), (5, 20)], 4),
        ([(0, 1), (8, 9)], [(0, 5)], 1),
    ],
)
def test_communication_is_what_no_compute_covers(moved: Any, worked: Any, left: float) -> None:
    assert uncovered(moved, worked) == left


class Look:
    """A profiler that saw half a second of collectives, a tenth of it under a kernel."""

    def __init__(self, clock: VirtualClock, looks: list[str]) -> None:
        self.clock, self.looks = clock, looks

    def start(self) -> None:
        self.looks.append("start")

    def stop(self) -> None:
        self.looks.append("stop")
        self.clock.advance(100_000)

    def events(self) -> list[Any]:
        def event(name: str, begin: int, end: int, device: str) -> Any:
            span = SimpleNamespace(start=begin, end=end)
            return SimpleNamespace(name=name, device_type=f"DeviceType.{device}", time_range=span)

        return [
            event("gloo:all_reduce", 0, 500_000, "CPU"),
            event("aten::mm", 0, 900_000, "CPU"),
            event("gemm", 450_000, 800_000, "CUDA"),
        ]


def test_ranks_look_seldom_and_stop_together(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group, looks = torch.distributed, list[str]()
    monkeypatch.setattr(torch.profiler, "profile", lambda **_: Look(training.clock, looks))
    group.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        loop = training.loop()
        loop._world = 2  # of one process, so that it looks and agrees as it would with others
        loop._ask(signal.SIGUSR1, None)
        for _ in loop(training.batches(40, wait_s=3)):
            training.clock.advance(1_000_000)
        assert (loop.step, loop.stopped, looks) == (16, True, ["start", "stop"] * 2)
        loop.close()
        told = training.told()
        assert (told.communication_us, told.compute_us, told.samples) == (7_200_000, 8_800_000, 256)
    finally:
        group.destroy_process_group()


class Optimizer:
    """Of a kind that does nothing: torch's own load its compiler, which takes seconds."""

    def __init__(self, parameters: Any, lr: float) -> None:
        self.steps = 0

    def zero_grad(self) -> None:
        pass

    def step(self) -> None:
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, kept: dict[str, Any]) -> None:
        self.steps = kept["steps"]


def test_the_guides_loop_trains_saves_and_goes_on(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BURSAR_PROGRESS_FILE", str(training.file))
    monkeypatch.setattr(torch.optim, "SGD", Optimizer)
    text = (Path(__file__).parents[2] / "docs/progress.md").read_text()
    code = compile(text.split("```python\n", 2)[2].split("```", 1)[0], "progress.md", "exec")
    for _ in range(2):
        names: dict[str, Any] = {}
        exec(code, names)
        names["loop"].close()
        assert names["optimizer"].steps == 60
        assert (names["loop"].step, names["loop"].samples, names["loop"].stopped) == (60, 960, False)
    kept = torch.load(tmp_path / "bursar-loop.pt", weights_only=True)
    assert kept["counts"] == [60, 960, 0, 3]


def test_bursar_imports_without_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import bursar, bursar.torch, bursar.progress"
    subprocess.run([sys.executable, "-c", code], check=True)
