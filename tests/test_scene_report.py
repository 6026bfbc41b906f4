"""The scenes' report: its figures are those of the shards, it stands alone, and it changes no shard."""

from __future__ import annotations

import json
import re

import cv2
import numpy as np
import pytest
from fake_samples import folder_bytes
from painted_hands import build_painted
from test_executors_cluster import section

from pipelines import compose as stage
from pipelines.scene_report.charts import histogram, mean
from pipelines.scene_report.page import contact_sheet, labelled
from pipelines.shards import ShardReader


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    build_painted(folder, "train")
    stage.compose("train", section(30), data=folder, num_workers=1)
    return folder


def test_the_page_stands_alone_and_tells_the_figures(data):
    folder = data / "scene_reports/train"
    page = (folder / "index.html").read_text()
    manifest = json.loads((data / "scenes/train/manifest.json").read_text())
    assert f"30 scenes of 128 px from procedural/train: {manifest['num_hands']:,} labelled hands" in page
    assert page.count("<svg") == 7 == len(list(folder.glob("*.png")))
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert len(set(re.findall(r'\bid="([^"]+)"', page))) == len(re.findall(r'\bid="([^"]+)"', page))
    assert cv2.imread(str(folder / "scenes.jpg")).shape[1] > 1000


def test_counts_agree_with_the_shards(data):
    reader = ShardReader(data / "scenes/train")
    scenes = [reader.read(index, labels_3d=False) for index in range(30)]
    counts = json.loads((data / "scenes/train/stats.json").read_text())
    assert mean(counts, "hands_per_image") == pytest.approx(np.mean([len(scene.hands) for scene in scenes]))
    assert sum(counts["background"].values()) == 30
    cells = np.zeros((8, 8), int)
    for hand in (hand for scene in scenes for hand in scene.hands):
        x, y = (hand.box_px[:2] + hand.box_px[2:]) / 2
        cells[min(max(int(y // 16), 0), 7), min(max(int(x // 16), 0), 7)] += 1
    assert counts["center_cell"] == {f"{r},{c}": cells[r, c] for r, c in np.argwhere(cells)}
    visible = histogram(counts, "visible_keypoints", 22)
    assert visible.tolist() == np.bincount([hand.visible.sum() for scene in scenes for hand in scene.hands], minlength=22).tolist()


def test_the_same_shards_give_the_same_report_and_stay_as_they_are(data):
    shards, report = folder_bytes(data / "scenes/train"), folder_bytes(data / "scene_reports/train")
    (data / "scene_reports/train/old.png").write_bytes(b"of an earlier version")
    stage.compose("train", section(30), data=data, num_workers=1)
    assert folder_bytes(data / "scenes/train") == shards
    assert folder_bytes(data / "scene_reports/train") == report


def test_the_sheet_shows_scenes_beside_their_labels(data):
    reader = ShardReader(data / "scenes/train")
    scene = next(s for s in (reader.read(i, labels_3d=False) for i in range(30)) if s.hands)
    drawn = labelled(scene)
    assert drawn.shape == (320, 320, 3)
    plain = cv2.resize(scene.image, (320, 320), interpolation=cv2.INTER_CUBIC)
    changed = np.abs(drawn.astype(int) - plain).max(-1) > 30
    on_hand = cv2.resize(scene.mask, (320, 320), interpolation=cv2.INTER_NEAREST) > 0
    assert changed[on_hand].mean() > 0.5
    assert contact_sheet([scene] * 3).shape[0] > 640
