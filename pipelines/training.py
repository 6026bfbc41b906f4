"""The training loop of both stages: Fabric for devices and precision, checkpoints that resume exactly, curves that DVC can plot."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from dvclive import Live
from lightning.fabric import Fabric
from safetensors.torch import load_file, save_file

import handnet
from handnet.batch import HandBatch
from handnet.hand.layer import HandLayer
from handnet.hand.resolve import resolve_hand
from handnet.losses.weights import LossOptions, LossWeights
from handnet.network.handnet import HandNet, HandNetConfig
from handnet.predict import DESCRIPTION_NAME, MODEL_SCHEMA, WEIGHTS_NAME, ModelDescription
from handnet.task import HandTask
from pipelines.checkpoint import CheckpointFolder, fingerprint, weights_digest
from pipelines.config import StageConfig, TrainConfig
from pipelines.loading import DATA_ROOT, TrainingBatches, training_loader
from pipelines.progress import Progress
from pipelines.shards import ShardReader
from pipelines.shards.manifest import code_digest, digest, write_atomic

Stage = Literal["crop", "multi"]
MODELS, LOGS = Path("models"), Path("logs")
EXIT_INTERRUPTED = 130


class Interrupted(Exception):
    """Training was asked to stop and has saved its state."""


def train_stage(stage: Stage, config: TrainConfig) -> Path:
    """Train one stage to its end and write models/STAGE; resumes a matching checkpoint. Returns the model folder."""
    section: StageConfig = getattr(config, stage)
    fabric = Fabric(accelerator="auto", devices=_num_devices(), precision=section.precision)
    fabric.launch()
    torch.manual_seed(config.seed)
    task = build_task(config, section, MODELS / "crop" if stage == "multi" else None)
    run = run_fingerprint(stage, config, section, task)
    batches = TrainingBatches(
        section, config.seed, whole_image=stage == "multi", rank=fabric.global_rank, world_size=fabric.world_size
    )
    if section.supervision == "3d":
        require_3d_labels(batches.reader, section)
    trainer = Trainer(fabric, task, section, CheckpointFolder(stage, run))
    trainer.resume()
    with Live(str(LOGS / stage), dvcyaml=False, save_dvc_exp=False, report=None, resume=False) as live:
        trainer.run(batches, live, stage)
    folder = MODELS / stage
    if fabric.is_global_zero:
        write_model(folder, trainer, stage, config, section, run)
        trainer.checkpoints.remove()
    fabric.barrier()
    return folder


def build_task(config: TrainConfig, section: StageConfig, start_from: Path | None) -> HandTask:
    """Network, hand and losses of one stage; `start_from` is a model folder whose weights are taken over."""
    try:
        layer = HandLayer(resolve_hand(config.model.hand))
    except FileNotFoundError as error:
        raise ValueError(f"train.model.hand: {error}") from None
    network_config = HandNetConfig(**config.model.model_dump(exclude={"hand"}))
    if start_from is not None:
        network_config = replace(network_config, pretrained="none")
    network = HandNet(network_config, layer)
    if start_from is not None:
        weights = start_from / WEIGHTS_NAME
        try:
            network.load_state_dict(load_file(weights))
        except FileNotFoundError:
            raise ValueError(f"{weights}: not found; train the crop stage first") from None
        except RuntimeError as error:
            raise ValueError(f"{weights}: does not fit train.model: {' '.join(str(error).split())[:400]}") from None
    how = {field.name for field in fields(LossOptions)}
    loss_weights = LossWeights(**section.loss.model_dump(exclude=how))
    options = LossOptions(**section.loss.model_dump(include=how))
    task = HandTask(network, layer, loss_weights, options, center=section.center, supervision=section.supervision)
    return task.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def require_3d_labels(reader: ShardReader, section: StageConfig) -> None:
    """Refuse data in which no hand has the labels that a 3D term of the stage reads; single hands may lack them."""
    for term, labels in (("joints_3d", ["keypoints_m"]), ("vertices_3d", ["keypoints_m", "vertices_m"])):
        if getattr(section.loss, term) == 0:
            continue
        samples = (reader.read(i, labels_3d=True, image=False, vertices="vertices_m" in labels) for i in range(len(reader)))
        if not any(all(getattr(hand, label) is not None for label in labels) for sample in samples for hand in sample.hands):
            raise ValueError(
                f"{reader.folder}: supervision '3d' with loss {term} expects hands with {' and '.join(labels)}, "
                f"got none in {len(reader)} samples"
            )


def run_fingerprint(stage: Stage, config: TrainConfig, section: StageConfig, task: HandTask) -> str:
    """What decides every byte of the result: parameters, data, initial weights, code."""
    manifest = ShardReader(DATA_ROOT / section.data).manifest
    here = Path(__file__).parent
    code = [Path(handnet.__file__).parent, *(here / name for name in ("training.py", "loading.py", "augment.py"))]
    return fingerprint(
        {
            "stage": stage,
            "config": section.model_dump(mode="json"),
            "model": config.model.model_dump(mode="json"),
            "seed": config.seed,
            "data": digest(asdict(manifest)),
            "hand": task.layer.sha256,
            "initial": weights_digest(task.network.state_dict()),
            "code": code_digest(code),
        }
    )


class Trainer:
    """Optimiser, schedule, averaged weights and the loop."""

    def __init__(self, fabric: Fabric, task: HandTask, config: StageConfig, checkpoints: CheckpointFolder):
        self.fabric, self.config, self.checkpoints = fabric, config, checkpoints
        trunk = [p for p in task.network.backbone.parameters() if p.requires_grad]
        inside = {id(p) for p in trunk}
        heads = [p for p in task.parameters() if p.requires_grad and id(p) not in inside]
        groups = [{"params": heads, "lr": config.lr}, {"params": trunk, "lr": config.lr * config.backbone_lr_factor}]
        optimizer = torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay)
        self.network = task.network
        self.task, self.optimizer = fabric.setup(task, optimizer)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(config, step))
        self.average = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        self.step = 0
        self.history: list[dict[str, float]] = []

    def resume(self) -> None:
        state = self.checkpoints.load()
        if state is None:
            return
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.average = {name: value.to(self.fabric.device) for name, value in state["average"].items()}
        self.step, self.history = state["step"], state["history"]
        self.fabric.print(f"resuming at step {self.step} of {self.config.steps} from {self.checkpoints.path}")

    def save(self) -> None:
        state: dict[str, Any] = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "average": self.average,
            "step": self.step,
            "history": self.history,
        }
        if self.fabric.is_global_zero:
            self.checkpoints.save(state)
        self.fabric.barrier()

    def run(self, batches: TrainingBatches, live: Live, stage: str) -> None:
        config, fabric = self.config, self.fabric
        for row in self.history:
            log_row(live, row)
        self.task.train()
        loader = training_loader(batches, self.step, _num_workers())
        started, seen, waiting = time.monotonic(), 0, 0.0
        with stop_signals() as stopped, Progress(f"train {stage}", config.steps, "steps") as progress:
            progress.advance(self.step)
            waited_from = time.monotonic()
            for batch in loader:
                waiting += time.monotonic() - waited_from
                terms = self.train_step(batch.to(fabric.device))
                self.step += 1
                seen += len(batch.keys) * fabric.world_size
                if self.step % config.log_every == 0 or self.step == config.steps:
                    row = {"step": float(self.step), **{name: float(value) for name, value in terms.items()}}
                    self.check_finite(row, batch)
                    elapsed = time.monotonic() - started
                    progress.note(f"loss {row['loss']:.3f}  {seen / elapsed:.0f} img/s  waiting {100 * waiting / elapsed:.0f} %")
                    row["lr"] = float(self.schedule.get_last_lr()[0])
                    self.history.append(row)
                    if fabric.is_global_zero:
                        log_row(live, row)
                progress.advance()
                if self.step < config.steps and (stopped() or self.step % config.checkpoint_every == 0):
                    self.save()
                    if stopped():
                        raise Interrupted(f"stopped at step {self.step} of {config.steps}; the same command goes on from there")
                waited_from = time.monotonic()

    def train_step(self, batch: HandBatch) -> dict[str, torch.Tensor]:
        """One optimiser step; returns the detached loss terms."""
        terms = self.task(batch)
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(terms["loss"])
        self.fabric.clip_gradients(self.task, self.optimizer, max_norm=self.config.grad_clip, error_if_nonfinite=False)
        self.optimizer.step()
        self.schedule.step()
        self.update_average()
        return {name: value.detach() for name, value in terms.items()}

    def update_average(self) -> None:
        # the average warms up with the run, so that early weights don't linger in a short one
        decay = min(self.config.ema_decay, (self.step + 1) / (self.step + 10)) if self.config.ema_decay else 0.0
        with torch.no_grad():
            for name, value in self.network.state_dict().items():
                if value.is_floating_point():
                    self.average[name].lerp_(value, 1 - decay)
                else:
                    self.average[name].copy_(value)

    @staticmethod
    def check_finite(row: dict[str, float], batch: HandBatch) -> None:
        bad = [name for name, value in row.items() if not math.isfinite(value)]
        if bad:
            raise ValueError(f"training diverged at step {row['step']:.0f}: {', '.join(bad)} not finite; samples {', '.join(batch.keys)}")


def lr_factor(config: StageConfig, step: int) -> float:
    """Warm-up, then steps of x0.1 at the milestones or a cosine to zero."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "step":
        return 0.1 ** sum(step >= share * config.steps for share in config.milestones)
    done = (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1)
    return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def log_row(live: Live, row: dict[str, float]) -> None:
    live.step = int(row["step"])
    for name, value in row.items():
        if name != "step":
            live.log_metric(f"train/{name}", value)
    live.make_summary()


def write_model(folder: Path, trainer: Trainer, stage: Stage, config: TrainConfig, section: StageConfig, run: str) -> None:
    """model.safetensors (averaged weights) and model.json, each written under a temporary name first."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = ShardReader(DATA_ROOT / section.data).manifest
    partial = folder / f"{WEIGHTS_NAME}.partial"
    save_file({name: value.contiguous().cpu() for name, value in trainer.average.items()}, partial)
    os.replace(partial, folder / WEIGHTS_NAME)
    description = ModelDescription(
        schema=MODEL_SCHEMA,
        network=trainer.network.config,
        hand=config.model.hand,
        hand_sha256=trainer.task.layer.sha256,
        stage=stage,
        input_px=section.input_px,
        focal_px=float(manifest.config["focal_px"]) if "focal_px" in manifest.config else None,
        fingerprint=run,
        provenance={
            "data": section.data,
            "data_sha256": digest(asdict(manifest)),
            "supervision": section.supervision,
            "center": section.center,
            "seed": config.seed,
            "steps": section.steps,
            "images_seen": section.steps * section.batch_size,
        },
    )
    write_atomic(folder / DESCRIPTION_NAME, description.to_json().encode())


@contextmanager
def stop_signals() -> Iterator[Any]:
    """Inside: SIGINT and SIGTERM only set a flag, read by the yielded function; a second one interrupts at once."""
    received: list[int] = []

    def handle(number: int, _: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    former = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _num_devices() -> int | str:
    value = os.environ.get("HANDNET_DEVICES", "1" if not torch.cuda.is_available() else "auto")
    return value if value == "auto" else int(value)


def _num_workers() -> int:
    """Loader processes: HANDNET_LOADER_WORKERS, else the cores that training leaves free."""
    value = os.environ.get("HANDNET_LOADER_WORKERS")
    if value is not None:
        return int(value)
    return min(8, max(0, len(os.sched_getaffinity(0)) - 2))
