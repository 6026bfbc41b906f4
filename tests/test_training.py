"""Training as it is run: the command, an interruption, exact resume, refusals, and the artefact everything downstream reads."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_hands import make_crops, make_scenes, write_shards
from ruamel.yaml import YAML
from safetensors.torch import load_file

from pipelines.config import load_params
from pipelines.training import lr_factor

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    """A project folder with tiny data, where `python -m pipelines.train` runs."""
    folder = tmp_path_factory.mktemp("training")
    write_shards(folder / "data/ingest/procedural/train", make_crops(8, seed=0))
    write_shards(folder / "data/scenes/train", make_scenes(8, seed=0))
    tree = YAML(typ="safe", pure=True).load((ROOT / "pipelines/presets/tiny.yaml").read_text())
    for stage in ("crop", "multi"):
        tree["train"][stage] |= {"steps": 12, "batch_size": 2, "checkpoint_every": 4, "log_every": 1, "input_px": 64}
    write_params(folder, tree)
    return folder


def write_params(folder: Path, tree: dict) -> None:
    with (folder / "params.yaml").open("w") as stream:
        YAML().dump(tree, stream)


def start(folder: Path, stage: str) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HANDNET_LOADER_WORKERS": "0", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pipelines.train", stage]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def train(folder: Path, stage: str) -> subprocess.CompletedProcess:
    process = start(folder, stage)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def copy_of(workspace: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    shutil.copytree(workspace, folder)
    for made in ("models", "logs", "checkpoints"):
        shutil.rmtree(folder / made, ignore_errors=True)
    return folder


@pytest.fixture(scope="module")
def trained(workspace) -> Path:
    for stage in ("crop", "multi"):
        result = train(workspace, stage)
        assert result.returncode == 0, result.stderr
    return workspace


def test_the_artefacts_of_both_stages(trained):
    for stage in ("crop", "multi"):
        description = json.loads((trained / "models" / stage / "model.json").read_text())
        assert description["stage"] == stage
        assert description["provenance"]["images_seen"] == 24
        weights = load_file(trained / "models" / stage / "model.safetensors")
        assert not any("layer" in name for name in weights)  # no hand model is stored with the weights
        rows = (trained / "logs" / stage / "plots/metrics/train/loss.tsv").read_text().splitlines()
        assert len(rows) == 13  # header and one row a step
    assert not list((trained / "checkpoints").glob("*"))  # removed when the model is written


def wait_for_checkpoint(folder: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 240
    while not list(folder.glob("checkpoints/crop-*/last.pt")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_and_resumed_equals_uninterrupted(trained, tmp_path, how):
    """Bit for bit, weights and curves, after Ctrl-C and after a kill."""
    folder = copy_of(trained, tmp_path)
    process = start(folder, "crop")
    wait_for_checkpoint(folder, process)
    process.send_signal(how)
    _, err = process.communicate(timeout=240)
    assert process.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL), err
    assert not (folder / "models/crop/model.safetensors").exists()
    result = train(folder, "crop")
    assert result.returncode == 0, result.stderr
    assert "resuming at step" in result.stdout + result.stderr
    same = [f"models/crop/{name}" for name in ("model.safetensors", "model.json")] + ["logs/crop/plots/metrics/train/loss.tsv"]
    for name in same:
        assert strip_time(folder / name) == strip_time(trained / name), name


def strip_time(path: Path) -> bytes:
    if path.suffix != ".tsv":
        return path.read_bytes()
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    keep = [i for i, name in enumerate(rows[0]) if name != "timestamp"]
    return "\n".join("\t".join(row[i] for i in keep) for row in rows).encode()


def test_another_learning_rate_does_not_resume(trained, tmp_path):
    folder = copy_of(trained, tmp_path)
    process = start(folder, "crop")
    wait_for_checkpoint(folder, process)
    process.kill()
    process.communicate()
    tree = YAML(typ="safe", pure=True).load((folder / "params.yaml").read_text())
    tree["train"]["crop"]["lr"] = 0.005
    write_params(folder, tree)
    result = train(folder, "crop")
    assert result.returncode == 0, result.stderr
    assert "resuming" not in result.stdout + result.stderr
    assert (folder / "models/crop/model.safetensors").read_bytes() != (trained / "models/crop/model.safetensors").read_bytes()


def test_errors_are_one_line(trained, tmp_path):
    folder = copy_of(trained, tmp_path)
    result = train(folder, "multi")  # before the crop stage
    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1] == "error: models/crop/model.safetensors: not found; train the crop stage first"
    shutil.rmtree(folder / "data/ingest")
    result = train(folder, "crop")
    assert result.returncode == 1
    assert "manifest.json: not found" in result.stderr
    assert "Traceback" not in result.stderr


def test_schedules():
    stage = load_params(ROOT / "params.yaml").train.crop
    steps = stage.model_copy(update={"schedule": "step", "milestones": [0.25, 0.75], "steps": 100, "warmup_steps": 10})
    assert lr_factor(steps, 0) == pytest.approx(0.1)
    assert [round(lr_factor(steps, s), 6) for s in (10, 24, 25, 74, 75, 99)] == [1, 1, 0.1, 0.1, 0.01, 0.01]
    cosine = steps.model_copy(update={"schedule": "cosine"})
    assert lr_factor(cosine, 10) == 1
    assert lr_factor(cosine, 55) == pytest.approx(0.5)
    assert lr_factor(cosine, 99) < 0.001
