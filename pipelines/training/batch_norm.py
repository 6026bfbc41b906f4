"""Batch normalisation over the images of all processes, on any device: torch's SyncBatchNorm refuses the CPU."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


def synchronize_batch_norm(module: nn.Module) -> None:
    """Let every 2D batch norm below `module` use the statistics of the whole batch, in place; names in the state stay."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, GroupBatchNorm2d(child))
        else:
            synchronize_batch_norm(child)


class GroupBatchNorm2d(nn.Module):
    """A batch norm whose mean and variance in training are those over all processes; takes over the layer it replaces.

    An activation that timm fused into the layer is applied afterwards. Processes may hold different numbers of pixels.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, layer: nn.BatchNorm2d):
        super().__init__()
        if not layer.track_running_stats or layer.momentum is None or not layer.affine:
            raise ValueError("batch norm: expected one with weights, running statistics and a momentum")
        self.eps, self.momentum = layer.eps, layer.momentum
        self.weight, self.bias = layer.weight, layer.bias
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(layer, name))
        self.drop = getattr(layer, "drop", nn.Identity())
        self.act = getattr(layer, "act", nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            x = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
            return self.act(self.drop(x))
        values = x.float()
        num = values.new_tensor([x.numel() // x.shape[1]])
        sums: Tensor = _SumOverProcesses.apply(torch.cat([values.sum((0, 2, 3)), num]))
        count = sums[-1]
        mean = sums[:-1] / count
        centered = values - mean[:, None, None]
        variance = _SumOverProcesses.apply(centered.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1).clamp(min=1)), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        x = (centered * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)
        return self.act(self.drop(x))


class RunningStatistics:
    """The running statistics of the batch norms below a module, which every forward pass changes, and those before a step."""

    def __init__(self, module: nn.Module):
        layers = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d | GroupBatchNorm2d)]
        self._now = [buffer for layer in layers for buffer in layer.buffers(recurse=False)]
        self._before = [buffer.clone() for buffer in self._now]

    @torch.no_grad()
    def keep(self) -> None:
        """Remember those of now."""
        if self._now:
            torch._foreach_copy_(self._before, self._now)

    @torch.no_grad()
    def take_back(self, bad: Tensor) -> None:
        """Set those remembered where `bad`, a flag on the device, which the host does not read: one NaN would stay for ever."""
        for now, before in zip(self._now, self._before, strict=True):
            now.copy_(torch.where(bad, before, now))


class _SumOverProcesses(torch.autograd.Function):
    """Sum over the processes; so is its gradient, since every process's loss depends on it."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total
