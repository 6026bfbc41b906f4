"""What changes the weights: optimiser, learning-rate schedule, and the average of the weights over the last steps."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from handnet.task import HandTask
from pipelines.config import StageConfig

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def make_optimizer(task: HandTask, config: StageConfig) -> torch.optim.Optimizer:
    """Two groups, heads and trunk. Fused: one kernel, which skips a step on the device when it is told that something is not finite."""
    trunk = [p for p in task.network.backbone.parameters() if p.requires_grad]
    inside = {id(p) for p in trunk}
    heads = [p for p in task.parameters() if p.requires_grad and id(p) not in inside]
    rates = ((heads, config.lr), (trunk, config.lr * config.backbone_lr_factor))
    groups = [{"params": parameters, "lr": rate, "base_lr": rate} for parameters, rate in rates if parameters]
    kind = OPTIMIZERS[config.optimizer]
    return kind(groups, lr=config.lr, weight_decay=config.weight_decay, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, config: StageConfig, step: int) -> None:
    """The learning rates of a step (from 0): a function of the step alone."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * lr_factor(config, step)


def lr_factor(config: StageConfig, step: int) -> float:
    """Warm-up, then steps of x0.1 at the milestones or a cosine to zero."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "step":
        return 0.1 ** sum(step >= share * config.steps for share in config.milestones)
    done = (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1)
    return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


class AveragedWeights:
    """Exponential average of a network's weights; what is not a floating point number is the last one's."""

    def __init__(self, network: nn.Module, decay: float):
        self.decay = decay
        self.source = network.state_dict()
        self.values: dict[str, Tensor] = {name: value.detach().clone() for name, value in self.source.items()}
        names = [name for name, value in self.source.items() if value.is_floating_point()]
        self._averaged = [self.values[name] for name in names], [self.source[name] for name in names]
        self._copied = [(self.values[name], self.source[name]) for name in self.source if name not in set(names)]

    @torch.no_grad()
    def update(self, step: int) -> None:
        # the average warms up with the run, so that early weights don't linger in a short one
        decay = min(self.decay, (step + 1) / (step + 10)) if self.decay else 0.0
        torch._foreach_lerp_(*self._averaged, 1 - decay)
        for mine, value in self._copied:
            mine.copy_(value)

    @torch.no_grad()
    def load(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            self.values[name].copy_(value)
