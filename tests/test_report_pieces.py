"""The pieces of the report: which rows it picks, stages of the graph, charts, overlays, words."""

from __future__ import annotations

import io
import re
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from fake_hands import FakePrediction, make_crops, make_scenes, truth, write_shards
from PIL import Image
from ruamel.yaml import YAML

from handnet.hand.layer import HandLayer
from pipelines.config import EvaluationConfig, load_params
from pipelines.datasets.sample import HandSample
from pipelines.drawing import INSTANCE_COLORS, SIDE_COLORS
from pipelines.evaluation.frames import frames_of
from pipelines.evaluation.predicted import PredictedHands
from pipelines.plotting import OURS
from pipelines.progress import Progress
from pipelines.reporting import facts
from pipelines.reporting.charts import loss_chart, pck_chart, running_mean, term_chart
from pipelines.reporting.content import Evaluation, bold_best, meta_lines, number_of
from pipelines.reporting.figures import pck_charts
from pipelines.reporting.overlays import MIN_SIDE_PX, PAPER, MeshPainter
from pipelines.reporting.pictures import Cell, PictureTable, Row, evenly_spaced
from pipelines.reporting.predictions import PredictionTable, image_caption, ranked
from pipelines.reporting.stages import maker_of, read_stages
from pipelines.shards import ShardReader
from pipelines.summary import ROWS

ROOT = Path(__file__).parents[1]


# which rows


@pytest.mark.parametrize(("total", "num"), [(1, 1), (3, 5), (10, 3), (400, 12), (7, 7), (0, 2)])
def test_evenly_spaced_indices(total: int, num: int) -> None:
    indices = evenly_spaced(total, num)
    assert len(indices) == len(set(indices)) == min(total, num)
    assert indices == sorted(indices)
    assert all(0 <= i < total for i in indices)
    steps = np.diff(indices)
    assert not len(steps) or steps.max() - steps.min() <= 1


def test_ranks_are_the_best_the_median_and_the_worst() -> None:
    errors = np.array([0.5, np.nan, 0.1, 0.9, 0.3, 0.2, 0.4, 0.8, 0.7, 0.6])  # nine measured hands
    shown = ranked(errors, 6)
    assert [rank for rank, _ in shown] == ["best"] * 2 + ["median"] * 2 + ["worst"] * 2
    by_error = sorted((float(error), row) for row, error in enumerate(errors) if np.isfinite(error))
    assert [row for _, row in shown[:2]] == [row for _, row in by_error[:2]]
    assert [row for _, row in shown[4:]] == [row for _, row in by_error[-2:]]
    assert by_error[4][1] in [row for _, row in shown[2:4]]  # the median itself
    assert len({row for _, row in shown}) == 6


def test_few_hands_are_all_shown_once() -> None:
    assert [row for _, row in ranked(np.array([0.3, np.nan, 0.1]), 6)] == [2, 0]
    assert ranked(np.array([np.nan]), 6) == []
    shown = [row for _, row in ranked(np.array([0.2, 0.1, 0.3, 0.4]), 12)]
    assert (shown[0], shown[-1]) == (1, 3)
    assert len(set(shown)) == len(shown) == 3


# stages of the graph


def params_tree() -> dict:
    return YAML(typ="safe", pure=True).load((ROOT / "pipelines/presets/demo.yaml").read_text())


def test_stages_are_named_as_dvc_names_them() -> None:
    stages = read_stages(params_tree(), ROOT / "dvc.yaml")
    names = [stage.name for stage in stages]
    assert {"ingest@procedural", "compose@train", "compose@eval", "train_crop", "evaluate@multi", "submit@freihand", "report"} <= set(names)
    assert len(set(names)) == len(names)
    assert not [stage for stage in stages if "${" in " ".join([stage.command, stage.description, *stage.outs])]
    evaluate = next(stage for stage in stages if stage.name == "evaluate@multi")
    assert evaluate.command == "python -m pipelines.evaluate multi"
    assert set(evaluate.outs) == {"results/multi", "metrics/multi.json"}


def test_a_file_is_traced_to_its_stage(tmp_path: Path) -> None:
    graph = tmp_path / "dvc.yaml"
    graph.write_text(
        "stages:\n  make:\n    foreach: ${things}\n    do:\n      cmd: make ${key} ${item.size}\n      outs: ['out/${key}']\n"
        "  sum:\n    cmd: sum\n    outs: [total]\n    metrics:\n      - sum.json: {cache: false}\n"
    )
    stages = read_stages({"things": {"a": {"size": 1}, "b": None}}, graph)
    assert [(stage.name, stage.command) for stage in stages] == [("make@a", "make a 1"), ("sum", "sum")]
    assert maker_of(Path("out/a/b/c"), stages) == "make@a"
    assert maker_of(Path("sum.json"), stages) == "sum"
    assert maker_of(Path("out/ab"), stages) is None
    graph.write_text("stages:\n  make:\n    cmd: make ${nothing}\n")
    with pytest.raises(ValueError, match=r"dvc\.yaml: .*nothing"):
        read_stages({}, graph)
    with pytest.raises(ValueError, match="not found"):
        read_stages({}, tmp_path / "none.yaml")


def test_the_revision_is_that_of_the_projects_own_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
        return subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert facts.git_revision() is None
    git("init", "--quiet")
    assert facts.git_revision() is None  # no commit
    (tmp_path / "params.yaml").write_text("a: 1\n")
    git("add", "params.yaml")
    git("commit", "--quiet", "--message=Start")
    revision = git("rev-parse", "HEAD")[:12]
    (tmp_path / "notes.txt").write_text("not code")
    assert facts.git_revision() == revision
    (tmp_path / "params.yaml").write_text("a: 2\n")
    assert facts.git_revision() == f"{revision}, with uncommitted changes"
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")
    assert facts.git_revision() is None


def test_sizes_for_people() -> None:
    assert [facts.size_text(n) for n in (0, 999, 1000, 9_140_000, 2_000_000_000)] == ["0 bytes", "999 bytes", "1.0 kB", "9.1 MB", "2.0 GB"]


# charts


def test_running_mean_against_a_loop() -> None:
    values = np.random.default_rng(0).normal(size=73)
    half = len(values) // 20
    expected = [np.mean(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]
    np.testing.assert_allclose(running_mean(values), expected)


def curve(num: int = 20) -> dict[str, np.ndarray]:
    return {"step": np.arange(1.0, num + 1) * 10, "value": np.exp(-np.arange(float(num)))}


def test_charts_take_the_pages_colours_and_share_no_ids() -> None:
    x = np.linspace(0, 50, 11)
    columns = {"threshold_mm": x, "ours": x / 50, "mean_hand": x / 60}
    pck = pck_chart("a", "PCK", "threshold_mm", columns, label="mm", area={"ours": 0.54321})
    charts = [pck, loss_chart("b", "total loss", curve()), term_chart("c", "bones", curve(2)), term_chart("d", "bones", curve(1))]
    ids = [set(re.findall(r'\bid="([^"]+)"', chart.svg)) for chart in charts]
    assert len(set.union(*ids)) == sum(map(len, ids))
    for chart, own in zip(charts, ids, strict=True):
        assert set(re.findall(r'(?:url\(|href=")#([^")]+)', chart.svg)) <= own
        assert "var(--ours)" in chart.svg
        assert OURS not in chart.svg
        assert "http" not in chart.svg
        assert "<style" not in chart.svg
        assert "viewBox" in chart.svg
        assert not re.search(r"<svg[^>]*(width|height)=", chart.svg)
        assert chart.alt
    assert "var(--mean)" in pck.svg
    assert "ours, AUC 0.543" in pck.svg
    assert Image.open(io.BytesIO(pck.png)).format == "PNG"


def test_no_curve_where_nothing_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "results/crop"
    folder.mkdir(parents=True)
    (folder / "pck.csv").write_text("threshold_mm,ours,mean_hand\n0,0,0\n50,0,0\n")
    (folder / "pck_vertices.csv").write_text("threshold_mm,ours,mean_hand\n0,0,0\n50,0.5,0\n")
    (folder / "pck_2d.csv").write_text("threshold_fraction,ours,mean_hand\n0,0,0\n0.5,0.9,0.5\n")
    assert [chart.name for chart in pck_charts("crop", {})] == ["pck-vertices-crop", "pck-2d-crop"]


# words


def evaluation(**changes: object) -> EvaluationConfig:
    config = load_params(ROOT / "pipelines/presets/tiny.yaml").evaluate["multi"]
    return config.model_copy(update=changes)


def test_verdicts() -> None:
    rows = {row.name: row for row in ROWS}
    ours = {"recall": 0.8, "error_2d_px": 3.0, "pa_mpvpe_mm": 2.5, "ap": 0.5, "auc": 0.8}
    figures = {"ours": ours, "mean_hand": {"recall": 0.7, "error_2d_px": 2.0, "pa_mpvpe_mm": 2.5, "auc": 0.7}}
    auc, error, equal, recall, ap = (number_of(rows[name], figures) for name in ("auc", "error_2d_px", "pa_mpvpe_mm", "recall", "ap"))
    assert [auc.verdict, error.verdict, equal.verdict] == ["better", "worse", "equal"]
    assert [recall.verdict, ap.verdict] == ["", ""]  # the mean hand detects nothing itself
    assert (bold_best(auc, "ours"), bold_best(auc, "mean_hand")) == ("**0.800**", "0.700")
    assert (bold_best(recall, "ours"), bold_best(recall, "mean_hand")) == ("80.0%", "70.0%")
    assert (bold_best(error, "ours"), bold_best(error, "mean_hand")) == ("3.00", "**2.00**")
    assert bold_best(ap, "mean_hand") == "–"
    assert not number_of(rows["f15"], figures).ours


def test_an_evaluation_that_found_nothing_can_be_told() -> None:
    empty = Evaluation(name="multi", config=evaluation(), figures={"ours": {}, "mean_hand": {}, "count": {"images": 4, "hands": 1}})
    assert empty.headline == []
    assert "0 of 1 hand measured in 4 images" in empty.setting


def test_captions_count_what_the_table_has() -> None:
    hands = {
        "key": np.array(["a", "a", "b"]),
        "found": np.array([True, False, False]),
        "error_2d_fraction": np.array([0.125, np.nan, np.nan]),
    }
    assert image_caption(hands, "a") == "1 of 2 labelled hands found, 2D error 12.5% of hand size"
    assert image_caption(hands, "b") == "0 of 1 labelled hand found"
    assert image_caption(hands, "c") == "no labelled hand"


def test_long_lists_of_a_package_are_counted() -> None:
    meta = {"a": [1, 2], "b": list(range(1000)), "c": {"d": None, "e": True}, "f": []}
    assert dict(meta_lines(meta)) == {"a": "1, 2", "b": "1,000 entries", "c.d": "", "c.e": "yes", "f": "0 entries"}


# pictures


def test_a_sheet_holds_every_picture() -> None:
    def cell(value: int) -> Cell:
        return Cell(image=np.full((100, 100, 3), value, np.uint8), alt="")

    rows = tuple(Row(name=f"{i}", caption="a very long caption " * 20, cells=(cell(10 + 60 * i), cell(40 + 60 * i))) for i in range(3))
    table = PictureTable(name="t", alt="", columns=("one", "two"), rows=rows, rows_abreast=2)
    sheet = np.asarray(Image.open(io.BytesIO(table.sheet()))).mean(-1)
    for value in (10, 40, 70, 100, 130, 160):
        assert (np.abs(sheet - value) < 3).mean() > 0.08
    assert (sheet[:, -4:] > 250).all()


def in_greys(samples: Sequence[HandSample]) -> list[HandSample]:
    """Each sample in a grey of its own, so that a predictor can tell which one it is shown."""
    return [replace(sample, image=np.full_like(sample.image, 40 + 25 * i)) for i, sample in enumerate(samples)]


class TruthPredictor:
    """Predicts the labels themselves, as seen in the frame it is shown; half red, a quarter green and an eighth blue."""

    def __init__(self, samples: Sequence[HandSample], config: EvaluationConfig, input_px: int) -> None:
        self.samples, self.config = samples, config
        self.description = SimpleNamespace(input_px=input_px, provenance={})
        self.network = SimpleNamespace(config=SimpleNamespace(texture=True))
        self.layer = HandLayer()

    def predict(self, images: np.ndarray, K: np.ndarray, centers_px: object, *, score_threshold: float) -> list[list[FakePrediction]]:
        sample = min(self.samples, key=lambda sample: abs(float(sample.image.mean()) - float(images.mean())))
        given = {"model": self.config.model, "centers": self.config.centers, "definition": "keypoints"}
        (frame,) = frames_of(sample, sample.hands, self.description.input_px, **given)  # type: ignore[arg-type]
        np.testing.assert_array_equal(frame.K, K[0])
        assert (centers_px is None) == (self.config.centers == "predicted")
        albedo, light = np.full((778, 3), 0.5, np.float32), np.zeros(27, np.float32)
        light[::9] = np.array([1, 0.5, 0.25]) / 0.886
        return [[replace(truth(hand, frame.affine, frame.K), albedo=albedo, light=light) for hand in sample.hands]]


def label_mask(sample: HandSample, layer: HandLayer, zoom: float) -> np.ndarray:
    """Pixels that the labelled meshes cover, filled triangle by triangle."""
    mask = np.zeros([round(side * zoom) for side in sample.image.shape[:2]], np.uint8)
    for hand in sample.hands:
        assert hand.vertices_m is not None
        pixels = hand.vertices_m @ hand.K.T
        corners = (pixels[:, :2] / pixels[:, 2:] * zoom)[layer.both_faces[hand.side].numpy()]
        for triangle in corners:
            cv2.fillConvexPoly(mask, np.round((triangle - 0.5) * 16).astype(np.int32), 1, cv2.LINE_8, 4)
    return mask > 0


@pytest.mark.parametrize("single", [True, False])
def test_pictures_of_true_predictions_cover_the_labelled_hands(single: bool, tmp_path: Path) -> None:
    samples = make_crops(4, 5) if single else make_scenes(4, 6)
    samples = in_greys([sample for sample in samples if sample.hands])
    write_shards(tmp_path / "set", samples)
    reader = ShardReader(tmp_path / "set")
    config = evaluation(model="crop", centers="true") if single else evaluation()
    table = PredictionTable("x", config, reader, TruthPredictor(samples, config, 64))  # type: ignore[arg-type]
    num = sum(len(sample.hands) for sample in samples)
    hands = {
        "key": np.array([f"{i:06d}" for i, sample in enumerate(samples) for _ in sample.hands]),
        "hand": np.array([n for sample in samples for n in range(len(sample.hands))]),
        "found": np.ones(num, bool),
        "error_2d_fraction": np.linspace(0.1, 0.2, num),
        "pa_mpjpe_mm": np.linspace(10, 20, num),
        "mean_hand_error_2d_fraction": np.linspace(0.2, 0.3, num),
    }
    with Progress("test", 10) as progress:
        pictures = (table.of_hands if single else table.of_images)(hands, 3, progress)
    assert len(pictures.rows) == 3
    for row in pictures.rows:
        sample = samples[int(re.search(r"\d{6}", row.caption)[0])]  # type: ignore[index]
        shown = {name: cell.image.astype(int) for name, cell in zip(pictures.columns, row.cells, strict=True)}
        if single:  # predicted are the labels themselves
            np.testing.assert_array_equal(shown.pop("labelled mesh"), shown["predicted mesh"])
        plain, masks, keypoints, mesh, texture, turned = shown.values()
        zoom = plain.shape[0] / sample.image.shape[0]
        assert min(plain.shape[:2]) >= MIN_SIDE_PX
        assert all(picture.shape == plain.shape for picture in (masks, keypoints, mesh, texture, turned))
        expected = label_mask(sample, table.painter.layer, zoom)
        painted = (texture != PAPER).any(-1)
        for found in (painted, np.ptp(masks, axis=-1) > 60, (np.abs(mesh - plain) > 8).any(-1)):
            assert (found & expected).sum() / (found | expected).sum() > 0.93
        # seen from its side a hand is elsewhere than from the front, around the same middle
        side_on = (turned != PAPER).any(-1)
        assert 0.2 * painted.sum() < side_on.sum() < 1.5 * painted.sum()
        assert (side_on != painted).sum() > 0.2 * painted.sum()
        np.testing.assert_allclose(np.argwhere(side_on).mean(0), np.argwhere(painted).mean(0), atol=0.1 * plain.shape[0])
        assert row.meshes is not None
        assert row.meshes.colors is not None
        assert len(row.meshes.hands) == len(sample.hands) == len(row.meshes.colors)
        # half red, a quarter green, an eighth blue: the albedo under its light
        np.testing.assert_allclose(np.median(texture[painted], axis=0), [127.5, 63.75, 31.9], atol=2)
        for hand in sample.hands:
            x, y = (hand.keypoints_px.mean(0) * zoom).astype(int)
            color = mesh[y - 4 : y + 4, x - 4 : x + 4].mean((0, 1))
            assert (color[0] > color[2]) == (SIDE_COLORS[hand.side][0] > SIDE_COLORS[hand.side][2])
            changed = (np.abs(keypoints - plain) > 30).any(-1)
            for point in hand.keypoints_px * zoom:
                column, line = np.clip(point.astype(int), 2, plain.shape[0] - 3)
                assert changed[line - 2 : line + 3, column - 2 : column + 3].any()


def test_nothing_found_leaves_the_picture_as_it_is(tmp_path: Path) -> None:
    write_shards(tmp_path / "set", make_scenes(1, 6))
    predictor = SimpleNamespace(
        description=SimpleNamespace(input_px=64, provenance={}),
        network=SimpleNamespace(config=SimpleNamespace(texture=False)),
        layer=HandLayer(),
        predict=lambda *_, **__: [[]],
    )
    table = PredictionTable("x", evaluation(), ShardReader(tmp_path / "set"), predictor)  # type: ignore[arg-type]
    nothing = {"key": np.array([]), "hand": np.array([]), "found": np.array([]), "error_2d_fraction": np.array([])}
    with Progress("test", 1) as progress:
        pictures = table.of_images(nothing, 2, progress)
    (row,) = pictures.rows
    assert row.caption == "000000: no labelled hand, 0 detections"
    assert len(row.cells) == len(pictures.columns) == 5  # no texture
    plain, masks, keypoints, mesh, turned = (cell.image for cell in row.cells)
    assert (turned == PAPER).all()
    np.testing.assert_array_equal(keypoints, plain)
    np.testing.assert_array_equal(mesh, plain)
    assert np.ptp(masks, axis=-1).max() <= 1


def test_the_nearer_hand_hides_the_other() -> None:
    scene = make_scenes(4, 6)[3]
    near = scene.hands[0]
    assert near.vertices_m is not None
    assert near.keypoints_m is not None
    two = np.zeros(2)
    hands = PredictedHands(
        side=np.array([near.side, near.side]),
        score=two,
        center_px=np.zeros((2, 2)),
        keypoints_px=np.stack([near.keypoints_px] * 2).astype(np.float64),
        keypoints_m=np.stack([near.keypoints_m, near.keypoints_m * 1.2]),
        vertices_m=np.stack([near.vertices_m, near.vertices_m * 1.2]),  # the same pixels, farther away
        K=np.stack([scene.K, scene.K]),
        frame_px=two,
    )
    for order in (np.array([0, 1]), np.array([1, 0])):
        swapped = replace(hands, vertices_m=hands.vertices_m[order])
        masks = MeshPainter(HandLayer()).masks(scene.image, swapped).astype(int)
        covered = [(np.abs(masks - np.array(color)).sum(-1) < 60).sum() for color in INSTANCE_COLORS[:2]]
        assert covered[order[0]] > 1000
        assert covered[order[1]] == 0
