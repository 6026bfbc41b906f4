"""A batch in parts, one after another or in several processes, trains as the whole batch does."""

import copy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_batches import EVERY_2D, SMALL, small_task, unchecked, with_boxes_as_mask
from fake_hands import make_scenes
from training_runs import change_params, copy_project, curve, environment, make_project, train

from handnet.hand.layer import HandLayer
from handnet.losses.parts import BatchPart
from handnet.losses.weights import LossOptions
from pipelines.augment import fixed_view
from pipelines.loading import show, view_center
from pipelines.training.feeding import device_batch_size
from pipelines.training.whole_batch import num_drawn

CASES = [("crop", "2d"), ("crop", "3d"), ("multi", "2d"), ("multi", "3d")]


def gradients(task) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in task.parameters() if p.requires_grad])


@pytest.mark.parametrize("masks", ["all", "some", "none"])
def test_terms_and_gradients_of_the_parts_are_those_of_the_whole(masks):
    """Six scenes, one without hands, on two processes with parts of two: sums over parts, averaged over processes."""
    scenes = make_scenes(6, seed=3)
    no_points = replace(scenes[2].hands[0], visible=np.zeros(21, bool))
    scenes[2] = replace(scenes[2], hands=(no_points, *scenes[2].hands[1:]))
    order = [0, 1, 2, 3, 4, 5]
    masked = {"all": order, "some": [0, 1, 2], "none": []}[masks]
    scenes = [with_boxes_as_mask(scene) if i in masked else scene for i, scene in enumerate(scenes)]

    def batch(places):
        views = [fixed_view(scenes[i], 96, view_center(scenes[i], "keypoints", True)) for i in places]
        return show([scenes[i] for i in places], views, 96).to("cpu")

    weights = replace(EVERY_2D, joints_3d=1.0, vertices_3d=1.0)
    options = LossOptions(render_px=32, render_images=3)
    task = small_task(HandLayer(), weights, replace(SMALL, tag_channels=2), supervision="3d", options=options).eval()
    with unchecked():
        expected = task(batch(order))
        expected["loss"].backward()
        wanted = gradients(task)
        drawn = [num_drawn(task, 6, rank, 2) for rank in (0, 1)]
        assert drawn == [2, 1]
        parts = [(rank, n, batch(order[rank::2][2 * n : 2 * n + 2])) for rank in (0, 1) for n in (0, 1)]
        num = [drawn[rank] if n == 0 else 0 for rank, n, _ in parts]
        each = [task.label_counts(part, n) for (_, _, part), n in zip(parts, num, strict=True)]
        counts = {name: sum(of[name] for of in each) for name in each[0]}
        compared = []

        def forward(index, total):
            _, n, part = parts[index]
            how = {"counts": counts, "num_drawn": num[index], "first": n == 0, "num_processes": 2, "sum_over_processes": total}
            return copy.copy(task)(part, BatchPart(**how))

        for i in range(4):
            forward(i, lambda count: compared.append(count) or count)
        assert len(compared) == 2  # every process asks once
        task.zero_grad()
        found = [forward(i, lambda _: sum(compared)) for i in range(4)]
        sum(terms["loss"] for terms in found).div(2).backward()
    for name, value in expected.items():
        mean = sum(terms[name] for terms in found) / 2
        torch.testing.assert_close(mean, value, rtol=2e-5, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")
    torch.testing.assert_close(gradients(task), wanted, rtol=1e-3, atol=1e-5 * float(wanted.abs().max()))


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    changes = {"steps": 4, "lr": 1e-4, "loss": {"render_images": 3, "silhouette": 1.0}}
    return make_project(tmp_path_factory.mktemp("parts") / "project", **changes)


def in_group(launcher: list[str], *cases: str) -> subprocess.CompletedProcess:
    script = str(Path(__file__).with_name("training_group.py"))
    command = [sys.executable, "-m", "torch.distributed.run", *launcher, script, *cases]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)


def test_two_processes_train_as_one_does(project, tmp_path):
    """Both stages and supervision modes, batch normalisation in training; DDP fails in the second step if a parameter has no gradient."""
    arguments = []
    for stage, supervision in CASES:
        more = {"joints_3d": 1.0, "vertices_3d": 1.0} if supervision == "3d" else {}
        for kind in ("one", "two"):
            folder = copy_project(project, tmp_path / f"{stage}-{supervision}-{kind}")
            change_params(folder, supervision=supervision, loss=more)
            if stage == "multi":
                source = tmp_path / f"crop-{supervision}-one/models/crop"
                (folder / "models").mkdir()
                (folder / "models/crop").symlink_to(source)
            arguments += [str(folder), stage]
    alone = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("training_group.py")), *at(arguments, "one")],
        env=environment(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert alone.returncode == 0, alone.stderr
    result = in_group(["--standalone", "--nproc-per-node=2"], *at(arguments, "two"))
    assert result.returncode == 0, result.stderr
    for stage, supervision in CASES:
        one, two = ((tmp_path / f"{stage}-{supervision}-{kind}") for kind in ("one", "two"))
        for term in ("loss", "photometric", "silhouette", "keypoint_maps"):
            expected = curve(one, stage, term)
            # rounding grows from step to step: Adam divides small gradients by their size, and a pixel is drawn or not
            for steps, tolerance in ((1, 1e-5), (2, 1e-4), (4, 1e-3)):
                found = curve(two, stage, term)[:steps]
                np.testing.assert_allclose(found, expected[:steps], rtol=tolerance, err_msg=f"{stage} {supervision} {term}")


def at(arguments: list[str], kind: str) -> list[str]:
    pairs = zip(arguments[::2], arguments[1::2], strict=True)
    return [part for folder, stage in pairs if folder.endswith(kind) for part in (folder, stage)]


def test_the_device_s_batch():
    tried = []

    def fits(size: int) -> bool:
        tried.append(size)
        return size <= 9

    assert device_batch_size(64, 4, fits) == 8
    assert tried == [64, 32, 16, 8]
    assert device_batch_size(20, 4, None) == 20
    with pytest.raises(ValueError, match="not even 12 images fit the device"):
        device_batch_size(64, 12, fits)


def test_the_environment_gives_the_device_s_batch(project, tmp_path, monkeypatch):
    monkeypatch.setenv("HANDNET_DEVICE_BATCH", "7")
    assert device_batch_size(64, 4, None) == 7
    assert device_batch_size(5, 4, None) == 5
    with pytest.raises(ValueError, match=r"HANDNET_DEVICE_BATCH: expected at least 8, the images that loss\.render_images draws, got 7"):
        device_batch_size(64, 8, None)
    for wrong in ("0", "-1", "many"):
        monkeypatch.setenv("HANDNET_DEVICE_BATCH", wrong)
        with pytest.raises(ValueError, match="HANDNET_DEVICE_BATCH: expected a whole number from 1 on, got"):
            device_batch_size(64, 4, None)


def test_impossible_numbers_of_devices_end_with_one_line(project):
    for value, text in (("0", "HANDNET_DEVICES: expected a whole number from 1 on, got '0'"), ("x", "got 'x'")):
        result = train(project, "crop", HANDNET_DEVICES=value)
        assert result.returncode == 1
        assert result.stderr.startswith("error: ")
        assert text in result.stderr
        assert "Traceback" not in result.stderr
