"""What a training step will need: weights, gradients, optimiser, averaged weights and activations, told before the first step."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from handnet.network.handnet import HandNet
from handnet.task import HandTask
from pipelines.config import StageConfig

GIB = 2**30
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes. activations: of one image, what the backward pass reads again; images: that a forward and backward pass takes at once."""

    weights: int
    gradients: int
    optimizer: int
    average: int
    activations: int
    images: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.average + self.activations * self.images

    def text(self) -> str:
        parts = {name: getattr(self, name) for name in ("weights", "gradients", "optimizer", "average")}
        listed = ", ".join(f"{name} {size / GIB:.2f}" for name, size in parts.items())
        activations = f"activations {self.activations * self.images / GIB:.2f} ({self.images} x {self.activations / 2**20:.0f} MiB)"
        return f"memory: about {self.total / GIB:.2f} GiB: {listed}, {activations}"


def estimate_memory(task: HandTask, config: StageConfig, images: int) -> MemoryEstimate:
    """What training `images` at a time needs; nothing is computed and nothing of the size is allocated."""
    parameters = list(task.parameters())
    weights = sum(tensor.nbytes for tensor in [*parameters, *task.buffers()])
    trained = sum(parameter.nbytes for parameter in parameters if parameter.requires_grad)
    return MemoryEstimate(
        weights=weights,
        gradients=trained,
        optimizer=2 * trained,  # two moments
        average=sum(tensor.nbytes for tensor in task.network.state_dict().values()),
        activations=activation_bytes(task.network, config),
        images=images,
    )


def activation_bytes(network: HandNet, config: StageConfig) -> int:
    """What the trunk and the dense heads keep of one image for the backward pass, found on tensors without content.

    The parts per hand and the drawing of a few images are small beside them.
    """
    shadow = copy.deepcopy(network).to("meta").train()
    own = {tensor.untyped_storage()._cdata for tensor in [*shadow.parameters(), *shadow.buffers()]}
    kept: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        maps = shadow.dense(torch.empty(2, 3, config.input_px, config.input_px, device="meta"))
    del maps
    size = sum(storage.nbytes() for storage in kept.values()) // 2
    return size if config.precision == "32-true" else size // 2


def free_memory(device: torch.device) -> int:
    """Bytes that this process may still take: of the GPU, or of the machine within the limit of its control group."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = int(psutil.virtual_memory().available)
    try:
        limit, used = ((_CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return free
    return free if limit == "max" else min(free, int(limit) - int(used))


def memory_lines(estimate: MemoryEstimate, config: StageConfig, device: torch.device, processes_here: int) -> list[str]:
    """The estimate for people, and a hint where it will not fit `device`, which the processes of this machine share on a CPU."""
    sharing = 1 if device.type == "cuda" else processes_here
    free = free_memory(device) // sharing
    lines = [f"{estimate.text()}; free {free / GIB:.2f} on {device}" + (f" for each of {sharing} processes" if sharing > 1 else "")]
    if estimate.total > free:
        fixed = estimate.total - estimate.activations * estimate.images
        fitting = max(0, (free - fixed) // max(estimate.activations, 1))
        hints = [f"HANDNET_DEVICE_BATCH={fitting} (with batch_norm: folded the result is the same)"] if fitting else []
        hints += ["precision: bf16-mixed"] * (config.precision == "32-true")
        hints += ["gradient_checkpointing: true"] * (not config.gradient_checkpointing)
        hints += ["a smaller input_px or backbone"] * (not fitting)
        lines.append(f"this will not fit; what helps: {', '.join(hints)}")
    return lines
