"""FreiHAND and HO3D adapters on tiny datasets in the official layouts: what they deliver, and damage named."""

from __future__ import annotations

import io
import json
import pickle
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from fake_samples import folder_bytes, project
from official_layouts import FRAMES, write_freihand, write_ho3d, zipped
from painted_hands import painted_sample

from pipelines import ingest as stage
from pipelines.config import FreihandConfig, Ho3dConfig, IngestConfig
from pipelines.datasets import annotations
from pipelines.datasets.freihand import Freihand
from pipelines.datasets.ho3d import Ho3d
from pipelines.datasets.sample import DataError
from pipelines.shards import ShardReader


@pytest.fixture
def freihand(tmp_path):
    return write_freihand(tmp_path / "FreiHAND_pub_v2")


@pytest.fixture
def ho3d(tmp_path):
    return write_ho3d(tmp_path / "HO3D_v2")


def open_freihand(path: Path, split: str = "train", val_fraction: float = 0.0, mano_model: str | None = None) -> Freihand:
    common = {"path": str(path), "seed": 0, "samples_per_shard": 5, "max_quarantined": 0.0}
    config = FreihandConfig(**common, val_fraction=val_fraction, mano_model=mano_model)
    return Freihand(config, split, path.parent / "cache")


def open_ho3d(path: Path, split: str = "train", version: str = "v2", **changes: object) -> Ho3d:
    settings = {"val_sequences": [], "mano_model": None, "max_quarantined": 0.0, **changes}
    return Ho3d(Ho3dConfig(path=str(path), version=version, samples_per_shard=5, **settings), split, path.parent / "cache")


# --- FreiHAND -------------------------------------------------------------------------------------------------------


def test_freihand_images_share_their_frames_labels(freihand):
    train = open_freihand(freihand)
    assert len(train) == 4 * FRAMES
    for index in range(len(train)):
        frame, copy = divmod(index, 4)
        sample, original = train.sample(index), painted_sample(frame)
        assert sample.key == f"{frame:08d}-{copy}"
        assert train.where(index) == (sample.key, f"training/rgb/{frame + FRAMES * copy:08d}.jpg")
        (hand,), (want,) = sample.hands, original.hands
        np.testing.assert_allclose(hand.keypoints_m, want.keypoints_m, atol=1e-6)
        np.testing.assert_allclose(hand.vertices_m, want.vertices_m, atol=1e-6)
        np.testing.assert_allclose(project(hand.K, hand.keypoints_m), hand.keypoints_px, atol=1e-3)
        assert hand.side == 1
        assert hand.joint_convention == "regressed"
        assert hand.mano is None
        assert hand.source_id == f"freihand/training/{frame:08d}"
        assert set(np.unique(sample.mask)) == {0, 1}  # a JPEG of low quality, thresholded
        assert (sample.mask != original.mask).mean() < 0.005
        background = sample.image[sample.mask == 0]
        assert abs(np.median(background) - 40 * copy) < 3


def test_freihand_evaluation_has_no_mask(freihand):
    evaluation = open_freihand(freihand, "eval")
    assert len(evaluation) == 2
    sample = evaluation.sample(1)
    assert sample.mask is None
    np.testing.assert_allclose(sample.hands[0].keypoints_m, painted_sample(101).hands[0].keypoints_m, atol=1e-6)


def test_freihand_is_split_by_frame(tmp_path):
    folder = write_freihand(tmp_path / "data", frames=10)
    ids = {}
    for split in ("train", "val"):
        dataset = open_freihand(folder, split, val_fraction=0.3)
        samples = [dataset.sample(i) for i in range(len(dataset))]
        assert [s.key for s in samples] == sorted(s.key for s in samples)
        ids[split] = [s.hands[0].source_id for s in samples]
    assert len(set(ids["val"])) == 3
    assert len(ids["val"]) == 12
    assert not set(ids["train"]) & set(ids["val"])
    assert len(set(ids["train"]) | set(ids["val"])) == 10


@pytest.mark.parametrize("top", ["", "FreiHAND_pub_v2/"])
def test_freihand_reads_zips_like_folders(freihand, tmp_path, top):
    archive = zipped(freihand, tmp_path / "freihand.zip", top)
    a, b = open_freihand(freihand), open_freihand(archive)
    assert len(a) == len(b)
    for i in (0, 5, 11):
        np.testing.assert_array_equal(a.sample(i).image, b.sample(i).image)
        np.testing.assert_array_equal(a.sample(i).hands[0].keypoints_px, b.sample(i).hands[0].keypoints_px)


def test_freihand_reads_a_folder_of_zips(freihand, tmp_path):
    """As downloaded: one zip of images and training annotations, one with the evaluation's."""
    published = tmp_path / "published"
    published.mkdir()
    late = tmp_path / "late"
    late.mkdir()
    for kind in ("xyz", "verts", "mano"):
        (freihand / f"evaluation_{kind}.json").rename(late / f"evaluation_{kind}.json")
    with pytest.raises(DataError, match=r"evaluation_xyz\.json: not found; its owners publish it since 2022"):
        open_freihand(freihand, "eval")
    zipped(freihand, published / "FreiHAND_pub_v2.zip")
    zipped(late, published / "FreiHAND_pub_v2_eval.zip")
    assert len(open_freihand(published, "eval")) == 2
    assert open_freihand(published, "eval").sample(0).hands[0].keypoints_m is not None


def test_freihand_mano_parameters_pose_the_published_vertices(tmp_path):
    """With the user's model: mean pose added, and a translation that lays the model over the vertices."""
    import torch

    from handnet.hand.files import FREE_HAND_FILE, load_hand
    from handnet.hand.layer import HandLayer
    from handnet.rotations import axis_angle_to_matrix

    folder = write_freihand(tmp_path / "data")
    model = load_hand(FREE_HAND_FILE)  # has MANO's schema, and takes the place of a licensed file here
    layer = HandLayer(model, dtype=torch.float64)
    rng = np.random.default_rng(0)
    relative, betas, shift = rng.normal(0, 0.2, 48), rng.normal(0, 1, 10), np.array([0.02, -0.01, 0.8])
    side = torch.ones(1, dtype=torch.int64)

    def pose(values, *, flat, **options):
        tensor = torch.tensor(values)[None]
        return layer(axis_angle_to_matrix(tensor[:, :3]), tensor[:, 3:], torch.tensor(betas)[None], side, flat_hand_mean=flat, **options)

    vertices = (pose(relative, flat=False).vertices[0] + torch.tensor(shift)).numpy()
    (folder / "training_verts.json").write_text(json.dumps([vertices.tolist()] * FRAMES))
    mano = [*relative, *betas, 112.0, 112.0, 0.03]
    (folder / "training_mano.json").write_text(json.dumps([[mano]] * FRAMES))
    label = open_freihand(folder, mano_model=str(FREE_HAND_FILE)).sample(0).hands[0]
    values = label.mano.astype(np.float64)
    np.testing.assert_allclose(values[3:48], relative[3:] + model.hands_mean[1], atol=1e-6)
    translation = torch.tensor(values[58:])[None]
    again = pose(values[:48], flat=True, center_joint=0, translation=translation).vertices[0].numpy()
    np.testing.assert_allclose(again, vertices, atol=1e-5)
    with pytest.raises(DataError, match=r"mano_model: .*nowhere"):
        open_freihand(folder, mano_model=str(tmp_path / "nowhere.npz"))


def rewrite_json(path: Path, change) -> None:
    values = json.loads(path.read_text())
    path.write_text(json.dumps(change(values)))


def without_entry(values):
    return [values[0], None, *values[2:]]


def with_nan(values):
    values[1][3][1] = float("nan")
    return values


def with_short_row(values):
    values[1] = values[1][:20]
    return values


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_entry, r"training_xyz\.json: entry 1: expected finite numbers of shape \(21, 3\), got 63 missing"),
        (with_nan, r"training_xyz\.json: entry 1: expected finite numbers of shape \(21, 3\), got 1 missing, NaN"),
        (with_short_row, r"training_xyz\.json: entry 1: expected finite numbers of shape \(21, 3\), got 63 missing"),
        (lambda v: v[:2], r"training_xyz\.json: expected 3 entries as training_K\.json has, got 2"),
        (lambda v: [v[0], [[x, y, -z] for x, y, z in v[1]], v[2]], r"training_xyz\.json: entry 1: expected depths > 0"),
        (lambda v: {"a": 1}, r"training_xyz\.json: expected a JSON list"),
        (lambda v: [*v[:2], "hand"], r"training_xyz\.json: .*expected numbers only"),
    ],
)
def test_freihand_bad_annotations_are_named(freihand, change, message):
    rewrite_json(freihand / "training_xyz.json", change)
    with pytest.raises(DataError, match=message):
        open_freihand(freihand).sample(4)


def test_freihand_bad_files_are_named(freihand, tmp_path):
    for name in ("training/rgb/00000001.jpg", "training/mask/00000001.jpg"):
        data = (freihand / name).read_bytes()
        for bad in (data[: len(data) // 2], b"", b"no image"):
            (freihand / name).write_bytes(bad)
            with pytest.raises(DataError, match=rf"{name}: not a whole "):
                open_freihand(freihand).sample(4)
        cv2.imwrite(str(freihand / name), np.zeros((100, 224, 3), np.uint8))
        with pytest.raises(DataError, match=rf"{name}: expected height, width \(224, 224\), got \(100, 224\)"):
            open_freihand(freihand).sample(4)
        (freihand / name).unlink()
        with pytest.raises(DataError, match=rf"{name}: not found"):
            open_freihand(freihand).sample(4)
        (freihand / name).write_bytes(data)
    text = (freihand / "training_xyz.json").read_text()
    (freihand / "training_xyz.json").write_text(text[: len(text) // 2])
    with pytest.raises(DataError, match=r"training_xyz\.json: truncated after entry \d"):
        open_freihand(freihand)
    with pytest.raises(DataError, match="nowhere: not found; expected the dataset's folder or archive"):
        open_freihand(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="expected a folder or archive with one of"):
        open_freihand(tmp_path / "empty")
    whole = zipped(freihand, tmp_path / "whole.zip").read_bytes()
    (tmp_path / "half.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"half\.zip: not an archive that can be read"):
        open_freihand(tmp_path / "half.zip")


@pytest.mark.parametrize("chunk", [1, 7, 64, 1 << 20])
def test_json_lists_are_streamed_whatever_the_chunk(monkeypatch, chunk):
    values = [[[1.5, -2e-3], [3, 4]], None, [[0.25, 1], [2, 3]], []]
    monkeypatch.setattr(annotations, "CHUNK", chunk)
    for text in (json.dumps(values), json.dumps(values, indent=1), "  " + json.dumps(values, separators=(",", ":")) + "\n"):
        entries = list(annotations.iter_entries(io.BytesIO(text.encode()), "x"))
        assert [json.loads(entry) for entry in entries] == values
        for cut in (1, len(text.strip()) // 2, len(text.strip()) - 1):
            with pytest.raises(DataError, match="x: truncated after entry"):
                list(annotations.iter_entries(io.BytesIO(text.strip()[:cut].encode()), "x"))
    assert list(annotations.iter_entries(io.BytesIO(b"[]"), "x")) == []
    with pytest.raises(DataError, match="text after the end"):
        list(annotations.iter_entries(io.BytesIO(b"[1] [2]"), "x"))


# --- HO3D -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_ho3d_becomes_opencv_and_std21(tmp_path, version):
    folder = write_ho3d(tmp_path / "data", version)
    train = open_ho3d(folder, version=version)
    assert len(train) == 4
    for i in range(4):
        sample = train.sample(i)
        (hand,) = sample.hands
        assert (hand.keypoints_m[:, 2] > 0).all()
        np.testing.assert_allclose(project(hand.K, hand.keypoints_m), hand.keypoints_px, atol=1e-3)
        for x, y in hand.keypoints_px:  # the white dots of the picture: the order and axes are right
            assert sample.image[int(y), int(x)].min() > 200
        np.testing.assert_allclose(hand.mano[58:], hand.keypoints_m[0])
        assert hand.joint_convention == "lbs"
        columns, rows = np.floor(hand.keypoints_px).astype(int).T
        assert sample.mask[rows, columns].all()
        assert 0.005 < sample.mask.mean() < 0.2
    assert train.sample(0).hands[0].source_id == f"ho3d-{version}/train/ABF10/0000"


def test_ho3d_mano_parameters_pose_the_hand_in_opencv(tmp_path):
    import torch

    from handnet.hand.files import FREE_HAND_FILE, load_hand
    from handnet.hand.layer import HandLayer
    from handnet.rotations import axis_angle_to_matrix
    from handnet.skeleton import STD_TO_HO3D

    folder = write_ho3d(tmp_path / "data")
    layer = HandLayer(load_hand(FREE_HAND_FILE), dtype=torch.float64)
    side = torch.ones(1, dtype=torch.int64)
    rng = np.random.default_rng(4)
    pose, betas, trans = rng.normal(0, 0.3, 48), rng.normal(0, 1, 10), np.array([0.05, -0.02, -0.7])

    def run(values, **options):
        tensor = torch.tensor(values)[None]
        return layer(axis_angle_to_matrix(tensor[:, :3]), tensor[:, 3:], torch.tensor(betas)[None], side, **options)

    published = run(pose)  # vertices = MANO(pose, beta, flat) + handTrans, OpenGL
    path = folder / "train/ABF10/meta/0000.pkl"
    meta = pickle.loads(path.read_bytes(), encoding="latin1")
    meta.update(handPose=pose, handBeta=betas, handTrans=trans, handJoints3D=(published.joints[0].numpy() + trans)[STD_TO_HO3D])
    path.write_bytes(pickle.dumps(meta, protocol=2))
    sample = open_ho3d(folder, mano_model=str(FREE_HAND_FILE)).sample(0)
    (hand,) = sample.hands
    want = (published.vertices[0].numpy() + trans) * [1, -1, -1]
    np.testing.assert_allclose(hand.vertices_m, want, atol=1e-5)
    values = hand.mano.astype(np.float64)
    again = run(values[:48], center_joint=0, translation=torch.tensor(values[58:])[None])
    np.testing.assert_allclose(again.vertices[0].numpy(), want, atol=1e-5)
    np.testing.assert_allclose(again.joints[0].numpy(), hand.keypoints_m, atol=1e-5)
    pixels = project(hand.K, hand.vertices_m)
    inside = np.floor(pixels).astype(int)
    kept = ((inside >= 0) & (inside < (640, 480))).all(1)
    assert sample.mask[inside[kept, 1], inside[kept, 0]].mean() > 0.97


def test_ho3d_evaluation_knows_wrist_and_box(ho3d):
    evaluation = open_ho3d(ho3d, "eval")
    assert len(evaluation) == 2
    sample = evaluation.sample(1)
    (hand,) = sample.hands
    assert hand.visible.tolist() == [True] + [False] * 20
    assert hand.keypoints_m is None
    assert hand.mano is None
    assert sample.mask is None
    x, y = hand.keypoints_px[0]
    assert sample.image[int(y), int(x)].min() > 200
    assert hand.source_id == "ho3d-v2/evaluation/SM1/0001"


def test_ho3d_holds_out_sequences(ho3d):
    train, val = (open_ho3d(ho3d, split, val_sequences=["SM2"]) for split in ("train", "val"))
    assert [frame.split("/")[0] for frame in train.frames + val.frames] == ["ABF10", "ABF10", "SM2", "SM2"]
    with pytest.raises(DataError, match=r"train\.txt: val_sequences: no sequence called \['XX'\]"):
        open_ho3d(ho3d, val_sequences=["XX"])


class Evil:
    def __reduce__(self):
        return (print, ("this must never run",))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"handJoints3D": None}, r"SM2/meta/0000\.pkl: handJoints3D: expected \(21, 3\) numbers, got None: this frame has no annotation"),
        ({"handPose": np.zeros(45)}, r"0000\.pkl: handPose: expected shape \(48,\), got \(45,\)"),
        ({"handBeta": np.full(10, np.nan)}, r"0000\.pkl: handBeta: expected finite numbers, got 10"),
        ({"camMat": np.diag([-600.0, -600.0, -1.0])}, r"0000\.pkl: camMat: expected a camera matrix with focal lengths > 0"),
        ({"camMat": "K"}, r"0000\.pkl: camMat: expected \(3, 3\) numbers, got str"),
        ({"objName": Evil()}, r"0000\.pkl: expected a pickle of plain containers .* refused"),
    ],
)
def test_ho3d_bad_annotations_are_named_and_never_run(ho3d, change, message, capfd):
    path = ho3d / "train/SM2/meta/0000.pkl"
    meta = pickle.loads(path.read_bytes(), encoding="latin1")
    path.write_bytes(pickle.dumps({**meta, **change}, protocol=2))
    with pytest.raises(DataError, match=message):
        open_ho3d(ho3d).sample(2)
    assert "never run" not in capfd.readouterr().out


def test_ho3d_bad_files_are_named(ho3d):
    path = ho3d / "train/SM2/meta/0000.pkl"
    data = path.read_bytes()
    path.write_bytes(data[:-30])
    with pytest.raises(DataError, match=r"SM2/meta/0000\.pkl: expected a pickle"):
        open_ho3d(ho3d).sample(2)
    path.unlink()
    with pytest.raises(DataError, match=r"SM2/meta/0000\.pkl: not found"):
        open_ho3d(ho3d).sample(2)
    with pytest.raises(DataError, match=r"rgb/0000\.jpg: not found"):
        open_ho3d(ho3d, version="v3").sample(0)
    (ho3d / "train.txt").write_text("ABF10/0000\n../../etc/passwd\n")
    with pytest.raises(DataError, match=r"train\.txt: line 2: expected SEQUENCE/FRAME"):
        open_ho3d(ho3d)


# --- through the stage ----------------------------------------------------------------------------------------------


def test_ingest_writes_official_datasets_the_same_from_folder_and_zip(tmp_path):
    source = write_freihand(tmp_path / "FreiHAND_pub_v2")
    archive = zipped(source, tmp_path / "freihand.zip")
    make = partial(FreihandConfig, seed=0, val_fraction=0.4, samples_per_shard=5, max_quarantined=0.0, mano_model=None)
    shards = []
    for name, path in (("folder", source), ("zip", archive)):
        folders = stage.ingest("freihand", IngestConfig(freihand=make(path=str(path))), data=tmp_path / name, num_workers=2)
        assert [folder.name for folder in folders] == ["train", "val", "eval"]
        shards.append([data for folder in folders for file, data in folder_bytes(folder).items() if file.endswith(".tar")])
        assert sorted(p.name for p in (tmp_path / name / "ingest").iterdir()) == ["freihand"]
    assert shards[0] == shards[1]
    assert len(ShardReader(tmp_path / "zip/ingest/freihand/val")) == 4
    path = str(write_ho3d(tmp_path / "HO3D"))
    ho3d = Ho3dConfig(path=path, version="v2", samples_per_shard=3, max_quarantined=0.0, val_sequences=["SM2"], mano_model=None)
    for folder in stage.ingest("ho3d", IngestConfig(ho3d=ho3d), data=tmp_path / "data", num_workers=1):
        assert len(ShardReader(folder)) == 2
