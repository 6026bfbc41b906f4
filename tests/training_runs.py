"""Small training runs for tests: a project folder with tiny data, and the commands a person would type in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from fake_batches import with_boxes_as_mask
from fake_hands import make_crops, make_scenes, write_shards
from ruamel.yaml import YAML

from pipelines.config import load_params
from pipelines.mixtures.description import write_mixture, write_part

ROOT = Path(__file__).parents[1]
MADE = ("models", "logs", "checkpoints")


def make_project(folder: Path, **changes) -> Path:
    """Data with masks, scenes without any hand among them, and params.yaml: the tiny preset with some changes in both stages."""
    for split, seed in (("train", 0), ("eval", 1)):
        write_shards(folder / f"data/ingest/procedural/{split}", [with_boxes_as_mask(s) for s in make_crops(8, seed)])
        write_shards(folder / f"data/scenes/{split}", [with_boxes_as_mask(s) for s in make_scenes(8, seed)])
    small = {"steps": 12, "batch_size": 4, "checkpoint_every": 4, "log_every": 1, "input_px": 64, "validate_every": 0}
    write_params(folder, YAML(typ="safe", pure=True).load((ROOT / "pipelines/presets/tiny.yaml").read_text()))
    change_params(folder, **{**small, **changes})
    describe_mixtures(folder)
    return folder


def describe_mixtures(folder: Path) -> None:
    """What the stages before training leave in data/mixtures."""
    params = load_params(folder / "params.yaml")
    before = Path.cwd()
    os.chdir(folder)
    try:
        for stage in ("crop", "multi"):
            parts = getattr(params.train, stage).data
            for name, part in parts.items():
                write_part(stage, name, part)
            write_mixture(stage, parts)
    finally:
        os.chdir(before)


def write_params(folder: Path, tree: dict) -> None:
    with (folder / "params.yaml").open("w") as stream:
        YAML().dump(tree, stream)


def change_params(folder: Path, **changes) -> None:
    """Change keys of both stages, those of the loss by `loss={...}`."""
    tree = YAML(typ="safe", pure=True).load((folder / "params.yaml").read_text())
    for stage in ("crop", "multi"):
        section = tree["train"][stage]
        section |= {name: {**section[name], **value} if isinstance(value, dict) else value for name, value in changes.items()}
    write_params(folder, tree)


def copy_project(source: Path, folder: Path) -> Path:
    """The project without what training made."""
    shutil.copytree(source, folder, ignore=lambda path, names: [n for n in names if n in MADE and Path(path) == source])
    return folder


def environment(**variables: str) -> dict[str, str]:
    """Of a command: one thread, no loader processes."""
    python_path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    base = {**os.environ, "PYTHONPATH": python_path, "HANDNET_LOADER_WORKERS": "0", "OMP_NUM_THREADS": "1"}
    return {**{name: value for name, value in base.items() if name != "HANDNET_DEVICE_BATCH"}, **variables}


def start(folder: Path, stage: str, **variables: str) -> subprocess.Popen:
    """`python -m pipelines.train STAGE` as the first process of a group of its own."""
    command = [sys.executable, "-m", "pipelines.train", stage]
    out = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment(**variables), start_new_session=True, **out)


def train(folder: Path, stage: str, **variables: str) -> subprocess.CompletedProcess:
    process = start(folder, stage, **variables)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def curve(folder: Path, stage: str, term: str = "loss") -> list[float]:
    rows = (folder / f"logs/{stage}/plots/metrics/train/{term}.tsv").read_text().splitlines()
    place = rows[0].split("\t").index(term)
    return [float(row.split("\t")[place]) for row in rows[1:]]


def without_time(path: Path) -> bytes:
    """A file's bytes, a table without the times it was written at."""
    if path.suffix != ".tsv":
        return path.read_bytes()
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    keep = [i for i, name in enumerate(rows[0]) if name != "timestamp"]
    return "\n".join("\t".join(row[i] for i in keep) for row in rows).encode()
