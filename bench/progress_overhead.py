"""What `bursar.torch.Loop` costs on the demo training: CPU per step with it against the step itself.

Run     python bench/progress_overhead.py [EPOCHS]   (10 epochs of each form, some 10 s)
Why     whoever trains for a week pays for each step. CPU time of this process alone is read, since wall time
        on a shared machine says more about the neighbours.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "docs/examples/demo"))

import torch
from train_digits import BATCH, digits, network

from bursar.torch import Loop

BARE_STEPS = 20_000


def batches(x: Any, y: Any) -> Iterator[tuple[Any, Any]]:
    for part in torch.arange(len(x)).split(BATCH):
        yield x[part], y[part]


def train(model: Any, optimizer: Any, some: Iterable[tuple[Any, Any]]) -> int:
    steps = 0
    for x, y in some:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        steps += 1
    return steps


def main() -> int:
    epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    torch.set_num_threads(1)
    x, y, _, _ = digits()
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    with tempfile.TemporaryDirectory() as folder:
        os.environ["BURSAR_PROGRESS_FILE"] = f"{folder}/progress"
        loop = Loop()
        train(model, optimizer, batches(x, y))
        began = time.process_time()
        steps = sum(train(model, optimizer, batches(x, y)) for _ in range(epochs))
        step_s = (time.process_time() - began) / steps
        one = next(batches(x, y))
        costs = []
        for form in ([one] * BARE_STEPS, loop([one] * BARE_STEPS)):
            began = time.process_time()
            for _ in form:
                pass
            costs.append((time.process_time() - began) / BARE_STEPS)
        loop.close()
    cost_s = costs[1] - costs[0]
    share = cost_s / step_s
    print(f"demo training: {step_s * 1e6:.0f} us of CPU a step ({steps} steps of {BATCH} digits)")
    print(f"bursar.torch.Loop: {cost_s * 1e6:.1f} us a step, {share:.2%} (goal: below 1 %)")
    return int(share >= 0.01)


if __name__ == "__main__":
    sys.exit(main())
