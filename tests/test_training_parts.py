"""A batch in parts, one after another or in several processes, trains as the whole batch does."""

import copy
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_batches import EVERY_2D, SMALL, small_task, unchecked, with_boxes_as_mask
from fake_hands import make_scenes
from training_runs import Forks, change_params, copy_project, curve, environment, make_project

from handnet.hand.layer import HandLayer
from handnet.losses.parts import BatchPart
from handnet.losses.weights import LossOptions
from pipelines.augment import fixed_view
from pipelines.loading import show, view_center
from pipelines.training.feeding import device_batch_size
from pipelines.training.whole_batch import num_drawn

STEPS = 3
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
    changes = {"steps": STEPS, "lr": 1e-4, "loss": {"render_images": 3, "silhouette": 1.0}}
    return make_project(tmp_path_factory.mktemp("parts") / "project", **changes)


@pytest.fixture(scope="module")
def forks():
    with Forks() as started:
        yield started


def cases(project: Path, folder: Path, crops: Path | None = None) -> dict[tuple[str, str], Path]:
    """A project for each stage and supervision; the multi stage starts from the crop models of `crops`, default `folder`."""
    found = {}
    for stage, supervision in CASES:
        found[stage, supervision] = copy_project(project, folder / f"{stage}-{supervision}")
        weight = float(supervision == "3d")
        change_params(found[stage, supervision], supervision=supervision, loss={"joints_3d": weight, "vertices_3d": weight})
        if stage == "multi":
            (found[stage, supervision] / "models").mkdir()
            (found[stage, supervision] / "models/crop").symlink_to((crops or folder) / f"crop-{supervision}/models/crop")
    return found


@pytest.fixture(scope="module")
def alone(project, tmp_path_factory, forks) -> dict[tuple[str, str], Path]:
    """Every case in one process."""
    found = cases(project, tmp_path_factory.mktemp("alone"))
    for (stage, _), folder in found.items():
        forks.train(folder, stage)
    return found


def two_processes(forks: Forks, found: dict[tuple[str, str], Path]) -> None:
    for (stage, _), folder in found.items():
        forks.train(folder, stage, 2)


def two_nodes(_: Forks, found: dict[tuple[str, str], Path]) -> None:
    """One process on each of two addresses of this machine, through torchrun itself."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = str(Path(__file__).with_name("training_group.py"))
    arguments = [part for (stage, _), folder in found.items() for part in (str(folder), stage)]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", f"--master-port={port}"]
    nodes = [
        subprocess.Popen(
            [*launch, "--master-addr=127.0.0.1", f"--node-rank={rank}", f"--local-addr=127.0.0.{rank + 1}", script, *arguments],
            env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    said = [node.communicate(timeout=580)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said


@pytest.mark.parametrize("run", [two_processes, two_nodes])
def test_two_processes_train_as_one_does(project, alone, forks, tmp_path, run):
    """Both stages and supervision modes, batch normalisation in training; DDP fails in the second step if a parameter has no gradient."""
    found = cases(project, tmp_path, next(iter(alone.values())).parent)
    run(forks, found)
    for (stage, supervision), folder in found.items():
        for term in ("loss", "photometric", "silhouette", "keypoint_maps"):
            expected = curve(alone[stage, supervision], stage, term)
            assert len(expected) == STEPS
            # rounding grows from step to step: Adam divides small gradients by their size, and a pixel is drawn or not
            for steps, tolerance in ((1, 2e-5), (2, 1e-4), (STEPS, 1e-3)):
                two = curve(folder, stage, term)[:steps]
                np.testing.assert_allclose(two, expected[:steps], rtol=tolerance, err_msg=f"{stage} {supervision} {term}")


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
