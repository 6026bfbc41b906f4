"""Training as it is run: the command, kills and signals, exact resume, refusals, validation, and the artefact that it makes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from training_runs import ROOT, change_params, copy_project, curve, environment, make_project, start, train, without_time

from pipelines.config import load_params
from pipelines.training.optimization import lr_factor

STEPS = 16
SAME = ("models/crop/model.safetensors", "models/crop/model.json", "logs/crop/plots/metrics/train/loss.tsv")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    """A project in which `python -m pipelines.train` runs: it saves and logs every step, and validates now and then."""
    folder = tmp_path_factory.mktemp("training") / "project"
    small = {"steps": STEPS, "batch_size": 2, "input_px": 32, "checkpoint_every": 1}
    return make_project(folder, **small, validate_every=8, validate_samples=3, loss={"render_images": 2})


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
        assert description["provenance"]["images_seen"] == STEPS * 2
        weights = load_file(trained / "models" / stage / "model.safetensors")
        assert not any("layer" in name for name in weights)  # no hand model is stored with the weights
        assert len(curve(trained, stage)) == STEPS
    assert not list((trained / "checkpoints").glob("*"))  # removed when the model is written


def steps_saved(folder: Path, stage: str = "crop") -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in folder.glob(f"checkpoints/{stage}-*/step-*") if path.suffix == "")


def run_with_kills(folder: Path, num_processes: int, num_kills: int) -> list[int]:
    """Train the crop stage to its end with that many SIGKILLs on the way; the steps that were saved at each of them."""
    seed = time.time_ns() % 2**32
    script = str(Path(__file__).with_name("training_kills.py"))
    command = [sys.executable, script, str(folder), str(num_processes), str(num_kills), str(STEPS), str(seed)]
    result = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, f"seed {seed}: {result.stderr}"
    return [int(line) for line in result.stdout.splitlines() if line.isdigit()]


@pytest.mark.parametrize("num_processes", [1, 2])
def test_killed_at_six_random_moments_equals_uninterrupted(workspace, tmp_path, num_processes):
    """Bit for bit: weights, model.json, curves and validation."""
    whole, folder = copy_project(workspace, tmp_path / "whole"), copy_project(workspace, tmp_path / "killed")
    assert run_with_kills(whole, num_processes, 0) == []
    reached = run_with_kills(folder, num_processes, 6)
    assert len(reached) == 6
    assert reached[-1] > reached[0]
    for name in (*SAME, "logs/crop/plots/metrics/validation/recall.tsv"):
        assert without_time(folder / name) == without_time(whole / name), (name, reached)
    assert len(curve(folder, "crop")) == STEPS


@pytest.mark.parametrize(("how", "code", "devices"), [("SIGINT", 130, "1"), ("SIGTERM", 75, "1"), ("SIGTERM", 75, "2")])
def test_a_signal_saves_and_says_run_me_again(trained, tmp_path, how, code, devices):
    folder = copy_project(trained, tmp_path / "copy")
    change_params(folder, checkpoint_every=1000, steps=2000, validate_every=0)
    process = start(folder, "crop", HANDNET_DEVICES=devices)
    deadline = time.monotonic() + 240
    while not list(folder.glob("logs/crop/plots/metrics/train/loss.tsv")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, getattr(signal, how))
    _, err = process.communicate(timeout=240)
    assert process.returncode == code, err
    (step,) = steps_saved(folder)
    assert f"stopped at step {step} of 2000; the same command goes on from there" in err
    assert "Traceback" not in err
    assert "failed" not in err


def test_another_learning_rate_does_not_resume(trained, tmp_path):
    folder = copy_project(trained, tmp_path / "copy")
    process = start(folder, "crop")
    while not steps_saved(folder):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=240)
    change_params(folder, lr=0.005, steps=2, validate_every=0)
    result = train(folder, "crop")
    assert result.returncode == 0, result.stderr
    assert "resuming" not in result.stdout + result.stderr
    assert "is of another run and is left alone: config.lr: now 0.005, there 0.001" in result.stdout + result.stderr
    assert (folder / "models/crop/model.safetensors").read_bytes() != (trained / "models/crop/model.safetensors").read_bytes()


def test_errors_are_one_line(trained, tmp_path):
    folder = copy_project(trained, tmp_path / "copy")
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
