"""What a machine delivers: matrix products, memory, disk, and what its GPUs add up among each other.

Run     python -m bursar.calibration [FOLDER]   with torch; on the GPUs that can be seen, else on the CPUs
Prints  `bursar-calibration` and a line of JSON; of devices the slowest counts. Exit code 3: without torch.
Why     two machines of one type do not deliver the same, and prices per unit of work mean nothing before this
        is known. `bursar node calibrate` submits this very file as a job, so it imports nothing of ours.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

MARK = "bursar-calibration"
NO_TORCH = 3
WINDOW_S = 0.4
DISK_BYTES = 256 << 20
_GPU_SIDES = {"bf16": 8192, "fp16": 8192, "tf32": 8192, "fp32": 4096, "fp64": 4096}
_CPU_SIDES = {"bf16": 1024, "fp32": 1024, "fp64": 1024}
_GPU_COPIED, _CPU_COPIED = 1 << 31, 1 << 27
_REDUCED = 1 << 28


class Bench:
    """One kind of device, by torch."""

    def __init__(self, torch: Any, cuda: bool) -> None:
        self._torch = torch
        self._cuda = cuda

    def matmul(self, name: str, device: str) -> float | None:
        """FLOP/s of square products in one precision; None where it does not have it."""
        torch = self._torch
        side = (_GPU_SIDES if self._cuda else _CPU_SIDES)[name]
        kind = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}.get(name, torch.float32)
        torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
        try:
            a = torch.randn(side, side, device=device).to(kind)
            b = torch.randn(side, side, device=device).to(kind)
            out = torch.empty_like(a)
            each_s = self._each_s(lambda: torch.matmul(a, b, out=out), device)
        except RuntimeError:  # not supported, or no room for it
            return None
        return float(2 * side**3 / each_s)

    def copy(self, device: str) -> float | None:
        """Bytes read and written a second, from the device's memory to itself."""
        torch = self._torch
        size = _GPU_COPIED if self._cuda else _CPU_COPIED
        try:
            source = torch.zeros(size, dtype=torch.uint8, device=device)
            target = torch.empty_like(source)
            return 2 * size / self._each_s(lambda: target.copy_(source), device)
        except RuntimeError:
            return None

    def allreduce(self, devices: list[str]) -> float | None:
        """Bus bandwidth of a sum over all devices, bytes a second; None for one device or without NCCL."""
        if len(devices) < 2:
            return None
        torch = self._torch
        try:
            parts = [torch.zeros(_REDUCED // 4, device=device) for device in devices]
            each_s = self._each_s(lambda: torch.cuda.nccl.all_reduce(parts), *devices)
        except (RuntimeError, AttributeError):
            return None
        return 2 * (len(devices) - 1) / len(devices) * _REDUCED / each_s

    def _each_s(self, work: Callable[[], object], *devices: str) -> float:
        """Seconds of one go: the mean over a window, after three that warm up."""
        for _ in range(3):
            work()
        self._wait(devices)
        goes, began = 0, time.perf_counter()
        while True:
            for _ in range(4):
                work()
            goes += 4
            self._wait(devices)
            passed = time.perf_counter() - began
            if passed > WINDOW_S:
                return passed / goes

    def _wait(self, devices: tuple[str, ...]) -> None:
        if self._cuda:
            for device in devices:
                self._torch.cuda.synchronize(device)


def disk(folder: str) -> dict[str, float | None]:
    """Bytes a second, written until the disk has them, and read back past the page cache."""
    block = os.urandom(8 << 20)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            began = time.perf_counter()
            written = 0
            while written < DISK_BYTES and time.perf_counter() - began < 5:
                written += file.write(block)
            file.flush()
            os.fsync(file.fileno())
            write = written / (time.perf_counter() - began)
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.seek(0)
            began, read = time.perf_counter(), 0
            while part := len(file.read(8 << 20)):
                read += part
            return {"disk_write": write, "disk_read": read / (time.perf_counter() - began)}
    except OSError:
        return {"disk_write": None, "disk_read": None}


def measure(torch: Any, folder: str) -> dict[str, Any]:
    """All of it. Rates are whole numbers a second: FLOP by precision, bytes."""
    cuda = torch.cuda.is_available()
    devices = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if cuda else ["cpu"]
    if not cuda:
        cpus = os.environ.get("BURSAR_CPUS", "")
        torch.set_num_threads(max(int(float(cpus or len(os.sched_getaffinity(0)))), 1))
    bench = Bench(torch, cuda)
    matmul = {}
    for name in _GPU_SIDES if cuda else _CPU_SIDES:
        each = [bench.matmul(name, device) for device in devices]
        if None not in each:
            matmul[name] = round(min(rate for rate in each if rate is not None))
    copies = [bench.copy(device) for device in devices]
    found = {
        "memory": None if None in copies else min(rate for rate in copies if rate is not None),
        "allreduce": bench.allreduce(devices),
        **disk(folder),
    }
    return {
        "torch": str(torch.__version__),
        "devices": len(devices) if cuda else 0,
        "matmul_flops_per_second": matmul,
        **{
            f"{name}_bytes_per_second": None if rate is None else round(rate)
            for name, rate in found.items()
        },
    }  # fmt: skip


def main() -> int:
    """The exit code."""
    try:
        import torch
    except ImportError:
        sys.stderr.write("there is no torch for this python3: pip install torch\n")
        return NO_TORCH
    folder = os.environ.get("BURSAR_CHECKPOINT_DIR") or tempfile.gettempdir()
    folder = sys.argv[1] if len(sys.argv) > 1 else folder
    sys.stdout.write(f"{MARK} {json.dumps(measure(torch, folder))}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
