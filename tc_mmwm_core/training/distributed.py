"""One process, or several as ``torchrun`` starts them, that train one model on shares of each batch.

    torchrun --nproc_per_node 4 -m tc_mmwm_core train --config ... --device cuda

Every process reads its own rows of the same windows, so the batch, and with it the loss curve, is that of one process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Processes:
    """The processes of this run, seen from one of them."""

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """Whether this one writes the run folder."""
        return self.rank == 0

    @property
    def group(self) -> dist.ProcessGroup | None:
        """What batch statistics are taken over; None for one process."""
        return dist.group.WORLD if self.count > 1 else None

    def wrap(self, module: nn.Module) -> nn.Module:
        """``module`` with its gradients averaged over the processes; which parameters it uses differs by stage."""
        if self.count == 1:
            return module
        return DistributedDataParallel(module, find_unused_parameters=True, broadcast_buffers=False)

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process. All must ask."""
        if self.count == 1:
            return flag
        agreed = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(agreed, dist.ReduceOp.MAX)
        return bool(agreed.item())

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the processes. All must ask."""
        if self.count > 1:
            dist.all_reduce(values)
            values = values / self.count
        return values

    def from_first(self, value: object) -> object:
        """What the first process has. All must ask."""
        values = [value]
        if self.count > 1:
            dist.broadcast_object_list(values, device=self.device)
        return values[0]


@contextmanager
def processes(device: str) -> Iterator[Processes]:
    """The processes that ``torchrun`` started, or this one alone, on ``device`` (``cuda``: a GPU for each)."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes(device=torch.device(device))
        return
    here = torch.device(device)
    if here.type == "cuda":
        here = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(here)
    dist.init_process_group("nccl" if here.type == "cuda" else "gloo")
    try:
        yield Processes(dist.get_rank(), count, here)
    finally:
        dist.destroy_process_group()


def is_first() -> bool:
    """Whether this process is the one that talks to the user."""
    return os.environ.get("RANK", "0") == "0"
