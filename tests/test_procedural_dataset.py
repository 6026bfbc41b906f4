"""The procedural dataset: purity, labels that agree with the pixels and the model, splits, sides, the config's ranges."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from handnet.hand.files import load_hand
from handnet.hand.layer import HandLayer
from handnet.rendering import zbuffer
from handnet.rotations import axis_angle_to_matrix
from pipelines.config import ProceduralConfig
from pipelines.datasets.procedural import Procedural
from pipelines.datasets.sample import DataError

SIZE = 112
DEFAULTS = {
    "seed": 3,
    "num_train": 200,
    "num_eval": 60,
    "num_train_identities": 12,
    "num_eval_identities": 5,
    "image_px": SIZE,
    "focal_factor": (1.8, 2.6),
    "hand_fraction": (0.5, 0.72),
    "roll_deg": 25.0,
    "tilt_deg": 25.0,
    "back_fraction": 0.5,
    "left_fraction": 0.5,
    "backgrounds_dir": None,
    "samples_per_shard": 100,
    "jpeg_quality": 90,
}


def config(**changes):
    return ProceduralConfig(**(DEFAULTS | changes))


@pytest.fixture(scope="module")
def samples():
    train = Procedural(config(), "train")
    return [train.sample(index) for index in range(24)]


def digest(sample):
    hand = sample.hands[0]
    arrays = (sample.image, sample.mask, sample.K, hand.keypoints_px, hand.keypoints_m, hand.vertices_m, hand.mano, hand.box_px)
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()


def test_sample_is_a_pure_function_of_config_split_and_index(samples):
    again = Procedural(config(), "train")
    assert digest(again.sample(17)) == digest(samples[17])
    again.sample(70)
    assert digest(again.sample(3)) == digest(samples[3])
    assert digest(samples[3]) != digest(samples[4])
    assert digest(Procedural(config(seed=4), "train").sample(3)) != digest(samples[3])
    # another process, another order, another number of threads
    program = (
        "import torch; torch.set_num_threads(2)\n"
        "from test_procedural_dataset import Procedural, config, digest\n"
        "train = Procedural(config(), 'train')\n"
        "print([digest(train.sample(index)) for index in (9, 5, 17)])\n"
    )
    tests = Path(__file__).parent
    paths = os.pathsep.join([str(tests), str(tests.parent), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == str([digest(samples[index]) for index in (9, 5, 17)])


def test_records_are_complete_and_named(samples):
    assert len({sample.key for sample in samples}) == len(samples)
    for index, sample in enumerate(samples):
        (hand,) = sample.hands
        assert sample.image.shape == (SIZE, SIZE, 3)
        assert sample.key == hand.source_id == f"procedural-train-{index:07d}"
        assert (hand.hand_model, hand.joint_convention) == ("free", "lbs")
        assert hand.identity.startswith("train-")
        assert set(np.unique(sample.mask)) == {0, 1}
        assert np.array_equal(hand.K, sample.K)


def test_keypoints_project_to_their_pixels(samples):
    for sample in samples:
        hand = sample.hands[0]
        rays = hand.keypoints_m.astype(np.float64) @ hand.K.T
        np.testing.assert_allclose(rays[:, :2] / rays[:, 2:], hand.keypoints_px, atol=1e-3)
        inside = ((hand.keypoints_px >= 0) & (hand.keypoints_px < SIZE)).all(1)
        assert np.array_equal(hand.visible, inside)
        low, high = hand.box_px[:2], hand.box_px[2:]
        rows, columns = sample.mask.nonzero()
        assert (hand.keypoints_px >= low - 1e-3).all()
        assert (hand.keypoints_px <= high + 1e-3).all()
        assert low[0] <= columns.min()
        assert low[1] <= rows.min()
        assert columns.max() + 1 <= high[0]
        assert rows.max() + 1 <= high[1]


def test_mano_parameters_give_the_labelled_surface_on_both_sides(samples):
    mano = torch.from_numpy(np.stack([sample.hands[0].mano for sample in samples]))
    side = torch.tensor([sample.hands[0].side for sample in samples])
    assert set(side.tolist()) == {0, 1}
    posed = HandLayer()(axis_angle_to_matrix(mano[:, :3]), mano[:, 3:48], mano[:, 48:58], side, mano[:, 58:], center_joint=0)
    for k, sample in enumerate(samples):
        np.testing.assert_allclose(posed.vertices[k], sample.hands[0].vertices_m, atol=2e-6)
        np.testing.assert_allclose(posed.joints[k], sample.hands[0].keypoints_m, atol=2e-6)


def test_mask_is_the_silhouette_of_the_labelled_surface(samples):
    model = load_hand()
    overlaps, shifted = [], {step: [] for step in ((0, 1), (0, -1), (1, 0), (-1, 0))}
    for sample in samples:
        hand = sample.hands[0]
        rays = hand.vertices_m.astype(np.float64) @ hand.K.T
        pixels = np.concatenate([rays[:, :2] / rays[:, 2:], rays[:, 2:]], 1)
        drawn = zbuffer(pixels, model.faces[hand.side], SIZE, SIZE)[0] >= 0
        overlaps.append((drawn & (sample.mask > 0)).sum() / (drawn | (sample.mask > 0)).sum())
        for step, ratios in shifted.items():
            moved = np.roll(drawn, step, (0, 1))
            ratios.append((moved & (sample.mask > 0)).sum() / (moved | (sample.mask > 0)).sum())
        joints = np.delete(hand.keypoints_px, [4, 8, 12, 16, 20], 0).astype(int)  # fingertips lie on the outline
        assert (sample.mask[joints[:, 1], joints[:, 0]] > 0).mean() > 0.9
    assert min(overlaps) > 0.9
    assert np.mean(overlaps) > 0.95
    assert all(np.mean(ratios) < np.mean(overlaps) - 0.005 for ratios in shifted.values()), "half a pixel off"


def test_pixels_show_the_hand_and_not_only_the_background(samples):
    """Skin differs from what is around it in most pictures, and no picture is flat or burnt out."""
    for sample in samples:
        on_hand = sample.image[sample.mask > 0]
        assert 15 < on_hand.mean() < 240
        assert (on_hand.min(1) >= 253).mean() < 0.2
    images = np.stack([sample.image[::8, ::8] for sample in samples]).astype(float)
    assert images.std(0).mean() > 30


def test_splits_share_no_person_and_no_pose():
    train, evaluation = Procedural(config(), "train"), Procedural(config(), "eval")
    assert (len(train), len(evaluation)) == (200, 60)
    people = [[split.identity(k) for k in range(split.num_identities)] for split in (train, evaluation)]
    assert [len(group) for group in people] == [12, 5]
    assert not {person.name for person in people[0]} & {person.name for person in people[1]}
    betas = np.stack([person.betas for group in people for person in group])
    distances = np.linalg.norm(betas[:, None] - betas[None], axis=-1) + 10 * np.eye(len(betas))
    assert distances.min() > 0.3
    poses = np.stack([train.pose(k) for k in range(200)]), np.stack([evaluation.pose(k) for k in range(60)])
    assert np.abs(poses[0][:, None] - poses[1][None]).max(-1).min() > 1e-3
    assert len(np.unique(poses[0], axis=0)) == 200
    sample = evaluation.sample(0)
    assert sample.hands[0].identity.startswith("eval-")
    assert sample.key == "procedural-eval-0000000"


def test_left_hands_are_mirrored_right_hands():
    rights, lefts = Procedural(config(left_fraction=0.0), "train"), Procedural(config(left_fraction=1.0), "train")
    bend = {0: [], 1: []}
    for index in range(8):
        right, left = rights.sample(index).hands[0], lefts.sample(index).hands[0]
        assert (right.side, left.side) == (1, 0)
        assert right.identity == left.identity
        np.testing.assert_allclose((left.vertices_m - left.keypoints_m[0]) * [-1, 1, 1], right.vertices_m - right.keypoints_m[0], atol=2e-6)
        np.testing.assert_allclose(left.mano[3:48].reshape(15, 3) * [1, -1, -1], right.mano[3:48].reshape(15, 3), atol=1e-6)
        for hand in (right, left):
            points = hand.keypoints_m
            palm = np.cross(points[5] - points[0], points[17] - points[0])
            bend[hand.side].append((points[[8, 12, 16, 20]] - points[[5, 9, 13, 17]]).mean(0) @ palm / np.linalg.norm(palm))
    # fingers bend toward the palm: on opposite sides of the plane for the two hands
    assert np.mean(bend[1]) > 0.005
    assert np.mean(bend[0]) < -0.005


@pytest.mark.parametrize(
    "changes",
    [
        {"hand_fraction": (0.3, 0.35), "focal_factor": (1.0, 1.2)},
        {"hand_fraction": (0.95, 1.0), "focal_factor": (3.0, 3.0), "roll_deg": 180.0, "tilt_deg": 180.0},
        {"image_px": 80, "back_fraction": 1.0, "roll_deg": 0.0, "tilt_deg": 0.0},
        {"back_fraction": 0.0, "roll_deg": 10.0, "tilt_deg": 40.0, "left_fraction": 1.0},
    ],
)
def test_config_ranges_are_kept(changes):
    settings = config(**changes)
    size = settings.image_px
    data = Procedural(settings, "train")
    for index in range(12):
        sample = data.sample(index)
        hand = sample.hands[0]
        extent = np.ptp(hand.keypoints_px, axis=0).max() / size
        assert settings.hand_fraction[0] - 2e-3 <= extent <= settings.hand_fraction[1] + 2e-3
        assert settings.focal_factor[0] * size - 1e-6 <= sample.K[0, 0] <= settings.focal_factor[1] * size + 1e-6
        assert sample.K[0, 0] == sample.K[1, 1]
        assert (sample.K[:2, 2] == size / 2).all()
        outline = hand.vertices_m.astype(np.float64) @ hand.K.T
        outline = outline[:, :2] / outline[:, 2:]
        for axis in (0, 1):
            if np.ptp(outline[:, axis]) < size - 2:
                assert outline[:, axis].min() >= 0
                assert outline[:, axis].max() <= size
        rotation = Rotation.from_rotvec(hand.mano[:3]).as_matrix()
        if hand.side == 0:
            rotation = np.diag([-1.0, 1, 1]) @ rotation @ np.diag([-1.0, 1, 1])
        fingers, back = -rotation[:, 0], rotation[:, 1]
        if settings.tilt_deg <= 40:
            if settings.back_fraction in (0, 1):
                assert (back[2] < 0) == (settings.back_fraction == 1)
            # fingers up: -y, within tilt and roll
            assert -fingers[1] >= np.cos(np.radians(settings.tilt_deg)) * np.cos(np.radians(settings.roll_deg)) - 1e-6
        if settings.tilt_deg == 0:
            np.testing.assert_allclose(fingers, [0, -1, 0], atol=1e-6)


def test_backgrounds_come_from_the_folder_and_a_broken_one_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere: backgrounds_dir: expected a folder"):
        Procedural(config(backgrounds_dir=str(tmp_path / "nowhere")), "train")
    with pytest.raises(DataError, match="at least one image"):
        Procedural(config(backgrounds_dir=str(tmp_path)), "train")
    deeper = tmp_path / "deeper"
    deeper.mkdir()
    cv2.imwrite(str(deeper / "plain.png"), np.full((400, 900, 3), (255, 0, 255), np.uint8))
    cv2.imwrite(str(tmp_path / "plain.JPG"), np.full((90, 70, 3), (255, 0, 255), np.uint8))
    data = Procedural(config(backgrounds_dir=str(tmp_path)), "train")
    corners = np.stack([data.sample(index).image[:6, :6].mean((0, 1)) for index in range(16)])
    magenta = (corners[:, 1] < 0.35 * corners[:, 0]) & (corners[:, 1] < 0.35 * corners[:, 2])
    assert 6 <= magenta.sum() < 16  # most from the folder, some still generated
    for name, content in (("cut.jpg", (tmp_path / "plain.JPG").read_bytes()[:-200]), ("text.png", b"not an image"), ("empty.jpg", b"")):
        folder = tmp_path / name.replace(".", "_")
        folder.mkdir()
        (folder / name).write_bytes(content)
        broken = Procedural(config(backgrounds_dir=str(folder)), "train")
        with pytest.raises(DataError, match=rf"{name}: expected a readable image"):
            [broken.sample(index) for index in range(12)]


def test_bad_calls_are_named():
    with pytest.raises(ValueError, match=r"split: expected one of \['train', 'eval'\], got 'val'"):
        Procedural(config(), "val")
    data = Procedural(config(), "eval")
    for index in (-1, 60):
        with pytest.raises(IndexError, match=f"expected 0 <= index < 60, got {index}"):
            data.sample(index)
