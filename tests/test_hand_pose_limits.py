"""Joint angles against scipy's Euler angles and the sampler's own degrees of freedom; the hinge against a loop."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from handnet.hand.dofs import ABDUCTION, COLUMN, FLEXION, HIGHEST_DEG, LIMITS_DEG, LOWEST_DEG, NUM_DOFS, TWIST, angles_table_deg, to_pose
from handnet.hand.files import load_free_arrays, load_hand
from handnet.hand.gestures import GESTURES_DEG, dofs_deg
from handnet.hand.pose_limits import LIMITS, joint_angles, limit_excess
from handnet.hand.pose_sampler import sample_poses, sample_with_angles
from handnet.rotations import axis_angle_to_matrix

AXES = load_hand().joint_axes[1]


def right(num: int) -> torch.Tensor:
    return torch.ones(num, dtype=torch.int64)


def pose_of(joint: int, flexion: float = 0, abduction: float = 0, twist: float = 0) -> np.ndarray:
    """(1, 45) with one joint turned, angles in degrees, composed by hand."""
    lateral, dorsal, bone = AXES[joint]
    rotation = (
        Rotation.from_rotvec(math.radians(abduction) * dorsal)
        * Rotation.from_rotvec(math.radians(flexion) * lateral)
        * Rotation.from_rotvec(math.radians(twist) * bone)
    )
    pose = np.zeros((1, 45))
    pose[0, 3 * (joint - 1) : 3 * joint] = rotation.as_rotvec()
    return pose


@pytest.mark.parametrize("joint", [1, 5, 13, 15])
@pytest.mark.parametrize(
    "angles",
    [(0, 0, 0), (30, 10, 4), (-20, -12, -4), (70, 18, 3), (110, 0, 0), (90, 5, 0), (100, 3, 2), (48, 50, -45), (-28, -22, 15)],
)
def test_angles_of_a_composed_rotation(joint, angles):
    got = joint_angles(torch.tensor(pose_of(joint, *angles)), right(1))[0, joint - 1]
    assert np.degrees(got.numpy()) == pytest.approx(angles, abs=1e-3)


def test_turning_about_each_axis_moves_the_finger_the_right_way():
    """+ flexion brings the index tip to the palm side (-y), + abduction towards the thumb (+z)."""
    from handnet.hand.layer import HandLayer

    layer = HandLayer(dtype=torch.float64)

    def tip(pose: np.ndarray) -> np.ndarray:
        eye, betas = torch.eye(3, dtype=torch.float64)[None], torch.zeros(1, 10, dtype=torch.float64)
        return layer(eye, torch.tensor(pose), betas, right(1)).joints[0, 8].numpy()

    rest = tip(np.zeros((1, 45)))
    assert tip(pose_of(1, flexion=20))[1] < rest[1] - 0.01
    assert tip(pose_of(1, abduction=10))[2] > rest[2] + 0.01


def test_angles_equal_scipy_euler_angles_away_from_the_lock():
    rng = np.random.default_rng(0)
    table = rng.uniform(-1, 1, (200, 15, 3)) * np.radians([75, 60, 60])
    frames = AXES[1:]
    local = Rotation.from_euler("YXZ", table[..., [1, 0, 2]].reshape(-1, 3)).as_matrix().reshape(200, 15, 3, 3)
    rotations = np.einsum("jki,njkl,jlm->njim", frames, local, frames)
    got = joint_angles(torch.tensor(rotations), right(200)).numpy()
    assert np.abs(got - table).max() < 1e-6
    reference = Rotation.from_matrix(local.reshape(-1, 3, 3)).as_euler("YXZ").reshape(200, 15, 3)
    assert np.abs(got[..., [1, 0, 2]] - reference).max() < 1e-6


def test_round_trip_with_the_samplers_angles():
    poses, dofs = sample_with_angles(1500, np.random.default_rng(3))
    got = np.degrees(joint_angles(torch.tensor(poses), right(len(poses))).numpy())
    expected = angles_table_deg(dofs)
    error = np.abs(got - expected)
    assert error[..., FLEXION].max() < 0.01
    # within a few degrees of 90 of flexion, twist (at most 4 degrees) is read as abduction
    far = np.abs(expected[..., FLEXION] - 90) > 15
    assert error[far].max() < 0.01
    assert error[~far].max() <= 4.01


def test_sampled_poses_are_within_the_limits():
    poses = sample_poses(1500, np.random.default_rng(4))
    assert np.degrees(limit_excess(torch.tensor(poses), right(1500)).max().item()) < 0.05


def test_gestures_are_within_the_limits():
    gestures = torch.tensor(load_free_arrays()["gestures"])
    assert np.degrees(limit_excess(gestures, right(len(gestures))).max().item()) < 0.05


def test_left_hands_have_the_mirrored_angles():
    poses = torch.tensor(sample_poses(20, np.random.default_rng(5)))
    mirrored = poses * torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64).repeat(15)
    left = joint_angles(mirrored, torch.zeros(20, dtype=torch.int64))
    assert torch.allclose(left, joint_angles(poses, right(20)), atol=1e-12)
    assert not torch.allclose(joint_angles(mirrored, right(20)), left, atol=1e-2)


def test_matrices_and_axis_angle_agree():
    poses = torch.tensor(sample_poses(20, np.random.default_rng(6)))
    matrices = axis_angle_to_matrix(poses.unflatten(1, (15, 3)))
    assert torch.allclose(joint_angles(matrices, right(20)), joint_angles(poses, right(20)))


def test_hinge_equals_a_naive_loop():
    generator = torch.Generator().manual_seed(0)
    poses = 0.9 * torch.randn(12, 45, generator=generator, dtype=torch.float64)
    side = torch.arange(12) % 2
    angles = np.degrees(joint_angles(poses, side).numpy())
    got = np.degrees(limit_excess(poses, side).numpy())
    for n in range(12):
        for joint in range(1, 16):
            for axis in (FLEXION, ABDUCTION, TWIST):
                low, high = LIMITS_DEG.get((joint, axis), (-5.0, 5.0))
                value = angles[n, joint - 1, axis]
                expected = max(low - value, value - high, 0.0)
                assert got[n, joint - 1, axis] == pytest.approx(expected, abs=1e-9)
    assert (got > 1).any()


def test_limits_table():
    assert LIMITS.shape == (15, 3, 2)
    assert (LIMITS[..., 0] < 0).all()
    assert (LIMITS[..., 1] > 0).all()  # the rest pose is inside every limit
    assert np.degrees(LIMITS[1, FLEXION].numpy()) == pytest.approx([-5, 108])  # index PIP


def test_gradcheck_at_natural_poses_and_at_rest():
    poses = torch.tensor(np.concatenate([np.zeros((1, 45)), sample_poses(2, np.random.default_rng(7))]))
    side = torch.tensor([0, 1, 0])
    assert torch.autograd.gradcheck(lambda p: joint_angles(p, side), poses.requires_grad_())


def test_gradcheck_of_the_hinge():
    poses = torch.tensor(0.7 * np.random.default_rng(8).standard_normal((2, 45)))
    assert torch.autograd.gradcheck(lambda p: limit_excess(p, torch.tensor([0, 1])), poses.requires_grad_())


def test_finite_everywhere():
    """Wild rotations, half turns about every axis, the lock itself, in float32."""
    corners = ((90, 0, 0), (-90, 0, 0), (90, 20, 20), (180, 0, 0), (0, 180, 0), (0, 0, 180), (0, 90, 90), (90, 180, 180))
    special = [pose_of(1, *angles)[0] for angles in corners]
    wild = 3 * np.random.default_rng(9).standard_normal((2000, 45))
    poses = torch.tensor(np.concatenate([np.stack(special), wild]), dtype=torch.float32).requires_grad_()
    side = torch.arange(len(poses)) % 2
    excess = limit_excess(poses, side)
    excess.sum().backward()
    assert torch.isfinite(excess).all()
    assert torch.isfinite(poses.grad).all()
    assert poses.grad.abs().max() < 200


def test_descent_on_the_hinge_brings_wild_poses_back():
    poses = (0.8 * torch.randn(16, 45, generator=torch.Generator().manual_seed(1))).requires_grad_()
    before = limit_excess(poses.detach(), right(16)).mean()
    optimizer = torch.optim.Adam([poses], lr=0.03)
    for _ in range(150):
        optimizer.zero_grad()
        limit_excess(poses, right(16)).mean().backward()
        optimizer.step()
    assert limit_excess(poses.detach(), right(16)).mean() < 0.05 * before


@pytest.mark.parametrize(
    ("pose", "side"),
    [(torch.zeros(2, 48), right(2)), (torch.zeros(2, 16, 3, 3), right(2)), (torch.zeros(2, 45), right(3))],
)
def test_wrong_shapes_are_named(pose, side):
    with pytest.raises(ValueError, match=r"(pose|side): expected shape"):
        joint_angles(pose, side)


def test_sampler_is_a_function_of_its_seed():
    first, again = (sample_poses(50, np.random.default_rng(11)) for _ in range(2))
    assert np.array_equal(first, again)
    assert first.shape == (50, 45)
    assert not np.array_equal(first, sample_poses(50, np.random.default_rng(12)))
    assert sample_poses(0, np.random.default_rng(0)).shape == (0, 45)
    with pytest.raises(ValueError, match="num: expected a count"):
        sample_poses(-1, np.random.default_rng(0))


def test_sampled_poses_vary_and_stay_out_of_contact():
    from handnet.hand.contact import penetration_mm

    poses, dofs = sample_with_angles(400, np.random.default_rng(13))
    assert penetration_mm(poses).max() < 2.5
    assert (dofs >= LOWEST_DEG).all()
    assert (dofs <= HIGHEST_DEG).all()
    fist, flat = dofs[:, COLUMN[5, FLEXION]] > 80, dofs[:, COLUMN[5, FLEXION]] < 15
    assert fist.mean() > 0.1
    assert flat.mean() > 0.1


def test_contact_depth_of_crossed_fingers():
    """Index and middle turned into each other overlap; spread apart they don't."""
    from handnet.hand.contact import penetration_mm

    crossed = to_pose(AXES, dofs_deg(abduction=(-12, 11, 0, 0)))
    assert penetration_mm(crossed)[0] > 5
    assert penetration_mm(to_pose(AXES, GESTURES_DEG["spread"]))[0] == 0


def test_segment_distance_equals_dense_search():
    from handnet.hand.contact import segment_distance

    rng = np.random.default_rng(14)
    a, b, c, d = rng.standard_normal((4, 20, 3))
    t = np.linspace(0, 1, 201)[:, None]
    for i in range(20):
        p, q = a[i] + t * (b[i] - a[i]), c[i] + t * (d[i] - c[i])
        dense = np.linalg.norm(p[:, None] - q[None], axis=-1).min()
        assert segment_distance(a, b, c, d)[i] == pytest.approx(dense, abs=0.02)


def test_dof_tables_match():
    assert len(LOWEST_DEG) == NUM_DOFS == len(LIMITS_DEG)
    assert set(GESTURES_DEG) == set(load_free_arrays()["gesture_names"].tolist())
    stored = load_free_arrays()["gestures"]
    assert np.abs(to_pose(AXES, np.stack(list(GESTURES_DEG.values()))) - stored).max() < 1e-5
