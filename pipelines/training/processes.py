"""The processes of a training run: Fabric over one device or over those torchrun started, and what their group agrees on."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor

# A process may wait this long for the others: for the first one that validates, or writes a checkpoint to slow storage.
PATIENCE = timedelta(minutes=60)


class AutocastPrecision(MixedPrecision):
    """Mixed precision by autocast alone: what goes in stays as it is, for half precision cannot hold labels in pixels."""

    def convert_input(self, data: Any) -> Any:
        return data


def precision_options(precision: Any) -> dict[str, Any]:
    """Fabric's arguments for a precision. Raises ValueError for float16 without a GPU, which Fabric would replace by bfloat16."""
    if precision == "32-true":
        return {"precision": precision}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if precision == "16-mixed" and device == "cpu":
        raise ValueError("precision: 16-mixed needs a GPU: expected 32-true or bf16-mixed on a CPU")
    return {"plugins": AutocastPrecision(precision, device)}


def start_fabric(precision: Any) -> Fabric:
    """Fabric on the devices torchrun started this process for, or on a single one; launched. Raises what precision_options does."""
    options = precision_options(precision)
    if in_group():
        local = local_processes()
        # buffers are the same everywhere: frozen ones, and statistics that are computed together
        strategy = DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True, timeout=PATIENCE)
        num_nodes = int(os.environ["WORLD_SIZE"]) // local
        fabric = Fabric(accelerator="auto", devices=local, num_nodes=num_nodes, strategy=strategy, **options)
    else:
        fabric = Fabric(accelerator="auto", devices=1, **options)
    fabric.launch()
    return fabric


def in_group() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def local_processes() -> int:
    """Processes of this run on this machine."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if in_group() else 1


class Group:
    """What the processes of a run tell each other beside gradients; everything is local where there is only one.

    Sums of tensors run on the device and wait for nothing. Flags travel between the CPUs, and are read a step later.
    """

    def __init__(self, fabric: Fabric):
        self.rank, self.size = fabric.global_rank, fabric.world_size
        self._cpu = dist.new_group(backend="gloo", timeout=PATIENCE) if self.size > 1 else None
        self._flag = torch.zeros(1, dtype=torch.int32)
        self._work: dist.Work | None = None

    def sum(self, value: Tensor) -> Tensor:
        """A detached sum over the processes, in every process."""
        value = value.detach().clone()
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def largest_flag(self, flag: int) -> int:
        """The largest flag that any process gave in its former call: the same answer everywhere, one step late."""
        if self._cpu is None:
            return flag
        former = 0
        if self._work is not None:
            self._work.wait()
            former = int(self._flag)
        self._flag.fill_(flag)
        self._work = dist.all_reduce(self._flag, dist.ReduceOp.MAX, group=self._cpu, async_op=True)
        return former

    def settle(self) -> None:
        """Wait for the flags that are still under way."""
        if self._work is not None:
            self._work.wait()
            self._work = None

    def gather(self, value: Any) -> list[Any]:
        """The small objects of all processes, by rank."""
        if self._cpu is None:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self._cpu)
        return values
