"""What a run keeps and how it reacts: checkpoints, losses that are not finite, validation, options, the feed, batch norm of a group."""

import json
import os
import re
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch._inductor.config
import torch.distributed as dist
from fake_batches import unchecked
from safetensors import safe_open
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from timm.layers import BatchNormAct2d
from training_runs import change_params, copy_project, curve, make_project

from handnet.network.backbone import Backbone
from handnet.predict import Predictor
from handnet.task import HandTask
from pipelines.config import ParamsError, load_params
from pipelines.preset import preset_path
from pipelines.training import memory
from pipelines.training import stage as stage_module
from pipelines.training.batch_norm import GroupBatchNorm2d, synchronize_batch_norm
from pipelines.training.checkpoint import Checkpoint, CheckpointError, CheckpointFolder
from pipelines.training.feeding import loader_workers, made_ahead
from pipelines.training.trainer import Trainer, Validation
from pipelines.training.validation import Validator

RUN = {"stage": "crop", "config": {"lr": 0.001, "loss": {"bones": 5.0}}, "seed": 0}


def checkpoint(value: float) -> Checkpoint:
    tensors = {group: {"w": torch.full((2,), float(value))} for group in ("network", "average", "optimizer")}
    return Checkpoint(tensors=tensors, values={"at": value})


def test_the_last_checkpoints_and_the_best_stay(tmp_path):
    folder = CheckpointFolder("crop", RUN, keep=2, root=tmp_path)
    assert folder.load() is None
    for step in (1, 2, 3, 4):
        folder.save(step, checkpoint(step), best=2 if step > 1 else None)
    assert folder.steps() == [2, 3, 4]
    (folder.folder / "step-000000009.partial").mkdir()  # a kill while writing
    step, last = CheckpointFolder("crop", RUN, root=tmp_path).load()
    assert step == 4
    assert last.values == {"at": 4}
    assert last.tensors["average"]["w"].tolist() == [4, 4]
    assert folder.load(2)[1].values == {"at": 2}
    (folder.folder / "nonfinite-step-000000003-process-0.safetensors").touch()
    folder.remove()
    assert [path.name for path in folder.folder.iterdir()] == ["nonfinite-step-000000003-process-0.safetensors"]


def test_a_checkpoint_of_another_run_is_refused_with_what_differs(tmp_path):
    folder = CheckpointFolder("crop", RUN, root=tmp_path)
    folder.save(3, checkpoint(3))
    other = CheckpointFolder("crop", {**RUN, "config": {"lr": 0.01, "loss": {"bones": 5.0, "push": 1.0}}}, root=tmp_path)
    (line,) = other.others()
    assert "is of another run and is left alone: config.loss.push: now 1.0, there None; config.lr: now 0.01, there 0.001" in line
    folder.folder.rename(other.folder)
    with pytest.raises(CheckpointError, match=r"of another run: config\.loss\.push: expected 1\.0, got None; config\.lr: expected 0\.01"):
        other.load()


@pytest.mark.parametrize(("name", "damage"), [("state.json", b"{"), ("network.safetensors", b"\0" * 9), ("average.safetensors", None)])
def test_a_damaged_checkpoint_is_refused(tmp_path, name, damage):
    folder = CheckpointFolder("crop", RUN, root=tmp_path)
    folder.save(3, checkpoint(3))
    path = folder.path(3) / name
    path.unlink() if damage is None else path.write_bytes(damage)
    with pytest.raises(CheckpointError, match=r"step-000000003: not a readable checkpoint \(.*\); remove .* to start this run") as error:
        folder.load()
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    return make_project(tmp_path_factory.mktemp("state") / "project", steps=6, batch_size=2, input_px=32, checkpoint_every=2)


@pytest.fixture
def here(project, tmp_path, monkeypatch) -> Path:
    """A copy of the project, entered."""
    folder = copy_project(project, tmp_path / "copy")
    monkeypatch.chdir(folder)
    return folder


def run(folder: Path, **changes) -> Path:
    change_params(folder, **changes)
    with unchecked():
        return stage_module.train_stage("crop", load_params().train)


def poison(monkeypatch, *, from_call: int, num: int) -> None:
    """`num` calls of the task from the given one on have a NaN among their terms."""
    calls, real = [], HandTask._reconstruction

    def broken(self, terms, out, batch):
        real(self, terms, out, batch)
        calls.append(batch)
        if from_call <= len(calls) < from_call + num:
            terms["bones"] = terms["bones"] * torch.nan

    monkeypatch.setattr(HandTask, "_reconstruction", broken)


def test_a_loss_that_is_not_finite_stops_and_names_term_and_samples(here, monkeypatch):
    poison(monkeypatch, from_call=4, num=1)
    with pytest.raises(ValueError, match=r"^training stopped at step 4: bones not finite; samples \d{6}, \d{6}; batch saved as ") as error:
        run(here)
    path = str(error.value).split("batch saved as ")[1]
    with safe_open(path, "pt") as kept:
        keys = kept.metadata()["0.keys"].split("\n")
        assert kept.get_tensor("0.image").shape == (2, 3, 32, 32)
    assert f"samples {keys[0]}, {keys[1]};" in str(error.value)
    (last,) = here.glob("checkpoints/crop-*/step-*")  # what was saved before is good
    assert last.name == "step-000000002"
    monkeypatch.undo()
    monkeypatch.chdir(here)
    run(here)  # and goes on once the cause is gone
    assert np.isfinite(curve(here, "crop")).all()


@pytest.mark.parametrize("delayed", [False, True])
def test_a_step_that_is_not_finite_can_be_skipped(here, monkeypatch, delayed):
    poison(monkeypatch, from_call=3, num=2)
    monkeypatch.setattr(Trainer, "delayed", delayed)
    folder = run(here, nonfinite="skip", log_every=6)
    assert all(value.isfinite().all() for value in load_file(folder / "model.safetensors").values() if value.is_floating_point())
    assert curve(here, "crop", "skipped") == [2.0]
    assert len(list(here.glob("checkpoints/crop-*/nonfinite-step-*"))) == 2  # stays beside the finished model


def test_a_skipped_step_leaves_no_trace_in_running_statistics(here, monkeypatch):
    calls, real = [], Backbone.forward

    def broken(self, image):
        calls.append(image)
        return real(self, image * torch.nan if len(calls) == 3 else image)

    monkeypatch.setattr(Backbone, "forward", broken)
    folder = run(here, nonfinite="skip", log_every=6)
    assert curve(here, "crop", "skipped") == [1.0]
    weights = load_file(folder / "model.safetensors")
    assert any("running_mean" in name for name in weights)
    assert all(value.isfinite().all() for value in weights.values())


def test_a_run_that_only_skips_ends_and_counts_over_an_interruption(here, monkeypatch):
    poison(monkeypatch, from_call=1, num=100)
    changes = {"nonfinite": "skip", "steps": 30, "checkpoint_every": 10}
    for _ in range(2):  # the second run begins at step 10
        with pytest.raises(ValueError, match=r"training stopped, 20 steps in a row were not finite; last step 20: bones not finite"):
            run(here, **changes)


def test_the_best_weights_become_the_model(here, monkeypatch):
    seen, scores = {}, {2: 0.4, 4: 0.2, 6: 0.3}

    def fake(self, weights, step):
        torch.rand(3)  # random numbers drawn here change nothing
        seen[step] = {name: value.clone() for name, value in weights.items()}
        return Validation(figures={"recall": 1 - scores[step]}, score=scores[step])

    folder = run(here, checkpoint_every=1, keep_checkpoints=1)
    plain = (folder / "model.safetensors").read_bytes()
    monkeypatch.setattr(Validator, "__call__", fake)
    run(here, validate_every=2)
    assert (folder / "model.safetensors").read_bytes() == plain
    # the tiny preset evaluates on the same data as it validates on
    with pytest.raises(ParamsError, match=r"train.crop.select: 'best' would choose on 'ingest/procedural/eval', which evaluate measures"):
        run(here, select="best")
    monkeypatch.undo()
    monkeypatch.chdir(here)
    monkeypatch.setattr(Validator, "__call__", fake)
    run(here, validate_data="ingest/procedural/train")
    best = load_file(folder / "model.safetensors")
    assert sorted(seen) == [2, 4, 6]
    assert all(torch.equal(best[name], value) for name, value in seen[4].items())


def test_a_kill_right_after_the_best_checkpoint_does_not_forget_it(here, monkeypatch):
    scores, real = {2: 0.4, 4: 0.2, 6: 0.3}, os.replace
    changes = {"validate_every": 2, "select": "best", "validate_data": "ingest/procedural/train"}
    monkeypatch.setattr(Validator, "__call__", lambda self, _, step: Validation(figures={"recall": 0.5}, score=scores[step]))

    def killed(source, target):
        real(source, target)
        if str(target).endswith("step-000000004"):
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            run(here, **changes)
    folder = run(here)
    assert json.loads((folder / "model.json").read_text())["metrics"] == {"step": 4.0, "recall": 0.5}


def test_validation_measures_and_draws(here):
    run(here, validate_every=3, validate_samples=3)
    rows = (here / "logs/crop/plots/metrics/validation/recall.tsv").read_text().splitlines()
    assert len(rows) == 3  # header, steps 3 and 6
    assert (here / "logs/crop/validation.jpg").stat().st_size > 1000
    assert json.loads((here / "logs/crop/metrics.json").read_text())["validation"]["recall"] >= 0


def test_options_change_how_and_not_what(here):
    run(here, optimizer="adam", weight_decay=0.0)
    plain = curve(here, "crop")
    run(here, optimizer="adamw", gradient_checkpointing=True, deterministic=True)
    torch.use_deterministic_algorithms(False)
    np.testing.assert_allclose(curve(here, "crop"), plain, rtol=1e-3)  # without decay the two are the same


def test_gradients_accumulate_to_the_same_curve(here, monkeypatch):
    """Parts of one image and of two, from a batch of five; batch norm with fixed statistics, as the documentation asks for."""
    monkeypatch.setattr(Backbone, "train", lambda self, mode=True: torch.nn.Module.train(self, False))
    run(here, batch_size=5, lr=1e-4, loss={"render_images": 1})
    plain = curve(here, "crop")
    for size in ("1", "2"):
        monkeypatch.setenv("HANDNET_DEVICE_BATCH", size)
        run(here)
        np.testing.assert_allclose(curve(here, "crop")[:1], plain[:1], rtol=1e-5)
        np.testing.assert_allclose(curve(here, "crop"), plain, rtol=1e-3)


def test_batches_made_ahead_keep_their_order_and_errors():
    def items():
        yield from range(5)
        raise ValueError("shard 3 is damaged")

    found = []
    with pytest.raises(ValueError, match="shard 3 is damaged"):
        found.extend(made_ahead(items()))
    assert found == [0, 1, 2, 3, 4]

    def damaged():
        yield 0
        raise cv2.error("of no class that is Python's own")

    with pytest.raises(cv2.error, match="of no class"):
        list(made_ahead(damaged()))
    ahead = made_ahead(iter(range(10**9)))
    assert next(ahead) == 0
    ahead.close()
    assert not any(thread.name == "batches" for thread in threading.enumerate())


@pytest.mark.parametrize(("cores", "processes", "expected"), [(2, 1, 0), (8, 1, 6), (64, 1, 8), (64, 8, 7), (34, 8, 4), (8, 8, 0)])
def test_loader_processes_share_the_machine(monkeypatch, cores, processes, expected):
    monkeypatch.delenv("HANDNET_LOADER_WORKERS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert loader_workers() == expected


def test_batch_norm_of_a_group_of_one_is_torch_s(tmp_path):
    torch.manual_seed(0)
    plain = torch.nn.Sequential(BatchNormAct2d(3), torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    ours = torch.nn.Sequential(BatchNormAct2d(3), torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    ours.load_state_dict(plain.state_dict())
    synchronize_batch_norm(ours)
    assert [type(layer) is GroupBatchNorm2d for layer in ours] == [True, False, True]
    x = torch.randn(4, 3, 5, 6) * 3 + 7
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group-{time.time_ns()}", rank=0, world_size=1)
    try:
        for _ in range(2):
            a, b = plain(x), ours(x)
            torch.testing.assert_close(b, a)
            (a**3).mean().backward()
            (b**3).mean().backward()
    finally:
        dist.destroy_process_group()
    for p, q in zip(plain.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-4, atol=1e-5)
    assert plain.state_dict().keys() == ours.state_dict().keys()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)
    torch.testing.assert_close(ours.eval()(x), plain.eval()(x))


def test_model_json_says_what_validation_found(here):
    run(here, validate_every=2, validate_samples=3)
    description = json.loads((here / "models/crop/model.json").read_text())
    last = json.loads((here / "logs/crop/metrics.json").read_text())["validation"]
    assert description["metrics"] == {"step": 6.0, **last}
    assert {len(values) for values in description["normalization"].values()} == {3}
    # a model written before there were metrics is read as well
    for name in ("metrics", "normalization"):
        del description[name]
    (here / "models/crop/model.json").write_text(json.dumps({**description, "schema": 2}))
    assert Predictor.load(here / "models/crop").description.metrics == {}


def test_the_best_weights_come_with_their_figures(here, monkeypatch):
    scores = {2: 0.2, 4: 0.1, 6: 0.3}
    monkeypatch.setattr(Validator, "__call__", lambda self, _, step: Validation(figures={"recall": 1 - scores[step]}, score=scores[step]))
    folder = run(here, validate_every=2, select="best", validate_data="ingest/procedural/train")
    assert json.loads((folder / "model.json").read_text())["metrics"] == {"step": 4.0, "recall": 0.9}


def test_tensorboard_shows_the_curves_and_changes_nothing(here, monkeypatch):
    run(here)
    plain = (here / "models/crop/model.safetensors").read_bytes(), (here / "models/crop/model.json").read_bytes()
    assert not (here / "logs/crop/tensorboard").exists()
    monkeypatch.setenv("HANDNET_TENSORBOARD", "1")
    for _ in range(2):  # the second run's are not added to the first one's
        run(here)
    assert plain == ((here / "models/crop/model.safetensors").read_bytes(), (here / "models/crop/model.json").read_bytes())
    run(here, validate_every=3, validate_samples=2)
    (file,) = (here / "logs/crop/tensorboard").iterdir()
    events = EventAccumulator(str(file))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose([event.value for event in events.Scalars("train/loss")], curve(here, "crop"), rtol=1e-6)
    assert [event.step for event in events.Scalars("validation/recall")] == [3, 6]
    picture = cv2.imdecode(np.frombuffer(events.Images("validation")[-1].encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == cv2.imread(str(here / "logs/crop/validation.jpg")).shape
    monkeypatch.setenv("HANDNET_TENSORBOARD", "yes")
    with pytest.raises(ValueError, match="HANDNET_TENSORBOARD: expected 0 or 1, got 'yes'"):
        run(here)


class Curve(torch.nn.Module):
    def forward(self, x):
        return torch.nn.functional.gelu(x) * 2 + 1


def test_compile_without_a_compiler_is_one_line(here, monkeypatch):
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, str(here / "no-such-compiler")))
    monkeypatch.setattr(torch._inductor.config, "force_disable_caches", True)
    module = Curve()
    module.compile()
    section = load_params().train.crop.model_copy(update={"compile": True})
    said = r"^compile: torch\.compile failed \(InductorError InvalidCxxCompiler: .*needs a C\+\+ compiler"
    with pytest.raises(ValueError, match=said) as error, stage_module.device_errors(section):
        module(torch.zeros(3))
    assert "\n" not in str(error.value)


def test_memory_is_told_before_training(here, capsys, monkeypatch):
    run(here)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("memory: ")]
    assert re.fullmatch(r"memory: about .* GiB: weights .*, activations .* \(2 x .* MiB\); free .* on cpu", line), line
    monkeypatch.setattr(memory, "free_memory", lambda _: 3 << 20)
    run(here)
    assert "this will not fit; what helps: a smaller" not in (out := capsys.readouterr().out)
    assert re.search(r"this will not fit; what helps: .*precision: bf16-mixed, gradient_checkpointing: true", out)


def test_the_estimate_of_activations_is_what_a_step_keeps(here):
    """Beside what autograd really holds after a forward pass of the trunk and the dense heads."""
    config = load_params().train
    task = stage_module.build_task(config, config.crop, None).train()
    batch = stage_module.TrainingBatches(config.crop, 0, whole_image=False)[0].to("cpu")
    own = {tensor.untyped_storage().data_ptr() for tensor in [*task.parameters(), *task.buffers()]}
    held: dict[int, torch.UntypedStorage] = {}

    def hold(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage
        return tensor

    estimate = memory.estimate_memory(task, config.crop, 2)
    with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor), unchecked():
        kept = task.network.dense(batch.image)
    assert sum(storage.nbytes() for storage in held.values()) / 2 == pytest.approx(estimate.activations, rel=0.05)
    del kept
    assert estimate.weights + estimate.optimizer == sum(t.nbytes for t in [*task.parameters(), *task.buffers()]) + 2 * estimate.gradients


@pytest.mark.parametrize(("stage", "activations_gib"), [("crop", (15, 40)), ("multi", (80, 200))])
def test_the_paper_s_presets_are_estimated(stage, activations_gib):
    """ResNet-50 with 224 and 512 px: about 90 and 450 MiB an image, 256 images."""
    config = load_params(preset_path("paper-freihand")).train
    model = config.model.model_copy(update={"pretrained": "none"})
    section = getattr(config, stage)
    task = stage_module.build_task(config.model_copy(update={"model": model}), section, None)
    estimate = memory.estimate_memory(task, section, section.batch_size)
    low, high = activations_gib
    assert low < estimate.activations * estimate.images / memory.GIB < high
    assert estimate.optimizer == 2 * estimate.gradients
    halved = memory.estimate_memory(task, section.model_copy(update={"precision": "bf16-mixed"}), 256)
    assert halved.activations == estimate.activations // 2
