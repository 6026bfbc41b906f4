"""The ingest stage: every split of a dataset into shards, and one line on stderr for whatever is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_samples import folder_bytes, make_sample, project

from pipelines import ingest as stage
from pipelines.config import IngestConfig, ParamsError, ProceduralConfig, load_params
from pipelines.datasets import registry
from pipelines.datasets.sample import DataError
from pipelines.shards import ShardReader

ROOT = Path(__file__).parents[1]


class FakeDataset:
    """Stands in for the procedural dataset: random labels on noise, identities by split."""

    def __init__(self, config, split):
        self.split = split
        self.offset = 0 if split == "train" else 1000
        self.length = config.num_train if split == "train" else config.num_eval

    def __len__(self):
        return self.length

    def sample(self, index):
        return replace(make_sample(self.offset + index), key=f"{index:08d}")

    def where(self, index):
        return f"{index:08d}", f"rgb/{index:08d}.jpg"


class BrokenDataset(FakeDataset):
    def sample(self, index):
        if index == 3:
            raise DataError("rgb/00000003.jpg: truncated")
        return super().sample(index)


def section(**changes) -> IngestConfig:
    values = load_params(ROOT / "params.yaml").ingest.procedural.model_dump()
    values.update(num_train=7, num_eval=3, samples_per_shard=4, **changes)
    return IngestConfig(procedural=ProceduralConfig(**values))


@pytest.fixture
def fake(monkeypatch):
    adapter = registry.Adapter(factory=f"{__name__}:FakeDataset", splits=lambda config: ("train", "eval"))
    monkeypatch.setitem(registry.ADAPTERS, "procedural", adapter)
    monkeypatch.setattr(registry.Adapter, "code_paths", lambda self: [])


def test_every_split_becomes_a_folder_of_shards(tmp_path, fake):
    folders = stage.ingest("procedural", section(), data=tmp_path, num_workers=1)
    assert folders == [tmp_path / "ingest/procedural/train", tmp_path / "ingest/procedural/eval"]
    train, evaluation = (ShardReader(folder) for folder in folders)
    assert (len(train), len(evaluation)) == (7, 3)
    assert train.manifest.dataset == "procedural"
    assert evaluation.manifest.split == "eval"
    assert train.manifest.config["num_train"] == 7
    assert evaluation.read(2, labels_3d=True).hands[0].source_id == "fake/1002-0"
    assert sorted(path.name for path in (tmp_path / "ingest").iterdir()) == ["procedural"]  # nothing half-made is left


def test_a_second_run_changes_nothing_and_another_seed_everything(tmp_path, fake, capfd):
    folders = stage.ingest("procedural", section(), data=tmp_path, num_workers=1)
    before = [{p.name: p.stat().st_mtime_ns for p in folder.iterdir()} for folder in folders]
    stage.ingest("procedural", section(), data=tmp_path, num_workers=1)
    assert [{p.name: p.stat().st_mtime_ns for p in folder.iterdir()} for folder in folders] == before
    assert "unchanged" in capfd.readouterr().err
    stage.ingest("procedural", section(seed=5), data=tmp_path, num_workers=1)
    assert ShardReader(folders[0]).manifest.config["seed"] == 5


def test_damaged_source_is_named_and_the_good_shards_stay(tmp_path, fake, monkeypatch):
    broken = registry.Adapter(factory=f"{__name__}:BrokenDataset", splits=lambda config: ("train", "eval"))
    good = registry.ADAPTERS["procedural"]
    monkeypatch.setitem(registry.ADAPTERS, "procedural", broken)
    with pytest.raises(DataError, match=r"rgb/00000003\.jpg: truncated"):
        stage.ingest("procedural", section(), data=tmp_path, num_workers=1)
    assert not (tmp_path / "ingest/procedural/train").exists()
    monkeypatch.setitem(registry.ADAPTERS, "procedural", good)
    folders = stage.ingest("procedural", section(), data=tmp_path, num_workers=1)
    assert len(ShardReader(folders[0])) == 7


def test_a_dataset_without_parameters_is_named(tmp_path):
    with pytest.raises(ParamsError, match=r"ingest\.procedural: missing"):
        stage.ingest("procedural", IngestConfig(), data=tmp_path)
    with pytest.raises(ParamsError, match=r"ingest\.other: unknown dataset; expected one of .*'procedural'"):
        stage.ingest("other", IngestConfig(), data=tmp_path)


def run_stage(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HANDNET_WORKERS": "1"}
    command = [sys.executable, "-m", "pipelines.ingest", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("image_px: 224", "image_size: 224", "ingest.procedural.image_size: unknown key"),
        ("num_train: 4000", "num_train: many", "ingest.procedural.num_train"),
        ("preset: demo", "preset: [", "not valid YAML"),
        ("canvas_px: 256", "canvas_px: -1", "compose.train.canvas_px"),  # another section's mistake stops it too
    ],
)
def test_bad_params_are_one_line_and_no_work(tmp_path, old, new, message):
    text = (ROOT / "params.yaml").read_text()
    assert old in text
    (tmp_path / "params.yaml").write_text(text.replace(old, new, 1))
    result = run_stage(tmp_path, "procedural")
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_missing_params_and_bad_names_are_one_line(tmp_path):
    for arguments, message in [(("procedural",), "params.yaml: not found"), ((), "usage:"), (("a", "b"), "usage:")]:
        result = run_stage(tmp_path, *arguments)
        assert result.returncode == 2
        assert message in result.stderr
        assert result.stderr.count("\n") == 1


def test_rendered_hands_become_the_same_shards_whatever_the_workers(tmp_path):
    """The real procedural dataset: serial = parallel, bit for bit; train and eval share no identity."""
    changes = {"image_px": 96, "num_train": 4, "num_eval": 2, "samples_per_shard": 2}
    config = IngestConfig(procedural=section().procedural.model_copy(update=changes))
    for workers in (1, 2):
        stage.ingest("procedural", config, data=tmp_path / str(workers), num_workers=workers)
    for split in ("train", "eval"):
        assert folder_bytes(tmp_path / f"1/ingest/procedural/{split}") == folder_bytes(tmp_path / f"2/ingest/procedural/{split}")
    train, evaluation = (ShardReader(tmp_path / "1/ingest/procedural" / split) for split in ("train", "eval"))
    assert not set(train.manifest.identities) & set(evaluation.manifest.identities)
    for index in range(len(train)):
        sample = train.read(index, labels_3d=True)
        (hand,) = sample.hands
        np.testing.assert_allclose(project(hand.K, hand.keypoints_m), hand.keypoints_px, atol=1e-3)
        assert hand.vertices_m is not None
        assert hand.mano is not None
        assert hand.hand_model == "free"
        covered = sample.mask[tuple(np.floor(hand.keypoints_px).astype(int).T[::-1])]
        assert (covered == 1).mean() > 0.8
