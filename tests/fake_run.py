"""Everything the report reads, made up in a folder: shards, random networks, training logs, figures, a package. For tests of the report."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

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
FIGURES: dict[str, dict[str, dict[str, Any]]] = {
    "crop": {
        "ours": {"error_2d_px": 7.1234, "error_2d_fraction": 0.08125, "pa_mpjpe_mm": 14.321, "auc": 0.71437, "hand_type_accuracy": 0.975},
        "mean_hand": {"error_2d_px": 21.987, "error_2d_fraction": 0.21875, "pa_mpjpe_mm": 13.456, "auc": 0.63219},
        "headline": {"pa_mpjpe_cm": 1.4321},
        "ours_ci95": {"error_2d_px": [6.5432, 7.8765], "pa_mpjpe_mm": [13.987, 14.654]},
        "count": {"images": 6, "hands": 6, "detections": 6, "measured_hands": 6, "measured_hands_3d": 6},
    },
    "multi": {
        "ours": {"error_2d_px": 9.8765, "epe_mm": 33.445, "precision": 0.8123, "recall": 0.7654, "ap": 0.70711},
        "mean_hand": {"error_2d_px": 18.765, "precision": 0.8123, "recall": 0.6543, "ap": 0.60302},
        "count": {"images": 5, "hands": 7, "detections": 6, "measured_hands": 5, "measured_hands_3d": 5},
    },
}
TERMS = ("loss", "lr", "center", "keypoints", "reprojection")
VALIDATED = ("error_2d_fraction", "recall")
SPEED = {
    "machine": {"cpu": "Some Processor 9", "cpus": 4, "threads": 2, "device": "cpu", "torch": "2.12.0"},
    "models": {name: {"fingerprint": name, "backbone": "tiny_net", "input_px": px} for name, px in (("multi", 128), ("crop", 64))},
    "repeats": 3,
    "hands": [1, 2, 4],
    "one_pass_ms": [10.0, 10.5, 12.5],
    "crop_loop_ms": [6.25, 12.0, 25.0],
    "crop_batch_ms": [6.5, 9.0, 15.0],
}


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
    scene_report = folder / "data/scene_reports/train/index.html"
    scene_report.parent.mkdir(parents=True)
    scene_report.write_text("<!doctype html><title>scenes</title>")
    for seed, stage in enumerate(("crop", "multi")):
        write_model(folder / "models" / stage, params, stage, seed)
        write_logs(folder / "logs" / stage / "plots/metrics/train", seed, TERMS)
    write_logs(folder / "logs/crop/plots/metrics/validation", 2, VALIDATED)  # the other stage was not validated
    write_results(folder, "crop", crops)
    write_results(folder, "multi", scenes)
    (folder / "results/speed.json").write_text(json.dumps(SPEED))
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
    (data,) = (part.path.removeprefix("data/") for part in section.data.values())
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
        provenance={"data": data, "supervision": "2d", "steps": section.steps, "images_seen": 1234},
    )
    (folder / "model.json").write_text(description.to_json())


def write_logs(folder: Path, seed: int, terms: tuple[str, ...]) -> None:
    """Falling curves as dvclive writes them."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for term in terms:
        values = 5 * np.exp(-np.arange(12) / 4) + rng.random(12)
        rows = [f"{10 * (i + 1)}\t{value}\n" for i, value in enumerate(values)]
        (folder / f"{term}.tsv").write_text(f"step\t{term}\n" + "".join(rows))


def write_results(folder: Path, name: str, samples: list[HandSample]) -> None:
    """Figures, strata, curves and the table of hands of one evaluation; in every image the last hand was not found, if there are two.

    The table ends with a detection that no labelled hand belongs to.
    """
    write_metrics(folder / "metrics" / f"{name}.json", FIGURES[name])
    rng = np.random.default_rng(7)
    rows = [(f"{i:06d}", n, len(s.hands) < 2 or n < len(s.hands) - 1) for i, s in enumerate(samples) for n in range(len(s.hands))]
    found = np.array([row[2] for row in rows])
    errors = np.where(found, rng.uniform(0.05, 0.3, len(rows)), np.nan)
    columns: dict[str, list[Any]] = {
        "key": [*(row[0] for row in rows), "000000"],
        "hand": [*(row[1] for row in rows), -1],
        "labelled": [*(True for _ in rows), False],
        "found": [*found.tolist(), False],
        "error_2d_fraction": [*errors.tolist(), np.nan],
        "pa_mpjpe_mm": [*(100 * errors).tolist(), np.nan],
        "mean_hand_error_2d_fraction": [*(2 * errors).tolist(), np.nan],
    }
    path = folder / "results" / name / "hands.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    path.with_name("strata.json").write_text(json.dumps(strata(single=len(rows) == len(samples))))
    curves = (("pck.csv", "threshold_mm", 50.0), ("pck_vertices.csv", "threshold_mm", 50.0), ("pck_2d.csv", "threshold_fraction", 0.5))
    for file, threshold, end in curves:
        x = np.linspace(0, 1, 21)
        write_curve(folder / "results" / name / file, {threshold: x * end, "ours": 1 - np.exp(-5 * x), "mean_hand": 1 - np.exp(-3 * x)})


def strata(*, single: bool) -> dict[str, Any]:
    """Strata as the evaluation writes them; all single hands are alone in their image, and of the left hands none was found."""

    def of(label: str, hands: int, found: int, error: float) -> dict[str, Any]:
        figures: dict[str, Any] = {"recall": {"mean": found / hands, "ci95": [0.5, 1.0], "hands": hands}}
        if found:
            figures["error_2d_fraction"] = {"mean": error, "ci95": [0.9 * error, 1.2 * error], "hands": found}
        return {"label": label, "low": None, "high": None, "hands": hands, "images": hands, "found": found, "figures": figures}

    alone = [of("1", 6, 6, 0.0812)]
    groups = {
        "hands_per_image": alone if single else [*alone, of("2", 3, 2, 0.1234)],
        "side": [of("left", 2, 0, 0.0), of("right", 4, 4, 0.0987)],
    }
    return {"schema": 1, "strata": groups}
