"""The InterHand2.6M adapter on a tiny dataset in the official layout: world to camera, order, sides, fits, and damage named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from fake_samples import project
from official_layouts import zipped
from official_layouts_interhand import CAPTURE, FRAMES, SEQUENCES, SIZES, interhand_view, json_file, write_interhand
from official_layouts_scene import assert_dots_at, assert_on_skin_of

from handnet.hand.files import FREE_HAND_FILE, load_hand
from handnet.skeleton import SIDES
from pipelines.config_datasets import InterhandConfig
from pipelines.datasets import interhand_annotations
from pipelines.datasets.interhand import Interhand
from pipelines.datasets.masks import layered_mask, skeleton_parts
from pipelines.datasets.sample import MASK_IGNORE, DataError, SplitNotThereError

NUM_IMAGES = len(SEQUENCES) * len(FRAMES)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interhand") / "InterHand2.6M"
    write_interhand(folder)
    return write_interhand(folder, "test", first_id=5000)


@pytest.fixture
def own(tmp_path):
    return write_interhand(tmp_path / "InterHand2.6M")


def config(path: Path | list[str], **changes) -> InterhandConfig:
    values = {"splits": ["train", "eval"], "fps": 5, "release_fps": 5, "seed": 0, "train_subset": None, "mano_model": None, **changes}
    return InterhandConfig(path=path if isinstance(path, list) else str(path), max_quarantined=0.0, samples_per_shard=4, **values)


def open_interhand(path: Path, split: str = "train", cache: Path | None = None, **changes) -> Interhand:
    return Interhand(config(path, **changes), split, cache or path.parent / "cache")


def view_of(index: int):
    camera = list(SIZES)[index // len(FRAMES)]
    return interhand_view(index % len(FRAMES), *SIZES[camera])


def by_image(dataset: Interhand) -> dict[int, int]:
    """Index in the dataset by image id; annotations are listed in another order than images."""
    images = dataset.annotations.samples["image"][dataset.rows]
    return {int(dataset.annotations.images["id"][image]): index for index, image in enumerate(images) if image >= 0}


def assert_masked(sample) -> None:
    """Keypoints lie in their own hand's mask, boxes go around it, and nothing else is in it."""
    assert sample.mask_source == "skeleton"
    for number, hand in enumerate(sample.hands, 1):
        x, y = np.floor(hand.keypoints_px).astype(int).T
        assert (sample.mask[y, x] == number).all()
        rows, columns = np.nonzero(sample.mask == number)
        assert (hand.box_px[:2] <= (columns.min(), rows.min())).all()
        assert (hand.box_px[2:] > (columns.max(), rows.max())).all()
        assert_on_skin_of(sample.image, sample.mask == number, SIDES[hand.side])
    assert sample.mask.max() == len(sample.hands)


def edit(folder: Path, kind: str, change) -> None:
    content = json.loads(json_file(folder, kind).read_text())
    change(content)
    json_file(folder, kind).write_text(json.dumps(content))


@pytest.mark.parametrize("split", ["train", "eval"])
def test_hands_come_out_as_they_were_painted(shared, split):
    dataset = open_interhand(shared, split)
    places = by_image(dataset)
    first = 0 if split == "train" else 5000
    assert sorted(places) == [first + i for i in range(NUM_IMAGES)]
    for number in range(NUM_IMAGES):
        view, sample = view_of(number), dataset.sample(places[first + number])
        assert sample.image.shape == view.scene.image.shape
        assert sample.encoded == (shared / dataset.where(places[first + number])[1]).read_bytes()
        assert [SIDES[hand.side] for hand in sample.hands] == sorted(view.scene.points_m, reverse=True)
        for hand in sample.hands:
            side = SIDES[hand.side]
            np.testing.assert_allclose(hand.keypoints_m, view.scene.points_m[side], atol=1e-5)
            np.testing.assert_allclose(hand.keypoints_px, view.scene.keypoints_px[side], atol=0.02)
            np.testing.assert_allclose(project(hand.K, hand.keypoints_m), hand.keypoints_px, atol=1e-3)
            assert_dots_at(sample.image, hand.keypoints_px, hand.visible)
            assert hand.visible.all()
        assert_masked(sample)
        if len(sample.hands) == 2:  # the published box holds both
            box = dataset.bounding_box(places[first + number])
            points = np.concatenate([hand.keypoints_px for hand in sample.hands])
            assert (box[:2] <= points.min(0)).all()
            assert (box[2:] >= points.max(0)).all()


def test_source_ids_name_the_moment(shared):
    dataset = open_interhand(shared)
    ids = {dataset.sample(i).hands[0].source_id for i in range(len(dataset))}
    assert f"interhand/train/Capture{CAPTURE}/{SEQUENCES[0]}/{FRAMES[0]}" in ids
    assert len(ids) == NUM_IMAGES


def test_invalid_joints_are_not_visible_and_absent_hands_are_no_hands(own):
    def lose(content):
        by_frame = content[str(CAPTURE)]
        by_frame[str(FRAMES[0])]["joint_valid"][5] = [0]  # of the right index, counted from the tip: std 7
        by_frame[str(FRAMES[0])]["world_coord"][5] = [float("nan")] * 3
        by_frame[str(FRAMES[1])]["joint_valid"][:21] = [[0]] * 21
        # marked valid, but with the place holder only
        by_frame[str(FRAMES[2])]["joint_valid"][:21] = [[1]] * 21
        by_frame[str(FRAMES[3])]["joint_valid"][21:] = [[0]] * 21

    edit(own, "joint_3d", lose)

    def hide(content):
        for annotation in content["annotations"]:
            if annotation["image_id"] == 3:
                annotation["joint_valid"][20] = [0]  # the right wrist, in this image alone

    edit(own, "data", hide)
    dataset = open_interhand(own)
    places = by_image(dataset)
    assert 1 not in places  # its one hand is not known
    both = dataset.sample(places[0])
    right, left = both.hands
    assert right.visible.tolist() == [k != 7 for k in range(21)]
    assert right.keypoints_m is None  # 21 of them, or none
    assert left.keypoints_m is not None
    assert set(np.unique(both.mask)) == {0, 1, 2}
    assert_dots_at(both.image, right.keypoints_px, right.visible)
    assert [hand.side for hand in dataset.sample(places[2]).hands] == [0]
    occluded = dataset.sample(places[3])  # shows both hands; nobody knows where the left one is
    (hand,) = occluded.hands
    assert hand.visible.tolist() == [k != 0 for k in range(21)]
    assert hand.keypoints_m is not None
    x0, y0, x1, y1 = dataset.bounding_box(places[3]).astype(int)
    assert set(np.unique(occluded.mask[y0:y1, x0:x1])) == {1, MASK_IGNORE}
    assert (occluded.mask == 0).sum() == occluded.mask.size - (x1 - x0) * (y1 - y0)


def test_frame_rate_and_random_subset(own):
    def names(**changes):
        dataset = open_interhand(own, **changes)
        return [dataset.where(i)[1] for i in range(len(dataset))]

    assert len(names()) == NUM_IMAGES
    thinned = names(fps=5, release_fps=30)  # every sixth frame of a sequence of four: its first
    assert sorted(name.split("image")[-1] for name in thinned) == ["162275.jpg", "62275.jpg"]
    some = names(train_subset=3)
    assert len(some) == 3
    assert some == [name for name in names() if name in some]  # in the same order
    assert names(train_subset=3) == some
    assert names(train_subset=3, seed=1) != some
    assert len(names(train_subset=99)) == NUM_IMAGES
    write_interhand(own, "test")
    assert len(open_interhand(own, "eval", train_subset=3)) == NUM_IMAGES
    with pytest.raises(ValueError, match=r"fps: expected at most release_fps \(5\), got 30"):
        config(own, fps=30)


@pytest.mark.parametrize("form", ["apart", "zips"])
def test_the_downloads_are_read_like_one_folder(shared, tmp_path, form):
    """Images come in a folder of their own, annotations in another archive."""
    published = tmp_path / "published"
    published.mkdir()
    images, annotations = published / "InterHand2.6M_5fps_batch1", published / "annotations_only"
    shutil.copytree(shared / "images", images / "images")
    shutil.copytree(shared / "annotations", (published if form == "apart" else annotations) / "annotations")
    if form == "zips":
        zipped(annotations, published / "InterHand2.6M.annotations.5.fps.zip")
        zipped(images, published / "images.zip", "InterHand2.6M_5fps_batch1/")
        shutil.rmtree(images)
        shutil.rmtree(annotations)
    a, b = open_interhand(shared), open_interhand(published)
    assert [a.where(i) for i in range(len(a))] == [b.where(i) for i in range(len(b))]
    np.testing.assert_array_equal(a.sample(3).image, b.sample(3).image)
    with pytest.raises(DataError, match=r"release_fps: expected 5, as the name of a folder or archive says, got 30"):
        open_interhand(published, release_fps=30)


def test_fits_pose_the_hands_in_the_camera_frame(tmp_path):
    """With the user's model: mean pose added, left hands by the left model, world to camera."""
    import torch

    from handnet.hand.layer import HandLayer
    from handnet.rotations import axis_angle_to_matrix

    model = load_hand(FREE_HAND_FILE)  # has MANO's schema, and takes the place of a licensed file here
    layer = HandLayer(model, dtype=torch.float64)
    rng = np.random.default_rng(0)
    view = interhand_view(0, *next(iter(SIZES.values())))
    published, expected = {}, {}
    for side in ("right", "left"):
        pose, betas = rng.normal(0, 0.2, 48), rng.normal(0, 1, 10)
        index = torch.tensor([SIDES.index(side)])
        values = torch.tensor(pose)[None]
        posed = layer(axis_angle_to_matrix(values[:, :3]), values[:, 3:], torch.tensor(betas)[None], index, flat_hand_mean=False)
        vertices, joints = posed.vertices[0].numpy(), posed.joints[0].numpy()
        place_mm = view.scene.points_m[side][0] * 1000 @ view.rotation + view.position_mm  # the painted wrist, in the world
        trans = place_mm / 1000 - joints[0]
        published[side] = {"pose": pose.tolist(), "shape": betas.tolist(), "trans": trans.tolist()}
        expected[side] = (vertices + trans - view.position_mm / 1000) @ view.rotation.T, betas
    fits = {str(FRAMES[0]): published, str(FRAMES[1]): {"right": None, "left": None}}
    folder = write_interhand(tmp_path / "data", fits=fits)
    dataset = open_interhand(folder, mano_model=str(FREE_HAND_FILE))
    places = by_image(dataset)
    sample = dataset.sample(places[0])
    for hand in sample.hands:
        vertices, betas = expected[SIDES[hand.side]]
        np.testing.assert_allclose(hand.vertices_m, vertices, atol=1e-5)
        values = hand.mano.astype(np.float64)
        np.testing.assert_allclose(values[48:58], betas, atol=1e-6)
        np.testing.assert_allclose(values[58:], view.scene.points_m[SIDES[hand.side]][0], atol=1e-5)
        tensor, index = torch.tensor(values)[None], torch.tensor([hand.side])
        again = layer(
            axis_angle_to_matrix(tensor[:, :3]), tensor[:, 3:48], tensor[:, 48:58], index, translation=tensor[:, 58:], center_joint=0
        )
        np.testing.assert_allclose(again.vertices[0].numpy(), vertices, atol=1e-5)
        assert hand.hand_model == "mano"
        pixels = np.floor(project(hand.K, hand.vertices_m)).astype(int)
        height, width = sample.mask.shape
        inside = ((pixels >= 0) & (pixels < (width, height))).all(1)
        assert (sample.mask[pixels[inside, 1], pixels[inside, 0]] > 0).mean() > 0.95
    assert sample.mask_source == "mano"
    assert dataset.sample(places[1]).mask_source == "skeleton"
    assert dataset.sample(places[1]).hands[0].mano is None
    fits[str(FRAMES[0])]["left"]["trans"][1] = None
    folder = write_interhand(tmp_path / "damaged", fits=fits)
    damaged = open_interhand(folder, mano_model=str(FREE_HAND_FILE))
    with pytest.raises(DataError, match=rf"MANO_NeuralAnnot\.json: {CAPTURE}\.{FRAMES[0]}\.left: expected 48 \+ 10 \+ 3 finite"):
        damaged.sample(by_image(damaged)[0])


def frame(content, number=0):
    return content[str(CAPTURE)][str(FRAMES[number])]


def annotation_of(content, image_id):
    return next(a for a in content["annotations"] if a["image_id"] == image_id)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("joint_3d", lambda c: frame(c)["world_coord"].pop(), r"joint_3d\.json: 12\.62275: world_coord: missing, or not of 42 joints"),
        ("joint_3d", lambda c: frame(c).pop("joint_valid"), r"12\.62275: joint_valid: missing"),
        ("joint_3d", lambda c: frame(c)["joint_valid"].__setitem__(3, [None]), r"12\.62275: joint_valid: missing"),
        ("joint_3d", lambda c: c["12"].pop("62275"), r"joint_3d\.json: 12\.62275: not found"),
        ("joint_3d", lambda c: frame(c)["world_coord"].__setitem__(0, [None] * 3), r"world_coord: expected numbers, in front of"),
        ("data", lambda c: c["images"][0].pop("width"), r"data\.json: images\[0\]: width: missing"),
        ("data", lambda c: annotation_of(c, 0).update(bbox=[1, 2, 3]), r"annotations\[7\]: bbox: missing, or not as it should be"),
        ("data", lambda c: c["images"].pop(0), r"annotations\[7\]: image_id: no image has id 0"),
        ("data", lambda c: annotation_of(c, 0).update(joint_valid=[None] * 42), r"annotations\[7\]: joint_valid: missing"),
        ("camera", lambda c: c["12"]["focal"].update({"400262": [0, 300]}), r"12\.focal\.400262: expected lengths > 0, got \[0\.0"),
        ("camera", lambda c: c["12"]["focal"].pop("400262"), r"camera\.json: 12\.focal\.400262: expected \(2,\) numbers, got none"),
        ("camera", lambda c: c["12"]["camrot"].update({"400262": [[1, 0, 0]] * 2}), r"camrot\.400262: expected \(3, 3\) finite"),
    ],
)
def test_damage_is_named_and_the_others_are_read(own, kind, change, message):
    edit(own, kind, change)
    dataset = open_interhand(own)
    failures = {}
    for index in range(len(dataset)):
        try:
            assert dataset.sample(index).hands
        except DataError as error:
            failures[index] = str(error)
    assert len(dataset) == NUM_IMAGES
    assert 1 <= len(failures) < NUM_IMAGES
    with pytest.raises(DataError, match=message):
        dataset.sample(max(failures))


def test_captures_without_images_are_left_out(own):
    def move(content):
        for image in content["images"]:
            if image["seq_name"] == SEQUENCES[1]:
                image.update(capture=13, file_name=image["file_name"].replace("Capture12", "Capture13"))

    edit(own, "data", move)
    assert sorted(by_image(open_interhand(own))) == [0, 1, 2, 3]
    shutil.rmtree(own / "images")
    with pytest.raises(SplitNotThereError, match=r"images/train/: found no image of the captures \[12, 13\]"):
        open_interhand(own)


def test_nearer_parts_cover_farther_ones():
    """Two fingers crossed over two others: each hand is in front once."""
    first, second = np.zeros((21, 2)), np.zeros((21, 2))
    first[5:9] = [[10, 20], [90, 20], [10, 60], [90, 60]]  # bones along rows 20 and 60
    second[5:9] = [[30, 5], [30, 95], [70, 5], [70, 95]]  # and along columns 30 and 70
    known = np.isin(np.arange(21), [5, 6, 7, 8])
    near, far = np.full(21, 0.5), np.full(21, 0.5)
    near[5:9], far[5:9] = [0.4, 0.4, 0.6, 0.6], [0.5, 0.5, 0.5, 0.5]
    drawn = [skeleton_parts(first, near, 300.0, known), skeleton_parts(second, far, 300.0, known)]
    mask = layered_mask(drawn, (100, 100))
    assert mask[20, 30] == mask[20, 70] == 1
    assert mask[60, 30] == mask[60, 70] == 2
    assert mask[20, 50] == 1
    assert mask[40, 30] == 2
    assert layered_mask(drawn[::-1], (100, 100))[20, 30] == 2
    assert layered_mask([], (100, 100)).max() == 0


def test_bad_files_are_named(own):
    text = json_file(own, "data").read_text()
    for bad in (text[: len(text) // 2], "", "[]", '{"images": [], "annotations": []}', "nonsense"):
        json_file(own, "data").write_text(bad)
        with pytest.raises(DataError, match=r"data\.json: "):
            open_interhand(own)
    json_file(own, "data").write_text(text)
    joints = json_file(own, "joint_3d").read_text()
    for capture, number in (("twelve", "1"), ("12", str(10**25)), ("99999999999", "1")):
        edit(own, "joint_3d", lambda c, capture=capture, number=number: c.setdefault(capture, {}).update({number: {"joint_valid": []}}))
        with pytest.raises(DataError, match=rf"joint_3d\.json: expected capture and frame numbers, got \['{capture}', '{number}'\]"):
            open_interhand(own)
        json_file(own, "joint_3d").write_text(joints)
    dataset = open_interhand(own)
    name = dataset.where(0)[1]
    (own / name).write_bytes((own / name).read_bytes()[:3000])
    with pytest.raises(DataError, match=rf"{name}: not a whole"):
        dataset.sample(0)
    cv2.imwrite(str(own / name), np.zeros((10, 20, 3), np.uint8))
    with pytest.raises(DataError, match=rf"{name}: expected height, width"):
        dataset.sample(0)
    json_file(own, "joint_3d").unlink()
    with pytest.raises(DataError, match=r"joint_3d\.json: not found"):
        open_interhand(own)
    with pytest.raises(DataError, match="expected a folder or archive with one of"):
        open_interhand(own / "images")


def test_conversion_streams_and_is_kept(own, monkeypatch):
    """A second opening reads the tables; a changed file is converted anew."""
    first = open_interhand(own)
    converted = []
    original = interhand_annotations.iter_flat_objects
    monkeypatch.setattr(interhand_annotations, "iter_flat_objects", lambda *a: converted.append(a[1]) or original(*a))
    again = open_interhand(own)
    assert converted == []
    np.testing.assert_array_equal(again.annotations.samples, first.annotations.samples)
    edit(own, "data", lambda c: c["annotations"].pop())
    assert len(open_interhand(own)) == NUM_IMAGES - 1
    assert len(converted) == 2
    assert not list((own.parent / "cache").glob(".*"))
