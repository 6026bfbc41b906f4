"""Training as it is run: the command, kills and signals, exact resume, refusals, validation, and the artefact that it makes."""

import json
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

import cv2
import pytest
from safetensors.torch import load_file
from training_runs import ROOT, Forks, change_params, copy_project, curve, make_project, start, train, without_time

from pipelines.config import load_params
from pipelines.train import main
from pipelines.training.optimization import lr_factor

STEPS, NUM_KILLS = 12, 5
SAME = (
    "models/crop/model.safetensors",
    "models/crop/model.json",
    "logs/crop/plots/metrics/train/loss.tsv",
    "logs/crop/plots/metrics/validation/recall.tsv",
)


@pytest.fixture(scope="module")
def forks():
    with Forks() as started:
        yield started


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    """A project in which `python -m pipelines.train` runs: it saves and logs every step, and validates now and then."""
    folder = tmp_path_factory.mktemp("training") / "project"
    small = {"steps": STEPS, "batch_size": 2, "input_px": 32, "checkpoint_every": 1}
    return make_project(folder, **small, validate_every=6, validate_samples=2, loss={"render_images": 2})


@pytest.fixture(scope="module")
def trained(workspace, tmp_path_factory, forks) -> Path:
    """Both stages in one process, the second one by the command itself."""
    folder = copy_project(workspace, tmp_path_factory.mktemp("trained") / "project")
    assert "wrote models/crop" in forks.train(folder, "crop")
    result = train(folder, "multi")
    assert result.returncode == 0, result.stderr
    assert "wrote models/multi" in result.stdout
    num_images = json.loads((folder / "data/scenes/train/manifest.json").read_text())["num_samples"]
    assert f" {STEPS}/{STEPS} steps, " in result.stderr
    assert f", epoch {STEPS * 2 / num_images:.2f}, loss " in result.stderr
    return folder


def test_the_artefacts_of_both_stages(trained):
    for stage in ("crop", "multi"):
        description = json.loads((trained / "models" / stage / "model.json").read_text())
        assert description["stage"] == stage
        assert description["provenance"]["images_seen"] == STEPS * 2
        assert description["metrics"]["step"] == STEPS
        weights = load_file(trained / "models" / stage / "model.safetensors")
        assert not any("layer" in name for name in weights)  # no hand model is stored with the weights
        assert len(curve(trained, stage)) == STEPS
        assert cv2.imread(str(trained / "logs" / stage / "validation.jpg")).shape[0] >= 256
    assert not list((trained / "checkpoints").glob("*"))  # removed when the model is written


def steps_saved(folder: Path, stage: str = "crop") -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in folder.glob(f"checkpoints/{stage}-*/step-*") if path.suffix == "")


def run_with_kills(forks: Forks, folder: Path, num_processes: int, rng: random.Random) -> list[int]:
    """Train the crop stage to its end with NUM_KILLS SIGKILLs on the way; the steps that were saved at each of them."""
    reached = []
    for target in sorted(rng.sample(range(1, STEPS - 2), NUM_KILLS)):
        group = forks.start_group(folder, "crop", num_processes)
        deadline = time.monotonic() + 200
        while max(steps_saved(folder), default=0) < target:
            assert all(fork.poll() is None for fork in group), group[0].said()
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.03))  # anywhere within a step, or within the writing of a checkpoint
        for fork in rng.sample(group, num_processes):  # all of them, in any order
            os.kill(fork.pid, signal.SIGKILL)
        assert [fork.wait() for fork in group] == [-signal.SIGKILL] * num_processes
        assert not (folder / "models/crop/model.safetensors").exists()
        reached.append(max(steps_saved(folder)))
    forks.train(folder, "crop", num_processes)
    return reached


@pytest.mark.parametrize("num_processes", [1, 2])
def test_killed_at_random_moments_equals_uninterrupted(workspace, trained, tmp_path, forks, num_processes):
    """Bit for bit: weights, model.json, curves and validation."""
    whole, folder = trained, copy_project(workspace, tmp_path / "killed")
    if num_processes == 2:
        whole = copy_project(workspace, tmp_path / "whole")
        forks.train(whole, "crop", 2)
    seed = time.time_ns() % 2**32
    reached = run_with_kills(forks, folder, num_processes, random.Random(seed))
    for name in SAME:
        assert without_time(folder / name) == without_time(whole / name), (name, reached, seed)
    assert len(curve(folder, "crop")) == STEPS


@pytest.mark.parametrize(("how", "code", "devices"), [("SIGINT", 130, 1), ("SIGTERM", 75, 1), ("SIGTERM", 75, 2)])
def test_a_signal_saves_and_says_run_me_again(workspace, tmp_path, forks, how, code, devices):
    """Two devices through the plain command, which starts its processes itself."""
    folder = copy_project(workspace, tmp_path / "copy")
    change_params(folder, checkpoint_every=1000, steps=2000, validate_every=0)
    process = start(folder, "crop", HANDNET_DEVICES="2") if devices == 2 else forks.start(folder, "crop")
    deadline = time.monotonic() + 240
    while not list(folder.glob("logs/crop/plots/metrics/train/loss.tsv")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, getattr(signal, how))
    if devices == 2:
        _, said = process.communicate(timeout=240)
        assert process.returncode == code, said
    else:
        assert process.wait() == code, process.said()
        said = process.said()
    (step,) = steps_saved(folder)
    assert f"stopped at step {step} of 2000; the same command goes on from there" in said
    assert "Traceback" not in said
    assert "failed" not in said


def test_sigterm_before_the_first_step_says_run_me_again(monkeypatch, capsys):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    former = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("pipelines.train.train", lambda _: os.kill(os.getpid(), signal.SIGTERM) or time.sleep(5))
    assert main(["crop"]) == 75
    assert capsys.readouterr().err == "stopped; the same command goes on from the last checkpoint\n"
    assert signal.getsignal(signal.SIGTERM) is former


def test_another_learning_rate_does_not_resume(workspace, trained, tmp_path, forks):
    folder = copy_project(workspace, tmp_path / "copy")
    process = forks.start(folder, "crop")
    while not steps_saved(folder):
        assert process.poll() is None, process.said()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    change_params(folder, lr=0.005, steps=2, validate_every=0)
    said = forks.train(folder, "crop")
    assert "resuming" not in said
    assert "is of another run and is left alone: config.lr: now 0.005, there 0.001" in said
    assert (folder / "models/crop/model.safetensors").read_bytes() != (trained / "models/crop/model.safetensors").read_bytes()


def test_half_precision_trains_both_stages(workspace, trained, tmp_path, forks):
    folder = copy_project(workspace, tmp_path / "half")
    change_params(folder, precision="bf16-mixed", steps=2, validate_every=0)
    for stage in ("crop", "multi"):
        forks.train(folder, stage)
    first, exact = curve(folder, "crop")[0], curve(trained, "crop")[0]
    assert first == pytest.approx(exact, rel=0.05)
    assert first != exact


def test_float16_without_a_gpu_is_refused(workspace, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    folder = copy_project(workspace, tmp_path / "float16")
    change_params(folder, precision="16-mixed")
    monkeypatch.chdir(folder)
    assert main(["crop"]) == 1
    assert capsys.readouterr().err.strip() == "error: precision: 16-mixed needs a GPU: expected 32-true or bf16-mixed on a CPU"


def test_errors_are_one_line(workspace, tmp_path, monkeypatch, capsys):
    folder = copy_project(workspace, tmp_path / "copy")
    monkeypatch.chdir(folder)

    def error_of(*arguments: str) -> tuple[int, str]:
        code = main([*arguments])
        return code, capsys.readouterr().err.strip().splitlines()[-1]

    assert error_of("both") == (2, "usage: python -m pipelines.train crop|multi")
    # the multi stage before the crop stage
    assert error_of("multi") == (1, "error: models/crop/model.safetensors: not found; train the crop stage first")
    for value in ("0", "x"):
        monkeypatch.setenv("HANDNET_DEVICES", value)
        assert error_of("crop") == (1, f"error: HANDNET_DEVICES: expected a whole number from 1 on, got {value!r}")
    monkeypatch.setenv("HANDNET_DEVICES", "1")
    monkeypatch.setenv("RANK", "1")
    shutil.rmtree("data/ingest")
    code, line = error_of("crop")
    assert code == 1
    assert re.match(r"process 1: error: .*manifest\.json: not found", line)
    change_params(folder, lr=-1.0)
    code, line = error_of("crop")
    assert code == 2
    assert "train.crop.lr" in line


def test_schedules():
    stage = load_params(ROOT / "params.yaml").train.crop
    steps = stage.model_copy(update={"schedule": "step", "milestones": [0.25, 0.75], "steps": 100, "warmup_steps": 10})
    assert lr_factor(steps, 0) == pytest.approx(0.1)
    assert [round(lr_factor(steps, s), 6) for s in (10, 24, 25, 74, 75, 99)] == [1, 1, 0.1, 0.1, 0.01, 0.01]
    cosine = steps.model_copy(update={"schedule": "cosine"})
    assert lr_factor(cosine, 10) == 1
    assert lr_factor(cosine, 55) == pytest.approx(0.5)
    assert lr_factor(cosine, 99) < 0.001
