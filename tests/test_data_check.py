"""`handnet data check`: what is there and missing, labels measured against pictures, a sheet to look at, and the exit code."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from fake_samples import make_sample, project
from official_layouts import tarred, write_freihand, write_ho3d, zipped
from official_layouts_interhand import write_interhand
from official_layouts_rhd import write_rhd
from typer.testing import CliRunner

from pipelines.cli import DATASETS, app
from pipelines.datasets.checking import Published
from pipelines.inspection.evidence import Evidence
from pipelines.inspection.survey import NAMES, find_check


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """The sheet is written below the current folder."""
    monkeypatch.chdir(tmp_path)


def check(*arguments: object, exit_code: int = 0) -> str:
    result = CliRunner().invoke(app, ["data", "check", *map(str, arguments)])
    assert result.exit_code == exit_code, result.output
    return result.output


def check_json(*arguments: object, exit_code: int = 0) -> dict:
    return json.loads(check(*arguments, "--json", exit_code=exit_code))


def parts_of(found: dict) -> dict[str, tuple[int, int | None]]:
    return {part["name"]: (part["found"], part["published"]) for part in found["parts"]}


def test_freihand_is_counted_measured_and_drawn(tmp_path):
    path = zipped(write_freihand(tmp_path / "FreiHAND_pub_v2"), tmp_path / "freihand.zip", "FreiHAND_pub_v2/")
    text = check("freihand", path)
    for line in ("FreiHAND v2 at", "training images 12 130,240 a part of them", "a partial copy, which can be used"):
        assert line in " ".join(text.split())
    assert "train: 12 samples; of 12 looked at, 0 damaged" in text
    assert "14 samples drawn in checks/freihand.jpg" in text
    sheet = cv2.imread("checks/freihand.jpg")
    assert sheet.shape == (4 * 324 + 4, 4 * 324 + 4, 3)
    found = check_json("freihand", path, "--sheet", "other/sheet.jpg", "--cells", 4)
    assert found["usable"]
    assert found["partial"]
    assert found["problems"] == []
    assert found["sheet"] == "other/sheet.jpg"
    assert cv2.imread("other/sheet.jpg").shape[0] == 328
    parts = parts_of(found)
    assert parts["training images"] == (12, 130_240)
    assert parts["training masks"] == (3, 32_560)
    assert parts["training_K.json"] == (3, 32_560)
    assert parts["evaluation images"] == (2, 3_960)
    train, evaluation = found["splits"]
    assert (train["num_samples"], train["num_hands"], evaluation["num_samples"]) == (12, 12, 2)
    assert train["projection"]["max_px"] < 0.01
    assert train["on_mask"] == {"count": 252, "fraction": 1.0}
    assert train["published"] == {"count": 0, "mean_px": None, "max_px": None}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["FreiHAND_pub_v2", "checks", "freihand.zip", "other"]  # no cache stays


@pytest.mark.parametrize(("version", "frames"), [("v2", 66_034), ("v3", 83_325)])
def test_ho3d_tells_its_version(tmp_path, version, frames):
    found = check_json("ho3d", tarred(write_ho3d(tmp_path / "HO3D", version), tmp_path / "ho3d.tar", "HO3D/"))
    assert found["usable"]
    parts = parts_of(found)
    assert parts["frames in train.txt"] == (4, frames)
    assert parts[f"train images ({version})"] == (4, frames)
    train, evaluation = found["splits"]
    assert (train["num_samples"], evaluation["num_samples"]) == (4, 2)
    assert evaluation["in_box"] == {"count": 2, "fraction": 1.0}
    assert cv2.imread("checks/ho3d.jpg").shape == (2 * 244 + 4, 4 * 324 + 4, 3)


def test_a_copy_without_evaluation_labels_can_be_used(tmp_path):
    folder = write_freihand(tmp_path / "F")
    for kind in ("xyz", "verts"):
        (folder / f"evaluation_{kind}.json").unlink()
    text = check("freihand", folder)
    assert "evaluation_xyz.json 0 1 missing: split eval needs it; published since 2022" in " ".join(text.split())
    assert "eval: not there: " in text
    assert "which can be used" in text


def test_a_copy_of_one_part_can_be_used(tmp_path):
    """What ingest makes one split of: the evaluation part, or InterHand2.6M's annotations with the images of one split."""
    freihand = write_freihand(tmp_path / "F")
    for path in freihand.glob("training*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    ho3d = write_ho3d(tmp_path / "HO3D", "v3")
    (ho3d / "train.txt").unlink()
    shutil.rmtree(ho3d / "train")
    interhand = write_interhand(write_interhand(tmp_path / "InterHand2.6M"), "test", first_id=100)
    shutil.rmtree(interhand / "images/train")
    rhd = write_rhd(tmp_path / "RHD_published_v2", num_train=1, num_eval=2)
    shutil.rmtree(rhd / "training")
    for name, path in (("freihand", freihand), ("ho3d", ho3d), ("interhand", interhand), ("rhd", rhd)):
        found = check_json(name, path)
        assert (found["usable"], found["partial"]) == (True, True)
        by_name = {split["name"]: split for split in found["splits"]}
        assert by_name["train"]["unusable"]
        assert by_name["eval"]["num_looked_at"] > 0
    shutil.rmtree(interhand / "images")
    assert any("found no image of the captures" in problem for problem in check_json("interhand", interhand, exit_code=1)["problems"])


@pytest.mark.parametrize("damage", ["malicious", "cut short"])
def test_a_split_whose_annotations_are_damaged_is_not_one_that_is_not_there(tmp_path, damage):
    rhd = write_rhd(tmp_path / "RHD_published_v2", num_train=1, num_eval=2)
    file = rhd / "training/anno_training.pickle"
    file.write_bytes(file.read_bytes()[:-40] if damage == "cut short" else b"cposix\nsystem\n(S'touch was-run'\ntR.")
    text = check("rhd", rhd, exit_code=1)
    reason = "one that is cut short" if damage == "cut short" else "posix.system, which is refused"
    assert re.search(rf"^train: cannot be read: .*anno_training\.pickle: .*{reason}", text, re.MULTILINE), text
    assert re.search(rf"^cannot be used:\n  train: .*{reason}", text, re.MULTILINE), text
    assert not (tmp_path / "was-run").exists()


def test_damaged_samples_are_named(tmp_path):
    folder = write_freihand(tmp_path / "F")
    (folder / "training/rgb/00000004.jpg").write_bytes(b"\xff\xd8")
    found = check_json("freihand", folder)
    assert found["usable"]
    (reason,) = found["splits"][0]["damaged"]
    assert "training/rgb/00000004.jpg: not a whole image" in reason
    assert "train: 12 samples; of 12 looked at, 1 damaged" in check("freihand", folder)


def no_images(folder: Path) -> None:
    for path in (folder / "training/rgb").iterdir():
        path.unlink()


def all_truncated(folder: Path) -> None:
    for path in (folder / "training/rgb").iterdir():
        path.write_bytes(path.read_bytes()[:500])


def labels_elsewhere(folder: Path) -> None:
    path = folder / "training_xyz.json"
    path.write_text(json.dumps([[[x - 0.06, y - 0.05, z] for x, y, z in hand] for hand in json.loads(path.read_text())]))


def no_keypoints(folder: Path) -> None:
    (folder / "training_xyz.json").unlink()
    (folder / "evaluation_xyz.json").unlink()


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (no_images, "training images: none found"),
        (all_truncated, "train: all 12 samples looked at are damaged; the first: "),
        (labels_elsewhere, "of the keypoints lie on the published mask"),
        (no_keypoints, "training_xyz.json: not found"),
    ],
)
def test_what_cannot_be_used_ends_with_1(tmp_path, damage, problem):
    folder = write_freihand(tmp_path / "F")
    damage(folder)
    text = check("freihand", folder, exit_code=1)
    assert "cannot be used:" in text
    assert problem in text.partition("cannot be used:")[2]
    assert problem in " ".join(check_json("freihand", folder, exit_code=1)["problems"])


def test_what_is_no_dataset_is_said_in_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    text = check("freihand", tmp_path / "empty", exit_code=1)
    assert "expected a folder or archive with one of ['training_K.json', 'evaluation_K.json'], found none" in text
    (tmp_path / "half.zip").write_bytes(b"PK\3\4")
    assert "half.zip: not an archive that can be read" in check("ho3d", tmp_path / "half.zip", exit_code=1)
    (tmp_path / "empty/train.txt").write_text("A/0\n")
    assert "no image found below train/SEQUENCE/rgb/" in check("ho3d", tmp_path / "empty", exit_code=1)
    result = CliRunner().invoke(app, ["data", "check", "imagenet", "."])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "NAME: expected one of ['freihand', 'ho3d'" in result.stderr
    assert not Path("checks").exists()


def test_a_sheet_that_cannot_be_written_is_said_in_one_line(tmp_path):
    (tmp_path / "taken").mkdir()
    result = CliRunner().invoke(app, ["data", "check", "freihand", str(write_freihand(tmp_path / "F")), "--sheet", str(tmp_path / "taken")])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "taken" in result.stderr


def test_the_command_names_the_datasets_there_are():
    assert set(DATASETS.split(", ")) == set(NAMES)
    for name in NAMES:
        assert find_check(name)[1].title


def test_the_installed_command_has_both_groups():
    command = Path(sys.executable).with_name("handnet")
    listed = subprocess.run([command, "--help"], capture_output=True, text=True, check=True, timeout=120).stdout
    for group in ("hand", "data", "predict"):
        assert group in listed


def test_evidence_measures_what_it_says():
    """Against loops over keypoints: published 2D off by a known vector, a box and a mask that hold a known part."""
    sample = make_sample(3, num_hands=2, size=(224, 224))
    masks = np.zeros((224, 224), np.uint8)
    masks[:, :112] = 1
    masks[:, 120:] = 2
    sample = replace(sample, mask=masks, mask_source="published")
    shift = np.array([3.0, 4.0])
    published = []
    for hand in sample.hands:
        keypoints = hand.keypoints_px + shift
        keypoints[0] = np.nan
        published.append(Published(keypoints_px=keypoints, box_px=np.array([0, 0, 112, 224])))
    evidence = Evidence()
    evidence.add(sample, published)
    errors, boxes, on_masks = [], [], []
    for number, hand in enumerate(sample.hands):
        projected = project(hand.K, hand.keypoints_m)
        for k in range(21):
            x, y = hand.keypoints_px[k]
            if not hand.visible[k]:
                continue
            if k:
                errors.append(np.linalg.norm(projected[k] - published[number].keypoints_px[k]))
            boxes.append(-3 <= x <= 115 and -3 <= y <= 227)
            nearest = min(max(x, 0), 223.999), min(max(y, 0), 223.999)
            on_masks.append(int(nearest[0]) < 112 + 3 if number == 0 else int(nearest[0]) >= 120 - 3)
    assert evidence.projection.max_px < 1e-3
    assert evidence.published.count == len(errors)
    assert evidence.published.mean_px == pytest.approx(np.mean(errors))
    assert evidence.published.max_px == pytest.approx(max(errors))
    assert (evidence.in_box.count, evidence.in_box.inside) == (len(boxes), sum(boxes))
    assert (evidence.on_mask.count, evidence.on_mask.inside) == (len(on_masks), sum(on_masks))
    assert 0 < sum(boxes) < len(boxes)
    assert 0 < sum(on_masks) < len(on_masks)
