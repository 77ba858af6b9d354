"""One load on one device, as `bench/gpu_check.py` measures them.

Run     python bench/gpu_load.py NAME SECONDS   one load, then its figures as a line of JSON
        python bench/gpu_load.py NAME FILE      the same, until there is such a file
        python bench/gpu_load.py --serve        `NAME SECONDS` per line of stdin, an answer per line of stdout
Why     each figure of docs/metering.md belongs to one of these loads; with `--double` before the name they
        use the CPU alone, so that everything around them can be tried without a device.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

HELD_BYTES = {"held": 4 << 30, "hog": 60 << 30}
_BF16, _FP32, _ADDED = 8192, 4096, 1 << 28


class Loads:
    """The loads on the first visible device; torch is imported once."""

    def __init__(self) -> None:
        import torch

        self.torch = torch
        self.kept: list[Any] = []

    def facts(self) -> dict[str, Any]:
        torch = self.torch
        count = torch.cuda.device_count()
        known: dict[str, Any] = {"devices": count, "visible": os.environ.get("CUDA_VISIBLE_DEVICES")}
        if count:
            properties = torch.cuda.get_device_properties(0)
            known |= {"name": properties.name, "sms": properties.multi_processor_count}
        return known

    def run(self, name: str, seconds: float, until: str = "") -> dict[str, Any]:
        """Do it for so long, or until a file is there; what was done per second."""
        if name == "facts":
            return self.facts()
        if name == "take":
            return self.take(int(seconds * (1 << 30)))
        if name == "grab":
            half = self.torch.cuda.get_device_properties(0).total_memory // 2
            return {"small": self.take(2 << 30)["given"], "large": self.take(half + (4 << 30))["given"]}
        if name in HELD_BYTES:
            self.kept.append(self.torch.empty(HELD_BYTES[name], dtype=self.torch.uint8, device="cuda"))
            self.torch.cuda.synchronize()
            print("READY", file=sys.stderr, flush=True)
            time.sleep(seconds)
            self.kept.clear()
            return {"load": name, "seconds": seconds}
        step, unit, amount = self._step(name)
        for _ in range(3):
            step()
        self.torch.cuda.synchronize()
        print("READY", file=sys.stderr, flush=True)
        began, steps = time.perf_counter(), 0
        while not (os.path.exists(until) if until else time.perf_counter() - began >= seconds):
            for _ in range(8):
                step()
            self.torch.cuda.synchronize()
            steps += 8
        rate = steps * amount / (time.perf_counter() - began)
        return {"load": name, "seconds": seconds, "rate": rate, "unit": unit}

    def take(self, size: int) -> dict[str, Any]:
        """Whether so many bytes can be had."""
        try:
            self.kept.append(self.torch.empty(size, dtype=self.torch.uint8, device="cuda"))
        except self.torch.cuda.OutOfMemoryError:
            return {"bytes": size, "given": False}
        self.kept.clear()
        return {"bytes": size, "given": True}

    def _step(self, name: str) -> tuple[Callable[[], object], str, float]:
        torch = self.torch
        if name in ("bf16", "fp32"):
            torch.backends.cuda.matmul.allow_tf32 = False
            side, kind = (_BF16, torch.bfloat16) if name == "bf16" else (_FP32, torch.float32)
            a = torch.randn(side, side, device="cuda", dtype=kind)
            b = torch.randn(side, side, device="cuda", dtype=kind)
            out = torch.empty_like(a)
            return lambda: torch.matmul(a, b, out=out), "TFLOP/s", 2 * side**3 / 1e12
        if name == "memory":
            x = torch.randn(_ADDED, device="cuda")
            return lambda: x.add_(1.0), "GB/s", 2 * 4 * _ADDED / 1e9
        if name == "tiny":
            y = torch.zeros(1, device="cuda")

            def thousand() -> None:
                for _ in range(1000):
                    y.add_(1.0)

            return thousand, "launches/s", 1000
        raise SystemExit(f"no such load: {name}")


class DoubleLoads:
    """The same words, on the CPU: busy for what works, asleep for what only holds."""

    def run(self, name: str, seconds: float, until: str = "") -> dict[str, Any]:
        if name == "facts":
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            return {"devices": 0 if visible == "" else 1, "visible": visible, "name": "double", "sms": 132}
        if name == "take":
            return {"bytes": int(seconds * (1 << 30)), "given": seconds < 4}
        if name == "grab":
            return {"small": True, "large": False}
        print("READY", file=sys.stderr, flush=True)
        began = time.perf_counter()
        while not (os.path.exists(until) if until else time.perf_counter() - began >= seconds):
            if until or name in HELD_BYTES:
                time.sleep(0.05)
        return {"load": name, "seconds": seconds, "rate": 0.0, "unit": "double"}


def main() -> None:
    words = sys.argv[1:]
    double = "--double" in words
    words = [word for word in words if word != "--double"]
    loads: Loads | DoubleLoads = DoubleLoads() if double else Loads()
    if words == ["--serve"]:
        print(json.dumps({"ready": True, **loads.run("facts", 0)}), flush=True)
        for line in sys.stdin:
            name, seconds = line.split()
            print(json.dumps(loads.run(name, float(seconds))), flush=True)
        return
    facts = loads.run("facts", 0)
    found = {}
    if words[0] != "facts":
        until = words[1] if "/" in words[1] else ""
        found = loads.run(words[0], 0 if until else float(words[1]), until)
    print(json.dumps({**facts, **found}), flush=True)


if __name__ == "__main__":
    main()
