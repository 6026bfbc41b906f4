"""The speed stage: both ways handle the same number of hands, times are those of the file, mistakes are one line."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from fake_run import write_run

from handnet.predict import Predictor
from pipelines import speed
from pipelines.config import SpeedConfig
from pipelines.evaluation.frames import middle_frame
from pipelines.reporting.speed import SERIES, read_speed
from pipelines.shards import ShardReader


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write_run(folder)
    return folder


def test_the_stage_writes_what_the_report_reads(run: Path) -> None:
    with contextlib.chdir(run):
        (run / "results/speed.json").unlink()
        assert speed.main([]) == 0
        read = read_speed()
    tree = json.loads((run / "results/speed.json").read_text())
    assert tree["hands"] == [1, 2] == read.hands.tolist()
    assert tree["machine"]["threads"] >= 1
    assert tree["machine"]["cpu"]
    assert tree["machine"]["cpu"] in read.machine
    assert set(SERIES) == set(speed.SERIES)
    for name in speed.SERIES:
        assert len(tree[name]) == 2
        assert min(tree[name]) > 0
        np.testing.assert_array_equal(read.times_ms[name], tree[name])
    ratio = tree["crop_loop_ms"][-1] / tree["one_pass_ms"][-1]
    assert f"at 2 hands the crops take {ratio:.2f} times as long as one pass" in read.finding


def test_one_pass_reconstructs_as_many_hands_as_there_are_crops(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run)
    multi, crop = Predictor.load("models/multi"), Predictor.load("models/crop")
    frame = middle_frame(ShardReader("data/scenes/eval").read(0, labels_3d=False), multi.description.input_px, center_given=False)
    seen: dict[str, list[tuple[int, int]]] = {"multi": [], "crop": []}
    for name, predictor in (("multi", multi), ("crop", crop)):
        dense, reconstruct = predictor.network.dense, predictor.network.reconstruct
        images: list[int] = []

        def counted_dense(pixels, dense=dense, images=images):  # type: ignore[no-untyped-def]
            images.append(len(pixels))
            return dense(pixels)

        def counted(maps, sites, K, reconstruct=reconstruct, images=images, name=name):  # type: ignore[no-untyped-def]
            seen[name].append((images[-1], len(K)))
            return reconstruct(maps, sites, K)

        monkeypatch.setattr(predictor.network, "dense", counted_dense)
        monkeypatch.setattr(predictor.network, "reconstruct", counted)
    centers = speed.peaks_px(multi, frame.image, 3)
    assert centers.shape == (3, 2)
    runs = speed._runs(multi, crop, frame, centers)
    runs["one_pass_ms"]()
    assert seen["multi"] == [(1, 3)]  # (images of the trunk, hands)
    runs["crop_loop_ms"]()
    assert seen["crop"] == [(1, 1)] * 3
    seen["crop"].clear()
    runs["crop_batch_ms"]()
    assert seen["crop"] == [(3, 3)]


def test_times_are_the_least_of_their_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(speed.time, "perf_counter", lambda: clock[0])
    lasts = {"a": iter([9.0, 5.0, 3.0, 4.0]), "b": iter([0.1, 2.0, 2.5, 1.5])}  # the first is the warm-up

    def run(name: str) -> None:
        clock[0] += next(lasts[name])

    best = speed.best_ms({name: lambda name=name: run(name) for name in lasts}, repeats=3)  # type: ignore[misc]
    assert best == pytest.approx({"a": 3000.0, "b": 1500.0})


def test_mistakes(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert speed.main(["multi"]) == 2
    before = (run / "params.yaml").read_text()
    (run / "params.yaml").write_text(before.replace("speed:\n  data: scenes/eval", "speed:\n  data: scenes/other"))
    with contextlib.chdir(run):
        assert speed.main([]) == 2
    (run / "params.yaml").write_text(before)
    assert "speed.data: expected one of" in capsys.readouterr().err
    with pytest.raises(ValueError, match="ascending"):
        SpeedConfig(data="scenes/eval", hands=[2, 1], repeats=1)
