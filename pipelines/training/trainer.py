"""The loop of both stages: step, log, validate, save; what it does at step n is a function of n alone, so that it resumes exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor

from handnet.task import HandTask
from pipelines.config import StageConfig
from pipelines.training.batch_norm import RunningStatistics, synchronize_batch_norm
from pipelines.training.checkpoint import Checkpoint, CheckpointError, CheckpointFolder, load_optimizer, optimizer_tensors
from pipelines.training.feeding import Feed, Parts
from pipelines.training.journal import Journal, Row
from pipelines.training.nonfinite import FiniteGuard
from pipelines.training.optimization import AveragedWeights, make_optimizer, set_lr
from pipelines.training.processes import Group, in_group
from pipelines.training.stopping import stop_signals, stopped
from pipelines.training.whole_batch import WholeBatch

Figures = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What validation found: figures to log, and the one number by which the best weights are chosen, lower is better."""

    figures: Figures
    score: float
    picture: Path | None = None  # of what was predicted


class Trainer:
    """Network, optimiser, schedule and averaged weights of one process, and the loop over its batches.

    validate: measures averaged weights at a step; called in the first process only, and free to draw random numbers.
    """

    def __init__(
        self,
        fabric: Fabric,
        task: HandTask,
        config: StageConfig,
        checkpoints: CheckpointFolder,
        seed: int,
        validate: Callable[[dict[str, Tensor], int], Validation] | None = None,
    ):
        self.fabric, self.config, self.checkpoints, self.seed, self.validate = fabric, config, checkpoints, seed, validate
        self.group = Group(fabric)
        if self.group.size > 1:
            synchronize_batch_norm(task)
        self.raw_task, self.network = task, task.network
        self.optimizer_itself = make_optimizer(task, config)
        self.task, self.optimizer = fabric.setup(task, self.optimizer_itself)
        self.average = AveragedWeights(self.network, config.ema_decay)
        self.whole_batch = WholeBatch(task, self.group, config.batch_size)
        self.guard = FiniteGuard(config.nonfinite, self.group, checkpoints.folder, fabric.device)
        self.statistics = RunningStatistics(task) if config.nonfinite == "skip" else None
        self.step = 0
        self.names: list[str] = []  # of the terms, in their order
        self.history: list[Row] = []
        self.best: tuple[int, float] | None = None  # step and score in validation

    def resume(self) -> None:
        """Go on from the last checkpoint of this very run, if there is one."""
        found = self.checkpoints.load()
        steps = self.group.gather(None if found is None else found[0])
        if len(set(steps)) > 1:
            raise ValueError(f"{self.checkpoints.folder}: expected the same checkpoints in every process, got steps {steps}")
        if self.group.rank == 0:
            for line in self.checkpoints.others():
                self.fabric.print(line)
        if found is None:
            return
        self.step, checkpoint = found
        tensors, values = checkpoint.tensors, checkpoint.values
        try:
            self.network.load_state_dict(tensors["network"])
            self.average.load(tensors["average"])
            load_optimizer(self.optimizer_itself, tensors["optimizer"], values["optimizer"])
            self.history, self.best = values["history"], values["best"] and (values["best"][0], values["best"][1])
            self.guard.num_skipped, self.guard.in_a_row = values["skipped"]
            if values["precision"]:
                self.fabric.strategy.precision.load_state_dict(values["precision"])
        except (RuntimeError, KeyError, ValueError, TypeError) as error:
            path = self.checkpoints.path(self.step)
            raise CheckpointError(f"{path}: does not fit this network: {' '.join(str(error).split())[:600]}") from error
        self.fabric.print(f"resuming at step {self.step} of {self.config.steps} from {self.checkpoints.path(self.step)}")

    def save(self) -> None:
        """Write a checkpoint of this step, in the first process. It says which step is best: a kill cannot part the two."""
        if self.group.rank == 0 and self.step not in self.checkpoints.steps():
            optimizer, optimizer_values = optimizer_tensors(self.optimizer_itself.state_dict())
            values = {
                "optimizer": optimizer_values,
                "history": self.history,
                "best": self.best,
                "skipped": (self.guard.num_skipped, self.guard.in_a_row),
                "precision": self.fabric.strategy.precision.state_dict(),  # of the gradients' scaler, where there is one
            }
            tensors = {"network": self.network.state_dict(), "average": self.average.values, "optimizer": optimizer}
            best = None if self.best is None else self.best[0]
            self.checkpoints.save(self.step, Checkpoint(tensors=tensors, values=values), best=best)
        self.fabric.barrier()

    def run(self, feed: Feed, journal: Journal) -> None:
        """Train to the last step. Raises Stopped after saving when a signal asks for it, ValueError when the loss is not finite."""
        config = self.config
        journal.replay(self.history)
        self.task.train()
        with stop_signals(patient=in_group()) as signal_number, journal.progress(self.step, config.steps):
            for parts in feed:
                terms = self.train_step(parts)
                self.step += 1
                last = self.step == config.steps
                signalled = self.group.largest_flag(signal_number())
                logs, validates, saves = (
                    last or self.step % config.log_every == 0,
                    bool(config.validate_every) and (last or self.step % config.validate_every == 0),
                    not last and (bool(signalled) or self.step % config.checkpoint_every == 0),
                )
                if not self.delayed or logs or validates or saves:
                    self.look_for_nonfinite(journal)
                if logs:
                    self.log(terms, journal, feed)
                journal.advance()
                if validates:
                    self.run_validation(journal)
                if saves:
                    self.save()
                if signalled and not last:
                    raise stopped(signalled, f"stopped at step {self.step} of {config.steps}; the same command goes on from there")
        self.group.settle()

    @property
    def delayed(self) -> bool:
        """Whether asking the device how a step went would wait for it."""
        return self.fabric.device.type == "cuda"

    def train_step(self, parts: Parts) -> Tensor:
        """One optimiser step on a batch in parts; returns the terms of the whole batch, in the order of `names`."""
        set_lr(self.optimizer_itself, self.config, self.step)
        if self.statistics is not None:
            self.statistics.keep()
        # whatever draws random numbers in a step draws the same ones in a resumed run
        torch.manual_seed(((self.seed << 32 | self.step) << 12 | self.group.rank) % 2**63)
        parts = [part.to(self.fabric.device) for part in parts]
        own: Tensor | None = None
        for number, (batch, part) in enumerate(zip(parts, self.whole_batch.parts_of(parts), strict=True)):
            with self.fabric.no_backward_sync(self.task, enabled=number < len(parts) - 1):
                found = self.task(batch, part)
                self.fabric.backward(found["loss"])
            values = torch.stack([value.detach() for value in found.values()])
            own = values if own is None else own + values
            self.names = list(found)
        assert own is not None
        terms = self.group.sum(own) / self.group.size if self.group.size > 1 else own
        norm = self.fabric.clip_gradients(self.task, self.optimizer, max_norm=self.config.grad_clip, error_if_nonfinite=False)
        scaled = getattr(self.fabric.strategy.precision, "scaler", None) is not None  # it looks after the gradients
        if self.delayed:
            self.pending = self.guard.check(self.names)
        bad = self.guard.watch(self.step + 1, terms, own, None if scaled else norm, self.optimizer_itself, parts)
        if self.statistics is not None:
            self.statistics.take_back(bad)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update(self.step)
        return terms

    pending: str | None = None

    def look_for_nonfinite(self, journal: Journal) -> None:
        for line in (self.pending, self.guard.check(self.names)):
            if line is not None:
                journal.tell(line)
        self.pending = None

    def log(self, terms: Tensor, journal: Journal, feed: Feed) -> None:
        row: Row = {"step": float(self.step)}
        row |= {f"train/{name}": value for name, value in zip(self.names, terms.tolist(), strict=True)}
        row["train/lr"] = float(self.optimizer_itself.param_groups[0]["lr"])
        if self.config.nonfinite == "skip":
            row["train/skipped"] = float(self.guard.num_skipped)
        row |= journal.speed(feed.waited_s, self.config.batch_size)
        self.history.append(row)
        journal.log(row, epoch=self.step * self.config.batch_size / feed.images_per_epoch)

    def run_validation(self, journal: Journal) -> None:
        found = self.validate(self.average.values, self.step) if self.validate is not None and self.group.rank == 0 else None
        found = self.group.gather(found)[0]
        if found is None:
            return
        row = {"step": float(self.step), **{f"validation/{name}": value for name, value in found.figures.items()}}
        self.history.append(row)
        journal.log(row)
        if found.picture is not None:
            journal.picture("validation", found.picture, self.step)
        if self.best is None or found.score < self.best[1]:
            self.best = self.step, found.score
            self.save()

    def final_step(self) -> int:
        """The step whose averaged weights become the model: the last one, or the best in validation."""
        return self.step if self.config.select == "last" or self.best is None else self.best[0]

    def final_weights(self) -> dict[str, Tensor]:
        """The averaged weights that become the model."""
        if self.final_step() == self.step:
            return self.average.values
        loaded = self.checkpoints.load(self.final_step())
        assert loaded is not None
        return loaded[1].tensors["average"]

    def final_figures(self) -> Figures:
        """What validation found of the final weights, and the step; empty without validation."""
        rows = [row for row in self.history if row["step"] == self.final_step()]
        found = {name.removeprefix("validation/"): value for row in rows for name, value in row.items() if name.startswith("validation/")}
        return {"step": float(self.final_step()), **found} if found else {}
