"""One line in a loop of PyTorch: how far it is, where its time goes, and a checkpoint when told to stop.

    loop = bursar.torch.Loop(total=10_000, state={"model": model, "optimizer": optimizer})
    for x, y in loop(loader):
        ...

Owns    the timing of steps, the agreement of all ranks to stop, one checkpoint file. Input: the program's own
        batches and objects with a `state_dict`. Output: the progress file (docs/progress.md).
Why     what a step costs, and what of it is lost to waiting, is only seen from inside the loop. torch is
        loaded when a loop is made, never by `import bursar`.

Known limits: state that is sharded over ranks (FSDP) is not gathered; of collectives over gloo what ran
beside compute is counted too.
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final, TypeVar

from bursar.clock import SECOND_US, SystemClock
from bursar.extras import needing
from bursar.model import ProgressFile
from bursar.progress import Reporter, reporter

Batch = TypeVar("Batch")
Span = tuple[float, float]

PEAK_FLOPS: Final[Mapping[str, float]] = {
    "H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "V100": 125e12, "T4": 65e12,
}  # fmt: skip
"""Dense bf16 (V100, T4: fp16) by what the device's name holds; the first that fits."""

CHECKPOINT: Final = "bursar-loop.pt"
PROFILE_AFTER_US: Final = 30 * SECOND_US
PROFILE_PAUSE: Final = 200
"""A look by torch.profiler is followed by a pause of so many times what it took: half a percent."""
LOOK_US_MIN: Final = SECOND_US // 100
AGREE_EVERY: Final = 16
"""Steps between two questions whether any rank was told to stop: each is a small collective."""
_COLLECTIVES: Final = ("nccl", "gloo:", "mpi:")


class Loop:
    """Follows one training loop. Each rank makes its own; rank 0 of a node tells for all.

    Attributes:
        step, samples, tokens: done since the job's first attempt began, by all ranks together.
        stopped: it was told to stop, and the batches ended early for it: save what is yours and exit.
    """

    def __init__(
        self,
        *,
        total: int = 0,
        tokens_per_sample: int = 0,
        flops_per_sample: float = 0.0,
        peak_flops: float = 0.0,
        state: Mapping[str, Any] | None = None,
        signals: Sequence[str] = ("USR1", "TERM"),
        told: Reporter | None = None,
        boot_us: Callable[[], int] | None = None,
    ) -> None:
        """Go on from the job's checkpoint, if there is one and `state` is given.

        Args:
            total: steps that it wants to do. tokens_per_sample: of one sample, for tokens per second.
            flops_per_sample: forward and backward; 0: six for each parameter of `state["model"]` and token.
            peak_flops: of one device; 0: by its name, where that is known.
            state: what is saved and loaded, by name: objects with `state_dict` and `load_state_dict`.
            signals: of the job file's `checkpoint.signal`, and of the end of a time limit.

        Raises:
            BursarError: PyTorch is not installed; with what installs it.
        """
        with needing("bursar.torch", "torch"):
            import torch

        self._torch: Any = torch
        self._total, self._tokens_per_sample = total, tokens_per_sample
        self._state = dict(state or {})
        self._told = reporter(os.environ) if told is None else told
        self._boot_us = boot_us or SystemClock().boot_us
        self._rank, self._world = self._place()
        self._flops_per_sample = flops_per_sample or self._usual_flops()
        self._peak_flops = peak_flops or self._usual_peak()
        self.step = self.samples = self.tokens = self.epoch = 0
        self.stopped = False
        self._asked = False
        self._epoch_done = False
        self._began_us = self._first_samples = 0
        self._data_wait_us = self._compute_us = self._checkpoint_us = 0
        self._profiled_us = self._communicated_us = 0.0
        self._profile_at_us = self._profile_began_us = 0
        self._handlers: dict[int, Any] = {}
        self._listen(signals)
        self._resume()
        atexit.register(self.tell)

    def __call__(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches, each followed to the end of its step; they end early when the job is to stop."""
        self._epoch_done = False
        if not self._began_us:
            self._began_us, self._first_samples = self._boot_us(), self.samples
            self._profile_at_us = self._began_us + PROFILE_AFTER_US
        source = iter(batches)
        while True:
            asked_us = self._boot_us()
            try:
                batch = next(source)
            except StopIteration:
                break
            finally:
                self._data_wait_us += self._boot_us() - asked_us
            profiler, began_us, saved_us = self._profiler(), self._boot_us(), self._checkpoint_us
            yield batch
            took_us = self._boot_us() - began_us - (self._checkpoint_us - saved_us)
            self._compute_us += took_us
            if profiler is not None:
                self._look(profiler, took_us)
            self._count(batch)
            if self._told.due():
                self.tell()
            if self._must_stop():
                self.stopped = True
                self.save()
                self.tell()
                return
        self._epoch_done = True

    def epochs(self, count: int) -> Iterator[int]:
        """Those of `count` epochs, from 0, that are not done yet; one that was cut short is begun again."""
        for epoch in range(self.epoch, count):
            if self.stopped:
                return
            self.epoch, self._epoch_done = epoch, False
            yield epoch

    @contextmanager
    def checkpoint(self) -> Iterator[None]:
        """Around a checkpoint of the program's own: its time is told apart."""
        began_us = self._boot_us()
        try:
            yield
        finally:
            self._checkpoint_us += self._boot_us() - began_us

    def save(self) -> None:
        """Write `state` into BURSAR_CHECKPOINT_DIR, as a whole; rank 0 alone does. Nothing without either."""
        path = self._path()
        if path is None or self._rank:
            return
        with self.checkpoint():
            kept = {name: one.state_dict() for name, one in self._state.items()}
            counts = [self.step, self.samples, self.tokens, self.epoch + self._epoch_done]
            temporary = path.with_suffix(".new")
            self._torch.save({"counts": counts, "state": kept}, temporary)
            os.replace(temporary, path)

    def close(self) -> None:
        """Give the signals back to whom they belonged, and tell what was done."""
        for number, before in self._handlers.items():
            signal.signal(number, before)
        self._handlers.clear()
        atexit.unregister(self.tell)
        self.tell()

    def tell(self) -> None:
        """Write how far it is, now."""
        if not self._began_us or not self._told.listens:
            return
        elapsed_us = self._boot_us() - self._began_us
        communicated_us = 0.0
        if self._profiled_us:
            communicated_us = self._compute_us * min(self._communicated_us / self._profiled_us, 1.0)
        self._told.report(
            ProgressFile(
                step=self.step,
                total=self._total,
                samples=self.samples,
                tokens=self.tokens,
                elapsed_s=elapsed_us / SECOND_US,
                data_wait_s=self._data_wait_us / SECOND_US,
                compute_s=(self._compute_us - communicated_us) / SECOND_US,
                communication_s=communicated_us / SECOND_US,
                checkpoint_s=self._checkpoint_us / SECOND_US,
                mfu=self._mfu(elapsed_us),
            )
        )
        self._told.flush()

    # --- what is done

    def _count(self, batch: Any) -> None:
        done = batch_size(batch) * self._world
        self.step += 1
        self.samples += done
        self.tokens += done * self._tokens_per_sample

    def _mfu(self, elapsed_us: int) -> float:
        if not self._peak_flops or elapsed_us <= 0:
            return 0.0
        flops = (self.samples - self._first_samples) * self._flops_per_sample
        return min(flops * SECOND_US / elapsed_us / (self._peak_flops * self._world), 1.0)

    def _usual_flops(self) -> float:
        model = self._state.get("model")
        if model is None or not self._tokens_per_sample:
            return 0.0
        parameters = sum(int(one.numel()) for one in model.parameters())
        return 6.0 * parameters * self._tokens_per_sample

    def _usual_peak(self) -> float:
        if not self._torch.cuda.is_available():
            return 0.0
        name = self._torch.cuda.get_device_name()
        return next((flops for part, flops in PEAK_FLOPS.items() if part in name), 0.0)

    # --- other ranks

    def _place(self) -> tuple[int, int]:
        group = self._torch.distributed
        if not (group.is_available() and group.is_initialized()):
            return 0, 1
        return group.get_rank(), group.get_world_size()

    def _must_stop(self) -> bool:
        """All ranks say the same at the same step: else some would wait for ever for the others."""
        if self._world == 1:
            return self._asked
        if self.step % AGREE_EVERY:
            return False
        group = self._torch.distributed
        device = "cuda" if group.get_backend() == "nccl" else "cpu"
        asked = self._torch.tensor([int(self._asked)], device=device)
        group.all_reduce(asked, op=group.ReduceOp.MAX)
        return bool(asked.item())

    def _profiler(self) -> Any:
        """Looks at this step, where collectives can be in it and the last look is long enough ago."""
        if self._world == 1 or self._boot_us() < self._profile_at_us:
            return None
        kinds = self._torch.profiler.ProfilerActivity
        activities = [kinds.CPU, *([kinds.CUDA] if self._torch.cuda.is_available() else [])]
        self._profile_began_us = self._boot_us()
        made = self._torch.profiler.profile(activities=activities)
        made.start()
        return made

    def _look(self, profiler: Any, took_us: int) -> None:
        profiler.stop()
        moved: list[Span] = []
        worked: list[Span] = []
        for event in profiler.events():
            span = (event.time_range.start, event.time_range.end)
            if event.name.startswith(_COLLECTIVES):
                moved.append(span)
            elif str(event.device_type).endswith("CUDA"):
                worked.append(span)
        self._communicated_us += min(uncovered(moved, worked), took_us)
        self._profiled_us += took_us
        now_us = self._boot_us()
        cost_us = max(now_us - self._profile_began_us - took_us, LOOK_US_MIN)
        self._profile_at_us = now_us + PROFILE_PAUSE * cost_us

    # --- stop and resume

    def _listen(self, signals: Sequence[str]) -> None:
        """A handler that the program has set itself stays; only the main thread may set any."""
        if threading.current_thread() is not threading.main_thread():
            return
        for name in signals:
            number = getattr(signal, f"SIG{name}")
            if signal.getsignal(number) is signal.SIG_DFL:
                self._handlers[number] = signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def _path(self) -> Path | None:
        directory = os.environ.get("BURSAR_CHECKPOINT_DIR", "")
        return Path(directory, CHECKPOINT) if directory and self._state else None

    def _resume(self) -> None:
        """Rank 0's checkpoint is everybody's: after a restart the ranks may be on other nodes."""
        path = self._path()
        if path is None:
            return
        found = [None]
        if self._rank == 0 and path.exists():
            found = [self._torch.load(path, map_location="cpu", weights_only=True)]
        if self._world > 1:
            self._torch.distributed.broadcast_object_list(found)
        kept: Any = found[0]
        if kept is not None:
            self.step, self.samples, self.tokens, self.epoch = kept["counts"]
            for name, one in self._state.items():
                one.load_state_dict(kept["state"][name])


def track(batches: Iterable[Batch], **options: Any) -> Iterator[Batch]:
    """`Loop(**options)(batches)`, for a loop of one pass."""
    return Loop(**options)(batches)


def batch_size(batch: Any) -> int:
    """Samples in a batch: the first length of the first tensor in it; 1 where there is none."""
    if isinstance(batch, Mapping):
        batch = next(iter(batch.values()), None)
    elif isinstance(batch, (tuple, list)):
        batch = batch[0] if batch else None
    shape = getattr(batch, "shape", None)
    return int(shape[0]) if shape else 1


def uncovered(spans: Sequence[Span], by: Sequence[Span]) -> float:
    """How long any of `spans` lasted while none of `by` did."""
    marks: list[tuple[float, int, int]] = []
    for kind, several in enumerate((spans, by)):
        for begin, end in several:
            marks += [(begin, kind, 1), (end, kind, -1)]
    depth, before, total = [0, 0], 0.0, 0.0
    for at, kind, sign in sorted(marks):
        if depth[0] and not depth[1]:
            total += at - before
        depth[kind] += sign
        before = at
    return total
