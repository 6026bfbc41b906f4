"""The compose stage: the same bytes whatever the workers, and a killed run that goes on where it was."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from fake_samples import folder_bytes
from painted_hands import build_painted
from ruamel.yaml import YAML

from pipelines import compose as stage
from pipelines.config import ComposeConfig, load_params
from pipelines.datasets.sample import DataError
from pipelines.shards import ShardReader

ROOT = Path(__file__).parents[1]
NUM_SCENES = {"train": 100, "eval": 8}


def section(**changes) -> ComposeConfig:
    values = load_params(ROOT / "params.yaml").compose.model_dump()
    for name, part in values.items():
        part.update(num_scenes=NUM_SCENES[name], scenes_per_shard=5, canvas_px=128, hand_px=(24, 80), **changes)
    return ComposeConfig(**values)


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A project folder with params.yaml and painted single hands."""
    folder = tmp_path_factory.mktemp("project")
    for split in ("train", "eval"):
        build_painted(folder / "data", split)
    yaml = YAML(typ="safe", pure=True)
    tree = yaml.load((ROOT / "params.yaml").read_text())
    tree["compose"] = json.loads(section().model_dump_json())
    with (folder / "params.yaml").open("w") as stream:
        yaml.dump(tree, stream)
    return folder


@pytest.fixture(scope="module")
def reference(project, tmp_path_factory) -> dict[str, bytes]:
    """The bytes of the training scenes, made in one go by one process."""
    folder = tmp_path_factory.mktemp("reference")
    (folder / "ingest").symlink_to(project / "data/ingest")
    return folder_bytes(stage.compose("train", section(), data=folder, num_workers=1))


def start(project: Path, name: str, workers: int) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HANDNET_WORKERS": str(workers)}
    command = [sys.executable, "-m", "pipelines.compose", name]
    return subprocess.Popen(command, cwd=project, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)


def run(project: Path, name: str, workers: int = 1) -> tuple[int, str]:
    process = start(project, name, workers)
    _, errors = process.communicate(timeout=300)
    return process.returncode, errors


def wait_for(process: subprocess.Popen, condition) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)


def more_stats(work: Path, num: int):
    """Whether more than `num` shards are finished."""
    return lambda: len(list(work.glob("stats/*.json"))) > num


def remove(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def test_killed_at_any_moment_no_half_shard_is_left_and_work_goes_on(project, reference):
    work, target = project / "data/scenes/train.partial", project / "data/scenes/train"
    rng = random.Random(0)
    finished: dict[str, int] = {}
    for attempt in range(4):
        process = start(project, "train", 2)
        if attempt:  # the first one dies while it starts
            wait_for(process, more_stats(work, len(finished)))
        time.sleep(rng.uniform(0, 0.15))
        process.kill()
        process.communicate(timeout=300)
        assert not target.exists(), "the run was over before it could be killed"
        for path in work.glob("shards/shard-*.tar"):
            assert path.read_bytes() == reference[path.name]
        times = {path.name: path.stat().st_mtime_ns for path in work.glob("shards/*.tar") if (work / f"stats/{path.stem}.json").exists()}
        assert {name: times[name] for name in finished} == finished  # what was finished is not made again
        finished = times
    assert 3 <= len(finished) < NUM_SCENES["train"] // 5
    code, errors = run(project, "train")
    assert code == 0, errors
    assert {name: (target / name).stat().st_mtime_ns for name in finished} == finished
    assert folder_bytes(target) == reference
    assert not work.exists()
    remove(target)


def test_interrupted_and_continued_equals_uninterrupted(project, reference):
    work, target = project / "data/scenes/train.partial", project / "data/scenes/train"
    process = start(project, "train", 2)
    wait_for(process, more_stats(work, 1))
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "interrupted; finished shards are kept" in errors
    assert "Traceback" not in errors
    assert not target.exists(), "the run was over before it could be interrupted"

    code, errors = run(project, "train")
    assert code == 0, errors
    assert folder_bytes(target) == reference
    assert not work.exists()

    times = {path.name: path.stat().st_mtime_ns for path in target.iterdir()}
    code, errors = run(project, "train")
    assert code == 0
    assert "unchanged" in errors
    assert {path.name: path.stat().st_mtime_ns for path in target.iterdir()} == times
    remove(target)


def test_statistics_describe_the_scenes(project, reference):
    stats = json.loads(reference["stats.json"])
    manifest = json.loads(reference["manifest.json"])
    assert sum(stats["hands_per_image"].values()) == NUM_SCENES["train"] == sum(stats["hands_pasted"].values())
    assert sum(int(n) * count for n, count in stats["hands_per_image"].items()) == manifest["num_hands"]
    assert sum(stats["side"].values()) == manifest["num_hands"] == sum(stats["box_px"].values())
    assert set(stats["side"]) == {"left", "right"}
    assert sum(stats["visible_percent"].values()) == sum(int(n) * count for n, count in stats["hands_pasted"].items())
    assert manifest["dataset"] == "scenes/procedural"
    assert list(manifest["sources"]) == ["procedural/train"]


def test_eval_scenes_come_from_eval_hands_only(project):
    section_ = section()
    folder = stage.compose("eval", section_, data=project / "data", num_workers=1)
    reader = ShardReader(folder)
    assert list(reader.manifest.sources) == ["procedural/eval"]
    allowed = set((project / "data/ingest/procedural/eval/source_ids.txt").read_text().split())
    used = set((folder / "source_ids.txt").read_text().split())
    assert used
    assert used <= allowed
    assert {hand.source_id for i in range(len(reader)) for hand in reader.read(i, labels_3d=False).hands} == used


def test_changed_sources_make_scenes_anew(tmp_path):
    build_painted(tmp_path, "train", num_samples=4)
    config = section(whole_first_fraction=1.0)
    plan = stage.make_plan("train", config.train, tmp_path)
    folder = stage.compose("train", config, data=tmp_path, num_workers=1)
    first = folder_bytes(folder)
    build_painted(tmp_path, "train", num_samples=6)
    changed = stage.make_plan("train", config.train, tmp_path)
    assert changed.fingerprint != plan.fingerprint
    stage.compose("train", config, data=tmp_path, num_workers=1)
    assert folder_bytes(folder) != first


def test_background_folders_are_part_of_the_configuration(tmp_path):
    build_painted(tmp_path, "train", num_samples=4)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    mix = {"generated": 0.0, "sources": 0.0, "folder": 1.0}
    config = section(backgrounds_dir=str(pictures), backgrounds=mix, whole_first_fraction=0.0, empty_fraction=1.0)
    with pytest.raises(DataError, match=r"backgrounds_dir: .*no image below it"):
        stage.compose("train", config, data=tmp_path)
    fingerprints = set()
    for shade in (50, 200):
        cv2.imwrite(str(pictures / "a.png"), np.full((64, 64, 3), shade, np.uint8))
        fingerprints.add(stage.make_plan("train", config.train, tmp_path).fingerprint)
        scene = stage.make_plan("train", config.train, tmp_path).open_source().sample(0)
        assert abs(int(scene.image.mean()) - shade) <= 1
    assert len(fingerprints) == 2


def test_missing_source_and_bad_arguments_are_one_line(tmp_path):
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    code, errors = run(tmp_path, "train")
    assert code == 1
    assert errors.startswith("error: data/ingest/procedural/train/manifest.json: not found")
    assert errors.count("\n") == 1
    code, errors = run(tmp_path, "test")
    assert code == 2
    assert errors == "usage: python -m pipelines.compose train|eval\n"
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text().replace("feather_px: 1.0", "feather_px: soft"))
    code, errors = run(tmp_path, "train")
    assert code == 2
    assert "compose.train.feather_px" in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "data").exists()
