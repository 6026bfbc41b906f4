"""Presets: each one is complete and valid, the paper's hold the paper's values, and switching never loses a person's edits."""

from __future__ import annotations

import difflib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.config import Params, load_params
from pipelines.preset import describe, preset_names, preset_path, write_preset

ROOT = Path(__file__).parents[1]


@pytest.fixture
def params_file(tmp_path: Path) -> Path:
    path = tmp_path / "params.yaml"
    write_preset("demo", path)
    return path


def committed(path: str) -> str | None:
    """The committed text of a file, None outside of a git checkout."""
    result = subprocess.run(["git", "show", f"HEAD:./{path}"], cwd=ROOT, capture_output=True, text=True)
    return result.stdout if result.returncode == 0 else None


def test_all_are_there() -> None:
    assert {"demo", "tiny", "paper-freihand", "paper-ho3d", "paper-rhd", "paper-interhand", "paper-egohands"} <= set(preset_names())


@pytest.mark.parametrize("name", preset_names())
def test_valid_complete_and_described(name: str) -> None:
    params = load_params(preset_path(name))
    assert params.preset == name
    line = describe(name)
    assert 20 < len(line) < 160
    assert line.endswith(".")


def test_params_yaml_is_committed_as_the_demo() -> None:
    """A clone runs the demo. Local edits are a person's own business, so this looks at what is committed."""
    if (text := committed("params.yaml")) is None:
        pytest.skip("not a git checkout")
    assert text == (committed("pipelines/presets/demo.yaml") or "")


@pytest.mark.parametrize("name", preset_names())
def test_an_override_changes_one_line(name: str, tmp_path: Path) -> None:
    """`dvc exp run -S` writes the file in DVC's form (lists as blocks, null as nothing, single quotes): so do the presets."""
    from dvc.utils.hydra import apply_overrides

    path = tmp_path / "params.yaml"
    before = preset_path(name).read_text()
    path.write_text(before)
    apply_overrides(path, ["train.crop.lr=0.25"])
    changed = [line for line in difflib.ndiff(before.splitlines(), path.read_text().splitlines()) if line[0] in "+-"]
    assert changed == [f"-     lr: {load_params(preset_path(name)).train.crop.lr}", "+     lr: 0.25"]


@pytest.mark.parametrize("name", [name for name in preset_names() if name.startswith("paper-")])
def test_the_paper_s_values(name: str) -> None:
    params = load_params(preset_path(name))
    model, crop, multi = params.train.model, params.train.crop, params.train.multi
    assert (model.backbone, model.output_stride, model.keypoint_branch) == ("resnet50", 8, "fused")
    assert (crop.input_px, multi.input_px) == (224, 320 if name == "paper-rhd" else 512)
    for stage in (crop, multi):
        assert (stage.batch_size, stage.lr, stage.weight_decay, stage.schedule) == (256, 1e-3, 0.0, "step")
        assert stage.center == "keypoints"
        assert stage.loss.joints_3d == stage.loss.vertices_3d == 0 or stage.supervision == "3d"
        # lr falls at epochs 30, 90 and 120: whatever the epoch's length, the shares stand in that proportion
        first, second, third = stage.milestones
        assert second / first == pytest.approx(3, rel=0.01)
        assert third / first == pytest.approx(4, rel=0.01)
    for scenes in (params.compose.train, params.compose.eval):
        assert (scenes.canvas_px, scenes.hand_px, scenes.max_hands, scenes.flip_fraction) == (512, (96, 320), 10, 0.5)
        assert scenes.focal_px == 512
    for evaluation in params.evaluate.values():  # what a whole image shows has to be found
        assert evaluation.centers == ("true" if evaluation.model == "crop" else "predicted")


def test_the_paper_s_number_of_iterations() -> None:
    params = load_params(preset_path("paper-freihand"))
    assert params.train.crop.steps == 70_000
    assert params.ingest.freihand is not None
    images = 130_240 * (1 - params.ingest.freihand.val_fraction)
    epochs = 70_000 * 256 / images
    assert [share * epochs for share in params.train.crop.milestones] == pytest.approx([30, 90, 120], abs=0.2)


def test_tiny_is_tiny_and_keeps_the_demo_s_shape() -> None:
    demo, tiny = load_params(preset_path("demo")), load_params(preset_path("tiny"))
    assert set(tiny.evaluate) == set(demo.evaluate)
    assert set(tiny.submit) == set(demo.submit)
    assert tiny.train.crop.steps * tiny.train.crop.batch_size <= 100
    assert tiny.train.model.pretrained == "none"


def test_switching_between_presets(params_file: Path) -> None:
    for name in preset_names():
        write_preset(name, params_file)
        assert params_file.read_text() == preset_path(name).read_text()
    assert list(params_file.parent.iterdir()) == [params_file]


def test_own_values_are_not_overwritten(params_file: Path) -> None:
    edited = params_file.read_text().replace("lr: 0.001", "lr: 0.005", 1)
    params_file.write_text(edited)
    with pytest.raises(ValueError, match=r"train\.crop\.lr: 0\.005, not 0\.001 as in demo.*--force"):
        write_preset("tiny", params_file)
    assert params_file.read_text() == edited
    write_preset("tiny", params_file, force=True)
    assert load_params(params_file).preset == "tiny"


def test_a_broken_file_is_not_overwritten_either(params_file: Path) -> None:
    params_file.write_text("train: [")
    with pytest.raises(ValueError, match=r"not valid YAML.*--force"):
        write_preset("tiny", params_file)
    write_preset("tiny", params_file, force=True)
    assert isinstance(load_params(params_file), Params)


def preset_command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pipelines.preset", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


def test_the_command(params_file: Path) -> None:
    folder = params_file.parent
    listed = preset_command(folder, "--list")
    assert [line.split()[0] for line in listed.stdout.splitlines()] == preset_names()
    assert preset_command(folder, "--check").returncode == 0
    assert preset_command(folder, "tiny").returncode == 0
    assert load_params(params_file).preset == "tiny"
    params_file.write_text(params_file.read_text().replace("lr: 0.001", "lr: -1.0", 1))
    for arguments in (["--check"], ["demo"], ["nosuch"]):
        failed = preset_command(folder, *arguments)
        assert failed.returncode == 2
        assert len(failed.stderr.splitlines()) == 1, failed.stderr


def test_every_dataset_of_the_paper_has_its_protocol() -> None:
    sections = {
        key: own for name in preset_names() if name.startswith("paper-") for key, own in load_params(preset_path(name)).evaluate.items()
    }
    assert {key: (own.protocol, own.model) for key, own in sections.items()} == {
        "freihand-crop": ("aligned", "crop"),
        "ho3d": ("aligned", "crop"),
        "ho3d-val": ("aligned", "crop"),
        "rhd-crop": ("two-hands", "crop"),
        "rhd-whole": ("two-hands", "multi"),
        "interhand-crop": ("interhand", "crop"),
        "interhand-whole": ("interhand", "multi"),
        "multi512": ("scenes", "multi"),
        "egohands": ("masks", "multi"),
    }
    assert sections["ho3d"].ground_truth is not None
