"""One training stage from its parameters to models/STAGE: what is trained, on what, and what is written at the end."""

from __future__ import annotations

import os
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from dvclive import Live
from safetensors.torch import load_file, save_file
from torch import Tensor

import handnet
from handnet.batch import HandBatch
from handnet.hand.layer import HandLayer
from handnet.hand.resolve import resolve_hand
from handnet.losses.weights import LossOptions, LossWeights
from handnet.network.handnet import HandNet, HandNetConfig
from handnet.predict import DESCRIPTION_NAME, MODEL_SCHEMA, WEIGHTS_NAME, ModelDescription
from handnet.task import HandTask
from pipelines.config import StageConfig, TrainConfig
from pipelines.loading import DATA_ROOT, TrainingBatches
from pipelines.shards import ShardReader
from pipelines.shards.manifest import code_digest, digest, write_atomic
from pipelines.training.checkpoint import CheckpointFolder, fingerprint, weights_digest
from pipelines.training.feeding import Feed, device_batch_size
from pipelines.training.journal import Journal
from pipelines.training.processes import start_fabric
from pipelines.training.trainer import Trainer
from pipelines.training.validation import Validator
from pipelines.training.whole_batch import num_drawn

Stage = Literal["crop", "multi"]
MODELS, LOGS = Path("models"), Path("logs")


def train_stage(stage: Stage, config: TrainConfig) -> Path:
    """Train one stage to its end and write models/STAGE; resumes a matching checkpoint. Returns the model folder.

    Raises ValueError for data, weights and checkpoints that cannot be used, and Stopped after SIGTERM or SIGINT.
    """
    section: StageConfig = getattr(config, stage)
    if section.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    fabric = start_fabric(section.precision)
    torch.manual_seed(config.seed)
    task = build_task(config, section, MODELS / "crop" if stage == "multi" else None)
    run = run_parts(stage, config, section, task)
    whole_image, rank, size = stage == "multi", fabric.global_rank, fabric.world_size
    batches = TrainingBatches(section, config.seed, whole_image=whole_image, rank=rank, world_size=size)
    if section.supervision == "3d":
        require_3d_labels(batches.reader, section)
    description = describe(stage, config, section, task, run)
    validate = None
    if section.validate_every:
        reader = ShardReader(DATA_ROOT / section.validate_data)
        validate = Validator(task.network, description, section, reader, LOGS / stage / "validation.jpg")
    trainer = Trainer(fabric, task, section, CheckpointFolder(stage, run, section.keep_checkpoints), config.seed, validate)
    trainer.resume()
    fits = Trial(trainer, batches) if fabric.device.type == "cuda" else None
    smallest = max(1, num_drawn(task, section.batch_size, rank, size))
    own = device_batch_size(section.batch_size // size, smallest, fits)
    feed = Feed(batches, min(trainer.group.gather(own)), trainer.step)
    if trainer.group.rank == 0:
        with Live(str(LOGS / stage), dvcyaml=False, save_dvc_exp=False, report=None, resume=False) as live:
            trainer.run(feed, Journal(stage, live, fabric.device))
    else:
        trainer.run(feed, Journal(stage, None, fabric.device))
    if trainer.group.rank == 0:
        write_model(MODELS / stage, trainer.final_weights(), description)
        trainer.checkpoints.remove()
    fabric.barrier()
    return MODELS / stage


def build_task(config: TrainConfig, section: StageConfig, start_from: Path | None) -> HandTask:
    """Network, hand and losses of one stage; `start_from` is a model folder whose weights are taken over."""
    try:
        # NaN is for the guard of a step to find, on a CPU as on a GPU
        layer = HandLayer(resolve_hand(config.model.hand), check_values=False)
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
    if section.gradient_checkpointing:
        checkpoint_gradients(network)
    if section.compile:
        network.backbone.compile()  # the rest works on as many hands as a batch has, which is never the same
    how = {field.name for field in fields(LossOptions)}
    loss_weights = LossWeights(**section.loss.model_dump(exclude=how))
    options = LossOptions(**section.loss.model_dump(include=how))
    task = HandTask(network, layer, loss_weights, options, center=section.center, supervision=section.supervision)
    return task.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def checkpoint_gradients(network: HandNet) -> None:
    """Let the trunk compute its activations again in the backward pass instead of keeping them; ValueError if timm cannot."""
    body: Any = network.backbone.body
    try:
        body.set_grad_checkpointing(True)
    except (AttributeError, AssertionError):
        name = network.config.backbone
        raise ValueError(f"gradient_checkpointing: expected false, since timm's {name!r} does not offer it, got true") from None


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


def run_parts(stage: Stage, config: TrainConfig, section: StageConfig, task: HandTask) -> dict[str, Any]:
    """What decides the result: parameters, data, hand model, initial weights, code. Not how many devices, which changes rounding only."""
    manifest = ShardReader(DATA_ROOT / section.data).manifest
    here = Path(__file__).parent
    code = [Path(handnet.__file__).parent, here, *(here.parent / name for name in ("loading.py", "augment.py"))]
    return {
        "stage": stage,
        "config": section.model_dump(mode="json"),
        "model": config.model.model_dump(mode="json"),
        "hand": task.layer.sha256,
        "seed": config.seed,
        "data": digest(asdict(manifest)),
        "initial": weights_digest(task.network.state_dict()),
        "code": code_digest(code),
    }


class Trial:
    """Whether a forward and a backward pass of a number of images fit the device; it changes no weight and no statistics."""

    def __init__(self, trainer: Trainer, batches: TrainingBatches):
        self.trainer, self.batches = trainer, batches

    def __call__(self, size: int) -> bool:
        fabric, task = self.trainer.fabric, self.trainer.raw_task
        (batch, *_) = self.batches.in_parts(min(self.trainer.step, len(self.batches) - 1), size)
        task.eval()
        try:
            self._step(batch.to(fabric.device))
        except torch.OutOfMemoryError:
            return False
        finally:
            task.train()
            task.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
        return True

    def _step(self, batch: HandBatch) -> None:
        # beside the activations there will be the optimiser's state and the averaged weights' working copies
        room = [torch.empty_like(parameter) for parameter in self.trainer.raw_task.parameters() for _ in range(2)]
        with self.trainer.fabric.autocast():
            loss: Tensor = self.trainer.raw_task(batch)["loss"]
        loss.backward()
        del room


def describe(stage: Stage, config: TrainConfig, section: StageConfig, task: HandTask, run: dict[str, Any]) -> ModelDescription:
    """model.json of what is being trained."""
    manifest = ShardReader(DATA_ROOT / section.data).manifest
    return ModelDescription(
        schema=MODEL_SCHEMA,
        network=task.network.config,
        hand=config.model.hand,
        hand_sha256=task.layer.sha256,
        stage=stage,
        input_px=section.input_px,
        focal_px=float(manifest.config["focal_px"]) if "focal_px" in manifest.config else None,
        fingerprint=fingerprint(run),
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


def write_model(folder: Path, weights: dict[str, Tensor], description: ModelDescription) -> None:
    """model.safetensors and model.json, each written under a temporary name first."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{WEIGHTS_NAME}.partial"
    save_file({name: value.contiguous().cpu() for name, value in weights.items()}, partial)
    os.replace(partial, folder / WEIGHTS_NAME)
    write_atomic(folder / DESCRIPTION_NAME, description.to_json().encode())
