"""Each dataset's protocol from the layout its owners publish to its figures, with a small untrained network, against plain loops."""

from __future__ import annotations

import json
from io import StringIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from fake_hands import make_crops, write_shards
from official_layouts import write_freihand, write_ho3d
from official_layouts_egohands import write_egohands
from official_layouts_interhand import write_interhand
from official_layouts_rhd import write_rhd
from painted_hands import skeleton_m
from ruamel.yaml import YAML
from scipy.spatial.distance import cdist
from test_evaluation_stages import write_model

from handnet.metrics import SIGMAS
from handnet.predict import Predictor
from handnet.rendering import zbuffer
from handnet.skeleton import STD_TO_HO3D
from pipelines import evaluate
from pipelines.config import load_params
from pipelines.datasets.registry import find_adapter
from pipelines.datasets.sample import MASK_IGNORE
from pipelines.evaluation.frames import Frame, frames_of
from pipelines.evaluation.labels import is_measurable
from pipelines.evaluation.predicted import gather
from pipelines.evaluation.silhouettes import overlap
from pipelines.preset import preset_path
from pipelines.shards import ShardReader

PAPER = ("paper-freihand", "paper-ho3d", "paper-rhd", "paper-interhand", "paper-egohands")
WRITERS = {"freihand": write_freihand, "ho3d": write_ho3d, "rhd": write_rhd, "egohands": write_egohands}
TRUTH = Path("datasets/HO3D_v2_truth")


def write_params() -> None:
    """The tiny preset with the datasets and the evaluations of the paper's presets."""
    trees = [YAML(typ="safe").load(preset_path(name).read_text()) for name in PAPER]
    params = YAML(typ="safe").load(preset_path("tiny").read_text())
    params["evaluate"] = {}
    for tree in trees:
        params["ingest"] |= {name: own | {"path": f"datasets/{name}", "max_quarantined": 0.0} for name, own in tree["ingest"].items()}
        params["evaluate"] |= tree["evaluate"]
    params["ingest"]["ho3d"]["val_sequences"] = ["SM2"]
    for own in params["evaluate"].values():
        # an untrained network sees hands everywhere and nowhere: let all of them count, matched or not
        own |= {"mean_hand_data": "ingest/procedural/train", "batch_size": 3, "score_threshold": 0.0, "min_similarity": 1e-300}
    text = StringIO()
    YAML().dump(params, text)
    Path("params.yaml").write_text(text.getvalue())


def write_ho3d_truth() -> None:
    """What HO3D's owners publish for the evaluation frames of the fixture: MANO's joint order, OpenGL's axes."""
    rng = np.random.default_rng(5)
    joints = [skeleton_m(np.random.default_rng((2, frame))) + np.array([0.03, 0.05, 0.6]) for frame in range(2)]
    vertices = [own[rng.integers(0, 21, 778)] + rng.normal(0, 0.01, (778, 3)) for own in joints]
    TRUTH.mkdir(parents=True)
    (TRUTH / "evaluation_xyz.json").write_text(json.dumps([(own * [1, -1, -1])[STD_TO_HO3D].tolist() for own in joints]))
    (TRUTH / "evaluation_verts.json").write_text(json.dumps([(own * [1, -1, -1]).tolist() for own in vertices]))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("protocols")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        write_params()
        write_ho3d_truth()
        config = load_params().ingest
        write_interhand(root / "datasets/interhand", "train")
        write_interhand(root / "datasets/interhand", "test", first_id=100)
        for name, split in (*((name, "eval") for name in (*WRITERS, "interhand")), ("ho3d", "val")):
            if name in WRITERS and not (root / "datasets" / name).exists():
                WRITERS[name](root / "datasets" / name)
            data = find_adapter(name).open(getattr(config, name), split, root / "cache" / name)
            write_shards(
                root / f"data/ingest/{name}/{split}", [data.sample(i) for i in range(min(len(data), 2 if name == "egohands" else 6))]
            )
        write_shards(root / "data/ingest/procedural/train", make_crops(12, seed=1))
        for stage in ("crop", "multi"):
            write_model(root / "models" / stage)
    return root


@pytest.fixture(autouse=True)
def _in_workspace(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)


def measured(key: str) -> tuple[dict, dict[str, np.ndarray]]:
    """The figures and the table of hands that the stage wrote."""
    assert evaluate.main([key]) == 0
    table = pq.read_table(f"results/{key}/hands.parquet")
    return json.loads(Path(f"metrics/{key}.json").read_text()), {name: table.column(name).to_numpy() for name in table.column_names}


def aligned(p: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Procrustes as the servers have it, for one hand."""
    centred, target = p - p.mean(0), t - t.mean(0)
    norm = np.linalg.norm(target)
    u, s, vt = np.linalg.svd((centred / np.linalg.norm(centred)).T @ (target / norm))
    return centred / np.linalg.norm(centred) @ (u @ vt) * s.sum() * norm + t.mean(0)


def naive_figures(p: np.ndarray, t: np.ndarray, mesh: np.ndarray, target_mesh: np.ndarray | None) -> dict[str, float]:
    """Joints (21, 3) and vertices of one hand in metres against its label."""

    def mean_mm(a, b):
        return float(np.mean([np.linalg.norm(x - y) for x, y in zip(a, b, strict=True)])) * 1000

    figures = {"mpjpe_mm": mean_mm(p, t), "epe_mm": mean_mm(p - p[0], t - t[0]), "root_aligned_mpjpe_mm": mean_mm(p - p[9], t - t[9])}
    scale = np.linalg.norm(t[9] - t[0]) / np.linalg.norm(p[9] - p[0])
    figures["scale_aligned_mpjpe_mm"] = mean_mm(p * scale - p[0] * scale, t - t[0])
    figures["pa_mpjpe_mm"] = mean_mm(aligned(p, t), t)
    figures["root_error_mm"] = float(np.linalg.norm(p[9] - t[9])) * 1000
    errors = np.linalg.norm(aligned(p, t) - t, axis=1)
    curve = [np.mean(errors <= threshold) for threshold in np.linspace(0, 0.05, 100)]
    figures["auc"] = float(np.mean([(a + b) / 2 for a, b in pairwise(curve)]))
    if target_mesh is not None:
        figures["mpvpe_mm"] = mean_mm(mesh, target_mesh)
        figures["root_aligned_mpvpe_mm"] = mean_mm(mesh - p[9], target_mesh - t[9])
        figures["scale_aligned_mpvpe_mm"] = mean_mm((mesh - p[0]) * scale, target_mesh - t[0])
        figures["pa_mpvpe_mm"] = mean_mm(aligned(mesh, target_mesh), target_mesh)
        for suffix, points in (("", aligned(mesh, target_mesh)), ("_raw", mesh)):
            distances = cdist(points, target_mesh)
            for name, threshold in (("f5", 0.005), ("f15", 0.015)):
                precision, recall = (distances.min(1) < threshold).mean(), (distances.min(0) < threshold).mean()
                figures[name + suffix] = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return figures


def crops(key: str):
    """(place of the image, label, prediction, side of the crop in image pixels) of every hand, each predicted on its own."""
    config = load_params().evaluate[key]
    reader, predictor = ShardReader(Path("data") / config.data), Predictor.load(Path("models") / config.model)
    for number in range(len(reader)):
        sample = reader.read(number, labels_3d=True)
        for hand in filter(is_measurable, sample.hands):
            (frame,) = frames_of(sample, [hand], 64, model="crop", centers="true", definition="keypoints")
            ((found,),) = predictor.predict(frame.image[None], frame.K[None], [frame.centers_px])
            yield number, hand, found, frame


@pytest.mark.parametrize("key", ["freihand-crop", "ho3d-val", "rhd-crop", "interhand-crop"])
def test_crops_are_measured_as_by_plain_loops(key: str) -> None:
    metrics, table = measured(key)
    rows = list(crops(key))
    assert len(rows) == len(table["key"]) == metrics["count"]["measured_hands"] >= 2
    assert table["image"].tolist() == [number for number, *_ in rows]
    columns: dict[str, list[float]] = {}
    for _, hand, found, frame in rows:
        in_frame = hand.keypoints_px @ frame.affine[:, :2].T + frame.affine[:, 2]
        counted = np.ones(21, bool) if hand.keypoints_m is not None else hand.visible
        error = np.mean([np.linalg.norm(a - b) for a, b, c in zip(found.keypoints_px, in_frame, counted, strict=True) if c])
        values = {"error_2d_input_px": error, "error_2d_px": error / frame.affine[0, 0], "predicted_side": found.side}
        if hand.keypoints_m is not None:
            values |= naive_figures(found.keypoints_m, hand.keypoints_m.astype(float), found.vertices_m, hand.vertices_m)
        for name, value in values.items():
            columns.setdefault(name, []).append(value)
    assert {"epe_mm", "pa_mpjpe_mm"} <= set(columns)
    for name, values in columns.items():
        known = table[name][~np.isnan(table[name])]
        np.testing.assert_allclose(known, values, rtol=2e-3, atol=2e-3, err_msg=name)
        if name in metrics["ours"]:
            assert metrics["ours"][name] == pytest.approx(np.mean(values), rel=3e-3, abs=1e-3), name
    assert json.loads(Path(f"results/{key}/strata.json").read_text())["centers"] == "true"


def bounds_hold(metrics: dict) -> None:
    """Every headline figure lies in an interval of its own."""
    assert set(metrics["headline_ci95"]) == set(metrics["headline"])
    for name, (low, high) in metrics["headline_ci95"].items():
        assert low <= metrics["headline"][name] <= high, name


def test_hands_under_their_true_type() -> None:
    """Where the type was predicted wrong the network is asked again: other joints; where it was right nothing changes."""
    metrics, table = measured("rhd-crop")
    right = table["side"] == table["predicted_side"]
    assert 0 < right.sum() < len(right)  # one of two types for all hands, as an untrained network has it
    np.testing.assert_allclose(table["epe_true_side_mm"][right], table["epe_mm"][right], rtol=1e-6)
    predictor = Predictor.load("models/crop")
    for (_, hand, _, frame), is_right, value in zip(crops("rhd-crop"), right, table["epe_true_side_mm"], strict=True):
        ((found,),) = predictor.predict(frame.image[None], frame.K[None], [frame.centers_px], sides=[np.array([hand.side])])
        assert found.side == hand.side
        expected = naive_figures(found.keypoints_m, hand.keypoints_m.astype(float), found.vertices_m, None)["epe_mm"]
        assert value == pytest.approx(expected, rel=1e-3), is_right
    assert metrics["headline"]["epe_true_side_mm"] == pytest.approx(table["epe_true_side_mm"].mean(), rel=1e-3)
    assert metrics["headline"]["hand_type_accuracy"] == pytest.approx(right.mean(), rel=1e-3)
    assert metrics["headline"]["epe_larger_hand_mm"] == pytest.approx(table["epe_mm"][table["hand"] == 0].mean(), rel=1e-3)
    bounds_hold(metrics)


@pytest.mark.parametrize(("key", "protocol"), [("rhd-whole", "two-hands"), ("interhand-whole", "interhand")])
def test_whole_images_are_searched_for_hands(key: str, protocol: str) -> None:
    metrics, table = measured(key)
    config = load_params().evaluate[key]
    assert (config.protocol, config.centers) == (protocol, "predicted")
    reader, predictor = ShardReader(Path("data") / config.data), Predictor.load("models/multi")
    expected: dict[str, list] = {"found": [], "score": [], "labelled": [], "error_2d_px": [], "similarity": []}
    for number in range(len(reader)):
        sample = reader.read(number, labels_3d=True)
        hands = [hand for hand in sample.hands if is_measurable(hand)]
        (frame,) = frames_of(sample, hands, 64, model="multi", centers="predicted", definition="keypoints")
        (found,) = predictor.predict(frame.image[None], frame.K[None], score_threshold=0.0)
        free, taken = dict(enumerate(hands)), {}
        for i in sorted(range(len(found)), key=lambda i: -found[i].score):
            points = (found[i].keypoints_px - frame.affine[:, 2]) @ np.linalg.inv(frame.affine[:, :2]).T
            candidates = {}
            for n, hand in free.items():
                counted = np.ones(21, bool) if hand.keypoints_m is not None else hand.visible
                distances = np.linalg.norm(points - hand.keypoints_px, axis=1)[counted]
                spread = 2 * SIGMAS[counted] * np.ptp(hand.keypoints_px[counted], axis=0).max()
                candidates[n] = np.exp(-((distances / spread) ** 2) / 2).mean(), distances.mean()
            best = max(candidates, key=lambda n: candidates[n][0], default=None)
            if best is not None and candidates[best][0] >= config.min_similarity:
                taken[best] = i, *candidates[best]
                del free[best]
        for n in range(len(hands)):
            i, similarity, error = taken.get(n, (None, np.nan, np.nan))
            expected["labelled"].append(True)
            expected["found"].append(i is not None)
            expected["score"].append(np.nan if i is None else found[i].score)
            expected["error_2d_px"].append(error)
            expected["similarity"].append(similarity)
        for i in sorted(set(range(len(found))) - {i for i, *_ in taken.values()}, key=lambda i: -found[i].score):
            expected["labelled"].append(False)
            expected["found"].append(False)
            expected["score"].append(found[i].score)
            expected["error_2d_px"].append(np.nan)
            expected["similarity"].append(np.nan)
    assert any(expected["found"])
    for name, values in expected.items():
        np.testing.assert_allclose(table[name].astype(float), np.array(values, float), rtol=2e-3, atol=1e-3, err_msg=name)
    assert metrics["headline"]["recall"] == pytest.approx(table["found"].sum() / table["labelled"].sum(), rel=1e-4)
    assert metrics["headline"]["precision"] == pytest.approx(table["found"].mean() / (table["found"] | ~table["labelled"]).mean(), rel=1e-4)


def test_published_truth_is_read_in_its_own_order_and_axes(capsys: pytest.CaptureFixture[str]) -> None:
    metrics, table = measured("ho3d")
    assert metrics["count"]["hands"] == metrics["count"]["measured_hands_3d"] == 2
    joints = [skeleton_m(np.random.default_rng((2, frame))) + np.array([0.03, 0.05, 0.6]) for frame in range(2)]
    vertices = np.array(json.loads((TRUTH / "evaluation_verts.json").read_text())) * [1, -1, -1]
    reader, predictor = ShardReader("data/ingest/ho3d/eval"), Predictor.load("models/crop")
    for number in range(2):
        sample = reader.read(number, labels_3d=False)
        (hand,) = sample.hands
        middle = (hand.box_px[:2] + hand.box_px[2:]) / 2  # nothing but the box is known of a hand's place
        shown = type(hand)(**{**hand.__dict__, "keypoints_px": np.tile(middle, (21, 1)), "visible": np.ones(21, bool)})
        (frame,) = frames_of(sample, [shown], 64, model="crop", centers="true", definition="keypoints")
        ((found,),) = predictor.predict(frame.image[None], frame.K[None], [frame.centers_px])
        for name, value in naive_figures(found.keypoints_m, joints[number], found.vertices_m, vertices[number]).items():
            assert table[name][number] == pytest.approx(value, rel=2e-3, abs=2e-3), name
    text = (TRUTH / "evaluation_xyz.json").read_text()
    try:
        (TRUTH / "evaluation_xyz.json").write_text(json.dumps(json.loads(text)[:1]))
        assert evaluate.main(["ho3d"]) == 1
        assert "HO3D_v2_truth: expected as many samples in each file" in capsys.readouterr().err
        (TRUTH / "evaluation_xyz.json").unlink()
        assert evaluate.main(["ho3d"]) == 1
        assert "HO3D_v2_truth/evaluation_xyz.json: not found" in capsys.readouterr().err
    finally:
        (TRUTH / "evaluation_xyz.json").write_text(text)


def test_masks_are_compared_with_rendered_silhouettes() -> None:
    metrics, table = measured("egohands")
    config = load_params().evaluate["egohands"]
    reader, predictor = ShardReader("data/ingest/egohands/eval"), Predictor.load("models/multi")
    expected, both, either = [], 0, 0
    for number in range(len(reader)):
        sample = reader.read(number, labels_3d=True)
        (frame,) = frames_of(sample, sample.hands, 64, model="multi", centers="predicted", definition="keypoints")
        (found,) = predictor.predict(frame.image[None], frame.K[None], score_threshold=0.0)
        back = np.linalg.inv(np.vstack([frame.affine, [0, 0, 1]]))
        depths = np.full((len(found) + 1, *sample.mask.shape), np.inf)
        for i, hand in enumerate(found):
            pixels = hand.vertices_m.astype(float) @ (back @ hand.K).T
            projected = np.concatenate([pixels[:, :2] / pixels[:, 2:], hand.vertices_m[:, 2:]], axis=1)
            depths[i] = zbuffer(projected, predictor.layer.faces(hand.side).numpy(), *sample.mask.shape)[2]
        front = np.where(np.isfinite(depths).any(0), depths.argmin(0), -1)
        masks = [sample.mask == n + 1 for n in range(len(sample.hands))]
        ious = np.array([[((front == i) & m).sum() / ((front == i) | m).sum() for m in masks] for i in range(len(found))])
        best = np.full(len(masks), np.nan)
        for i in sorted(range(len(found)), key=lambda i: -found[i].score):
            free = np.where(np.isnan(best), ious[i], -1)
            if 1 - free.max() < 1.0:
                best[free.argmax()] = free.max()
        expected += best.tolist()
        both += ((front >= 0) & (sample.mask > 0)).sum()
        either += ((front >= 0) | (sample.mask > 0)).sum()
    assert np.isfinite(expected).any()
    np.testing.assert_allclose(table["mask_iou"][table["labelled"]], expected, atol=5e-3)
    assert metrics["headline"]["mask_iou"] == pytest.approx(np.nanmean(expected), abs=3e-3)
    assert metrics["headline"]["mask_iou_all"] == pytest.approx(np.nan_to_num(expected).mean(), abs=3e-3)
    assert metrics["headline"]["foreground_iou"] == pytest.approx(both / either, abs=3e-3)
    assert metrics["headline"]["recall"] == pytest.approx(np.isfinite(expected).mean(), rel=1e-4)
    bounds_hold(metrics)
    assert "error_2d_px" not in metrics["ours"]  # there are no keypoints
    assert config.protocol == "masks"
    assert metrics["mean_hand"] == {}


def test_silhouettes_where_nothing_is_labelled_or_nothing_found() -> None:
    layer = Predictor.load("models/multi").layer
    hand = next(crops("freihand-crop"))[2]
    one = gather([Frame(image=np.zeros((64, 64, 3), np.uint8), K=hand.K, affine=np.eye(2, 3), centers_px=None)], [[hand]])
    none = one.chosen(np.zeros(1, bool))
    mask = np.zeros((64, 64), np.uint8)
    for predicted in (one, none):
        for score_threshold in (0.0, 1.1):  # drawn together, and alone
            found = overlap(predicted, mask, 0, score_threshold, layer)
            assert found.ious.shape == (len(predicted), 0)
            assert found.num_both == 0
            assert (found.num_either > 0) == (len(predicted) == 1 and score_threshold == 0.0)
    # where the pixels are ignored there is nothing to compare
    assert overlap(one, np.full_like(mask, MASK_IGNORE), 1, 0.0, layer).num_either == 0
    silhouette = overlap(one, mask, 0, 0.0, layer).num_either
    mask[:] = 1
    both = overlap(one, mask, 1, 0.0, layer)
    np.testing.assert_allclose(both.ious, [[silhouette / mask.size]])
    assert (both.num_both, both.num_either) == (silhouette, mask.size)


def test_given_sides_must_fit_the_given_centres() -> None:
    predictor = Predictor.load("models/crop")
    images, centers = np.zeros((1, 64, 64, 3), np.uint8), [np.array([[32.0, 32.0]])]
    for sides, message in (([np.array([0, 1])], "one for each of centers_px"), ([np.array([2])], r"0 \(left\) or 1 \(right\)")):
        with pytest.raises(ValueError, match=f"sides: expected {message}"):
            predictor.predict(images, None, centers, sides=sides)
    with pytest.raises(ValueError, match="sides: expected one for each of centers_px"):
        predictor.predict(images, sides=[np.array([0])])
