"""Trains a small convolutional network on 1,797 real handwritten digits, on as many nodes as it is given.

Run     under torchrun; the data is scikit-learn's, in the package itself, so no network is needed.
Why     the demo shall train something real. It stops when the test accuracy passes 95 %, fails when it
        cannot, and after SIGTERM saves and leaves at the end of the epoch, to go on from there later.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path
from types import FrameType

import numpy as np
import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn.parallel import DistributedDataParallel

SEED = 7
BATCH = 32
EPOCHS_MAX = 30
ACCURACY_WANTED = 0.95
CHECKPOINT = Path(os.environ.get("BURSAR_CHECKPOINT_DIR", ".")) / "digits.pt"
STOPPED = 128 + signal.SIGTERM


def network() -> nn.Module:
    """Two convolutions and a linear layer: 8x8 grey values in, ten scores out."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 10),
    )


def digits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images `float32 (n, 1, 8, 8), 0..1` and labels; a fifth is kept for the test."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    split = train_test_split(images, labels, test_size=0.2, random_state=SEED, stratify=labels)
    train_x, test_x, train_y, test_y = map(torch.from_numpy, split)
    return train_x, train_y, test_x, test_y


def one_epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor, epoch: int
) -> float:
    """Every rank takes its share of each epoch's order; returns the mean loss of this rank."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(SEED + epoch))
    share = len(x) // dist.get_world_size()
    mine = order[dist.get_rank() * share :][:share]
    losses = []
    for batch in mine.split(BATCH):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses) / len(losses)


def main() -> int:
    """Exit code: 0 trained, 1 not accurate enough, 143 stopped with a checkpoint."""
    stopping = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    train_x, train_y, test_x, test_y = digits()
    model = DistributedDataParallel(network())
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    # Rank 0's checkpoint is everybody's: after a restart the ranks may be on other nodes.
    saved = [torch.load(CHECKPOINT) if rank == 0 and CHECKPOINT.exists() else None]
    dist.broadcast_object_list(saved)
    first = 1
    if saved[0] is not None:
        model.load_state_dict(saved[0]["model"])
        optimizer.load_state_dict(saved[0]["optimizer"])
        first = saved[0]["epoch"] + 1
    if rank == 0:
        print(f"{len(train_x)} images to train, {len(test_x)} to test, {world} nodes", flush=True)

    began, accuracy, code = time.monotonic(), 0.0, 1
    for epoch in range(first, EPOCHS_MAX + 1):
        loss = one_epoch(model, optimizer, train_x, train_y, epoch)
        with torch.no_grad():
            accuracy = (model.module(test_x).argmax(1) == test_y).double().mean().item()
        if rank == 0:
            print(f"epoch {epoch:2d}  loss {loss:.3f}  test accuracy {accuracy:.2%}", flush=True)
        # The ranks must leave together, whichever of them was told to.
        told = torch.tensor([float(stopping)])
        dist.all_reduce(told)
        if accuracy > ACCURACY_WANTED:
            code = 0
            break
        if told.item():
            if rank == 0:
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
                torch.save(state, CHECKPOINT)
                print(f"saved after epoch {epoch}", flush=True)
            code = STOPPED
            break
    if rank == 0 and code == 0:
        print(f"passed {ACCURACY_WANTED:.0%} after {time.monotonic() - began:.1f} s", flush=True)
    elif rank == 0 and code == 1:
        print(f"only {accuracy:.2%} after {EPOCHS_MAX} epochs", file=sys.stderr)
    dist.destroy_process_group()
    return code


if __name__ == "__main__":
    sys.exit(main())
