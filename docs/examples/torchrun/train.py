"""A linear model fitted by all processes together; the first says what it found."""

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
torch.manual_seed(rank)
inputs = torch.randn(256, 2)
targets = inputs @ torch.tensor([[3.0], [-1.0]])
model = DistributedDataParallel(torch.nn.Linear(2, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
for _ in range(60):
    optimizer.zero_grad()
    torch.nn.functional.mse_loss(model(inputs), targets).backward()
    optimizer.step()
if rank == 0:
    found = [round(weight, 2) + 0.0 for weight in model.module.weight[0].tolist()]
    print(f"{world} processes found {found}")
dist.destroy_process_group()
