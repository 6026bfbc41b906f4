"""One training stage from its parameters to models/STAGE: what is trained, on what, and what is written at the end."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from dvclive import Live
from lightning_fabric import Fabric
from safetensors.torch import load_file, save_file
from torch import Tensor

import handnet
from handnet.batch import HandBatch
from handnet.hand.layer import HandLayer
from handnet.hand.resolve import resolve_hand
from handnet.losses.weights import LossOptions, LossWeights
from handnet.network.files import DESCRIPTION_NAME, WEIGHTS_NAME
from handnet.network.handnet import HandNet, HandNetConfig
from handnet.predict import MODEL_SCHEMA, ModelDescription
from handnet.task import HandTask
from pipelines.config import StageConfig, TrainConfig
from pipelines.datasets.sample import HandSample
from pipelines.loading import DATA_ROOT
from pipelines.mixtures.description import PartFacts, check_unchanged, read_mixture
from pipelines.shards import ShardReader
from pipelines.shards.manifest import code_digest, write_atomic
from pipelines.training.batches import TrainingBatches
from pipelines.training.board import open_board
from pipelines.training.checkpoint import CheckpointFolder, fingerprint, weights_digest
from pipelines.training.feeding import Feed, device_batch_size
from pipelines.training.journal import Journal
from pipelines.training.memory import estimate_memory, memory_lines
from pipelines.training.processes import local_processes, start_fabric
from pipelines.training.sequence import ImageSequence
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
    mixture = read_mixture(stage, section.data)
    run = run_parts(stage, config, section, task, mixture)
    whole_image, rank, size = stage == "multi", fabric.global_rank, fabric.world_size
    batches = TrainingBatches(section, config.seed, whole_image=whole_image, rank=rank, world_size=size)
    for part in batches.sequence.parts:
        check_unchanged(stage, part.name, part.reader, mixture[part.name])
    if section.supervision == "3d":
        require_3d_labels(batches.sequence, section)
    description = describe(stage, config, section, task, run, batches.sequence)
    validate = None
    if section.validate_every:
        reader = ShardReader(DATA_ROOT / section.validate_data)
        validate = Validator(task.network, description, section, reader, LOGS / stage / "validation.jpg")
    trainer = Trainer(fabric, task, section, CheckpointFolder(stage, run, section.keep_checkpoints), config.seed, validate)
    trainer.resume()
    fits = Trial(trainer, batches) if fabric.device.type == "cuda" else None
    smallest = max(1, num_drawn(task, section.batch_size, 0, size))  # the first process draws no fewer than any other
    own = min(trainer.group.gather(device_batch_size(section.batch_size // size, smallest, fits)))
    for line in memory_lines(estimate_memory(task, section, own), section, fabric.device, local_processes()):
        fabric.print(line)
    feed = Feed(batches, own, trainer.step)
    with open_journal(stage, fabric) as journal, device_errors(section):
        trainer.run(feed, journal)
    if trainer.group.rank == 0:
        write_model(MODELS / stage, trainer.final_weights(), replace(description, metrics=trainer.final_figures()))
        trainer.checkpoints.remove()
    fabric.barrier()
    return MODELS / stage


@contextmanager
def open_journal(stage: Stage, fabric: Fabric) -> Iterator[Journal]:
    """Where the run is told: files in the first process, nothing in the others."""
    if fabric.global_rank:
        yield Journal(stage, None, fabric.device)
        return
    board = open_board(LOGS / stage)
    try:
        with Live(str(LOGS / stage), dvcyaml=False, save_dvc_exp=False, report=None, resume=False) as live:
            yield Journal(stage, live, fabric.device, board)
    finally:
        if board is not None:
            board.close()


@contextmanager
def device_errors(section: StageConfig) -> Iterator[None]:
    """Inside, what a device or its compiler cannot do is a ValueError that names the param to change."""
    compiling: tuple[type[Exception], ...] = ()
    if section.compile:
        from torch._dynamo.exc import TorchDynamoException  # takes a second to import

        compiling = (TorchDynamoException,)
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ValueError(f"{first_line(error)}: set HANDNET_DEVICE_BATCH to fewer images at a time") from None
    except compiling as error:
        raise ValueError(
            f"compile: torch.compile failed ({first_line(error)}): on a CPU it needs a C++ compiler and Python's headers; "
            "expected false where they are not"
        ) from None


def first_line(error: Exception) -> str:
    return f"{type(error).__name__} {next(iter(str(error).strip().splitlines()), '')}"[:300]


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


def require_3d_labels(sequence: ImageSequence, section: StageConfig) -> None:
    """Refuse data in which no hand has the labels that a 3D term of the stage reads; single hands, and whole parts, may lack them."""
    for term, labels in (("joints_3d", ["keypoints_m"]), ("vertices_3d", ["keypoints_m", "vertices_m"])):
        if getattr(section.loss, term) == 0:
            continue
        samples = labelled_samples(sequence, vertices="vertices_m" in labels)
        if not any(all(getattr(hand, label) is not None for label in labels) for sample in samples for hand in sample.hands):
            where = ", ".join(str(part.reader.folder) for part in sequence.parts)
            num = sum(1 for _ in labelled_samples(sequence, vertices=False))
            raise ValueError(
                f"{where}: supervision '3d' with loss {term} expects hands with {' and '.join(labels)}, got none in {num} samples"
            )


def labelled_samples(sequence: ImageSequence, *, vertices: bool) -> Iterator[HandSample]:
    """Samples whose 3D labels may be read, without their images: all that are here, those of the first shard behind a URL."""
    for part in sequence.parts:
        num = part.reader.manifest.shards[0].num_samples if part.remote else len(part.reader)
        for i in range(num if part.config.labels_3d else 0):
            yield part.reader.read(i, labels_3d=True, image=False, vertices=vertices)


def run_parts(
    stage: Stage, config: TrainConfig, section: StageConfig, task: HandTask, mixture: Mapping[str, PartFacts]
) -> dict[str, Any]:
    """What decides the result: parameters, data, hand model, initial weights, code. Not how many devices, which changes rounding only."""
    here = Path(__file__).parent
    data = ("augment.py", "bilinear.py", "config_mixture.py", "loading.py", "mixtures", "remote_shards", "shards")
    code = [Path(handnet.__file__).parent, here, *(here.parent / name for name in data)]
    return {
        "stage": stage,
        "config": section.model_dump(mode="json"),
        "model": config.model.model_dump(mode="json"),
        "hand": task.layer.sha256,
        "seed": config.seed,
        "data": {name: facts.manifest_sha256 for name, facts in mixture.items()},
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


def describe(
    stage: Stage, config: TrainConfig, section: StageConfig, task: HandTask, run: dict[str, Any], sequence: ImageSequence
) -> ModelDescription:
    """model.json of what is being trained."""
    # what people are shown, and the camera, are the largest part's, of those that are here if there are any
    by_size = sorted(sequence.parts, key=lambda part: (part.remote, -sequence.shares[part.name]))
    cameras = [part.reader.manifest.config["focal_px"] for part in by_size if "focal_px" in part.reader.manifest.config]
    trunk = task.network.backbone
    return ModelDescription(
        schema=MODEL_SCHEMA,
        network=task.network.config,
        hand=config.model.hand,
        hand_sha256=task.layer.sha256,
        stage=stage,
        input_px=section.input_px,
        focal_px=float(cameras[0]) if cameras else None,
        fingerprint=fingerprint(run),
        provenance={
            "data": by_size[0].config.path.removeprefix(f"{DATA_ROOT}/"),
            "mixture": {
                part.name: {**part.config.model_dump(), "manifest_sha256": run["data"][part.name]} for part in sequence.parts
            },
            "supervision": section.supervision,
            "center": section.center,
            "box_scale": section.box_scale,
            "seed": config.seed,
            "steps": section.steps,
            "images_seen": section.steps * section.batch_size,
        },
        normalization={"mean": trunk.mean.flatten().tolist(), "std": trunk.std.flatten().tolist()},
    )


def write_model(folder: Path, weights: dict[str, Tensor], description: ModelDescription) -> None:
    """model.safetensors and model.json, each written under a temporary name first."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{WEIGHTS_NAME}.partial"
    save_file({name: value.contiguous().cpu() for name, value in weights.items()}, partial)
    os.replace(partial, folder / WEIGHTS_NAME)
    write_atomic(folder / DESCRIPTION_NAME, description.to_json().encode())
