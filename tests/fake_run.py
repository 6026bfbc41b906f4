"""Everything the report reads, made up in a folder: shards, random networks, training logs, figures, a package. For tests of the report."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from fake_hands import make_crops, make_scenes, write_shards
from safetensors.torch import save_file

from handnet.hand.files import load_hand
from handnet.hand.layer import HandLayer
from handnet.network.handnet import HandNet, HandNetConfig
from handnet.predict import MODEL_SCHEMA, ModelDescription
from pipelines.config import Params, load_params
from pipelines.datasets.sample import HandSample
from pipelines.evaluation.outputs import write_curve, write_metrics

ROOT = Path(__file__).parents[1]
FIGURES: dict[str, dict[str, dict[str, float]]] = {
    "crop": {
        "ours": {"error_2d_px": 7.1234, "error_2d_fraction": 0.08125, "pa_mpjpe_mm": 14.321, "auc": 0.71437, "hand_type_accuracy": 0.975},
        "mean_hand": {"error_2d_px": 21.987, "error_2d_fraction": 0.21875, "pa_mpjpe_mm": 13.456, "auc": 0.63219},
        "count": {"images": 6, "hands": 6, "detections": 6, "measured_hands": 6, "measured_hands_3d": 6},
    },
    "multi": {
        "ours": {"error_2d_px": 9.8765, "precision": 0.8123, "recall": 0.7654, "ap": 0.70711},
        "mean_hand": {"error_2d_px": 18.765, "precision": 0.8123, "recall": 0.6543, "ap": 0.60302},
        "count": {"images": 5, "hands": 7, "detections": 6, "measured_hands": 5, "measured_hands_3d": 5},
    },
}
TERMS = ("loss", "lr", "center", "keypoints", "reprojection")


def painted(samples: list[HandSample], seed: int) -> list[HandSample]:
    """The samples with noise as pictures, and a mask for each: a disc around every hand's keypoints."""
    rng = np.random.default_rng(seed)
    out = []
    for sample in samples:
        height, width = sample.image.shape[:2]
        rows, columns = np.mgrid[:height, :width]
        mask = np.zeros((height, width), np.uint8)
        for i, hand in enumerate(sample.hands):
            x, y = hand.keypoints_px.mean(0)
            mask[(rows - y) ** 2 + (columns - x) ** 2 < 20**2] = i + 1
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        out.append(replace(sample, image=image, mask=mask))
    return out


def write_run(folder: Path) -> Params:
    """Fill `folder` as the other stages would have, on the tiny preset; its parameters."""
    shutil.copy(ROOT / "dvc.yaml", folder / "dvc.yaml")
    shutil.copy(ROOT / "pipelines/presets/tiny.yaml", folder / "params.yaml")
    params = load_params(folder / "params.yaml")
    crops, scenes = painted(make_crops(6, 1, side=1), 1), painted(make_scenes(5, 2), 2)
    for path in ("data/ingest/procedural/train", "data/ingest/procedural/eval"):
        write_shards(folder / path, crops)
    for path in ("data/scenes/train", "data/scenes/eval"):
        write_shards(folder / path, scenes)
    for seed, stage in enumerate(("crop", "multi")):
        write_model(folder / "models" / stage, params, stage, seed)
        write_logs(folder / "logs" / stage / "plots/metrics/train", seed)
    write_results(folder, "crop", crops)
    write_results(folder, "multi", scenes)
    package = folder / "submissions/freihand/pred.zip"
    package.parent.mkdir(parents=True)
    package.write_bytes(b"z" * 12345)
    meta = {"schema": 1, "layout": "freihand", "num_samples": 6, "num_samples_server": 3960, "git": None, "keys": ["a"] * 6}
    package.with_name("meta.json").write_text(json.dumps(meta))
    return params


def write_model(folder: Path, params: Params, stage: str, seed: int) -> None:
    """A network with random weights."""
    torch.manual_seed(seed)
    section = getattr(params.train, stage)
    config = HandNetConfig(**params.train.model.model_dump(exclude={"hand"}))
    network = HandNet(config, HandLayer())
    folder.mkdir(parents=True)
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, folder / "model.safetensors")
    description = ModelDescription(
        schema=MODEL_SCHEMA,
        network=config,
        hand="free",
        hand_sha256=load_hand().sha256,
        stage=stage,
        input_px=section.input_px,
        focal_px=None,
        fingerprint=f"{stage}-fingerprint",
        provenance={"data": section.data, "supervision": "2d", "steps": section.steps, "images_seen": 1234},
    )
    (folder / "model.json").write_text(description.to_json())


def write_logs(folder: Path, seed: int) -> None:
    """Falling curves as dvclive writes them."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for term in TERMS:
        values = 5 * np.exp(-np.arange(12) / 4) + rng.random(12)
        rows = [f"{10 * (i + 1)}\t{value}\n" for i, value in enumerate(values)]
        (folder / f"{term}.tsv").write_text(f"step\t{term}\n" + "".join(rows))


def write_results(folder: Path, name: str, samples: list[HandSample]) -> None:
    """Figures, curves and the table of hands of one evaluation; in every image the last hand was not found, if there are two."""
    write_metrics(folder / "metrics" / f"{name}.json", FIGURES[name])
    rng = np.random.default_rng(7)
    rows = [(f"{i:06d}", n, len(s.hands) < 2 or n < len(s.hands) - 1) for i, s in enumerate(samples) for n in range(len(s.hands))]
    found = np.array([row[2] for row in rows])
    errors = np.where(found, rng.uniform(0.05, 0.3, len(rows)), np.nan)
    columns = {
        "key": np.array([row[0] for row in rows]),
        "hand": np.array([row[1] for row in rows]),
        "labelled": np.ones(len(rows), bool),
        "found": found,
        "error_2d_fraction": errors,
        "pa_mpjpe_mm": errors * 100,
        "mean_hand_error_2d_fraction": errors * 2,
    }
    path = folder / "results" / name / "hands.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    for file, threshold, end in (("pck.csv", "threshold_mm", 50.0), ("pck_2d.csv", "threshold_fraction", 0.5)):
        x = np.linspace(0, 1, 21)
        write_curve(folder / "results" / name / file, {threshold: x * end, "ours": 1 - np.exp(-5 * x), "mean_hand": 1 - np.exp(-3 * x)})
