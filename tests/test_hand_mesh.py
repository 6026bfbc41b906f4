"""The free hand's mesh, weights, shapes and pose space; and that the shipped file is what its source builds."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from typer.testing import CliRunner

from handnet.cli import app
from handnet.hand.doctor import bone_lengths, describe, num_boundary_edges, rest_keypoints
from handnet.hand.files import FREE_HAND_FILE, load_free_arrays, load_hand
from handnet.hand.generator.anatomy import Anatomy
from handnet.hand.generator.build import build_arrays, differences
from handnet.hand.generator.numbering import NEXT_TO_TIP_IDS, TIP_IDS, WRIST_LOOP
from handnet.hand.generator.shape import shape_space
from handnet.hand.gestures import GESTURES_DEG
from handnet.hand.layer import HandLayer
from handnet.hand.npz import read_npz, save_arrays
from handnet.hand.pose_sampler import sample_poses
from handnet.skeleton import BONES, MANO_TO_STD, STD21_NAMES

MODEL = load_hand()
VERTICES, FACES = MODEL.v_template[1], MODEL.faces[1]


def segments_cut_triangles(p, q, a, b, c):
    """(n,) whether segments p-q pass through triangles a-b-c (Moeller and Trumbore), all (n, 3)."""
    d, e1, e2 = q - p, b - a, c - a
    h = np.cross(d, e2)
    determinant = (e1 * h).sum(1)
    inverse = 1 / np.where(np.abs(determinant) < 1e-15, np.inf, determinant)
    u = ((p - a) * h).sum(1) * inverse
    g = np.cross(p - a, e1)
    v, t = (d * g).sum(1) * inverse, (e2 * g).sum(1) * inverse
    return (np.abs(determinant) >= 1e-15) & (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0) & (t < 1)


def num_self_hits(vertices, faces):
    """Pairs of triangles without a common vertex that cut each other."""
    corners = vertices[faces]
    low, high = corners.min(1), corners.max(1)
    near = np.triu(np.ones((len(faces), len(faces)), bool), 1)
    for k in range(3):
        near &= (low[:, None, k] <= high[None, :, k]) & (low[None, :, k] <= high[:, None, k])
    i, j = np.nonzero(near)
    apart = (faces[i][:, :, None] != faces[j][:, None, :]).all((1, 2))
    i, j = i[apart], j[apart]
    hit = np.zeros(len(i), bool)
    for first, second in ((corners[i], corners[j]), (corners[j], corners[i])):
        for k in range(3):
            hit |= segments_cut_triangles(first[:, k], first[:, (k + 1) % 3], *second.transpose(1, 0, 2))
    return int(hit.sum())


def shaped(betas: np.ndarray) -> np.ndarray:
    return VERTICES + MODEL.shapedirs[1] @ betas


def sealed(vertices: np.ndarray, side: int = 1) -> trimesh.Trimesh:
    """The wrist closed with the fan over the loop that other projects hard-code."""
    loop = list(WRIST_LOOP) if side == 1 else list(WRIST_LOOP)[::-1]
    fan = [[loop[i - 1], loop[i], 778] for i in range(16)]
    closed = np.concatenate([vertices, vertices[loop].mean(0)[None]])
    return trimesh.Trimesh(closed, np.concatenate([MODEL.faces[side], fan]), process=False)


def test_topology():
    assert VERTICES.shape == (778, 3)
    assert FACES.shape == (1538, 3)
    assert set(FACES.ravel().tolist()) == set(range(778))
    edges = Counter(tuple(sorted((face[k], face[(k + 1) % 3]))) for face in FACES.tolist() for k in range(3))
    boundary = [edge for edge, count in edges.items() if count == 1]
    assert max(edges.values()) == 2
    assert len(boundary) == 16 == num_boundary_edges(FACES)
    assert {vertex for edge in boundary for vertex in edge} == set(WRIST_LOOP)
    around = {tuple(sorted((WRIST_LOOP[i - 1], WRIST_LOOP[i]))) for i in range(16)}
    assert set(boundary) == around  # consecutive in the loop's order


@pytest.mark.parametrize("side", [0, 1])
def test_sealed_hand_is_a_solid(side):
    mesh = sealed(MODEL.v_template[side], side)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.euler_number == 2
    assert mesh.volume * 1e6 == pytest.approx(320, abs=30)  # cm3


def test_no_self_intersection_at_rest_and_for_random_shapes():
    rng = np.random.default_rng(0)
    assert num_self_hits(VERTICES, FACES) == 0
    for betas in [*rng.normal(size=(8, 10)), *(3.0 * np.eye(10)[::3]), *(-3.0 * np.eye(10)[1::3])]:
        assert num_self_hits(shaped(betas), FACES) == 0


def test_self_intersection_is_found_where_there_is_one():
    pierced = VERTICES.copy()
    tip = MODEL.tips[1][1]
    pierced[tip] = pierced[MODEL.tips[1][2]] + [0.02, 0, 0]  # the index tip pulled into the middle finger
    assert num_self_hits(pierced, FACES) > 0


def test_fingertips_are_the_far_ends_of_the_fingers():
    keypoints = rest_keypoints(MODEL, 1)
    part = load_free_arrays()["part"]
    for chain, name in enumerate(("index", "middle", "little", "ring", "thumb")):
        base, last = (keypoints[STD21_NAMES.index(f"{name}{k}")] for k in (3, 4))
        direction = (last - base) / np.linalg.norm(last - base)
        own = np.nonzero(part == chain)[0]
        assert own[(VERTICES[own] @ direction).argmax()] == TIP_IDS[name]
        assert np.array_equal(VERTICES[TIP_IDS[name]], last)
        around_tip = np.isin(FACES, TIP_IDS[name]).any(1)
        assert NEXT_TO_TIP_IDS[name] in FACES[around_tip]
    assert MODEL.tips[1].tolist() == [TIP_IDS[name] for name in ("thumb", "index", "middle", "ring", "little")]


def test_weights():
    weights = MODEL.weights[1]
    assert np.abs(weights.sum(1) - 1).max() < 1e-9
    assert weights.min() >= 0
    assert (weights > 0).sum(1).max() <= 4
    assert (weights[list(WRIST_LOOP), 0] > 0.98).all()  # the thumb's base pulls a little at the wrist
    part = load_free_arrays()["part"]
    for chain in range(5):  # a fingertip follows its own last bone only; no finger moves with another one
        tip = TIP_IDS[("index", "middle", "little", "ring", "thumb")[chain]]
        assert weights[tip, 3 * chain + 3] == 1
        others = [j for j in range(1, 16) if (j - 1) // 3 != chain]
        assert weights[part == chain][:, others].max() == 0


def test_joint_regressor_finds_the_anatomys_joints():
    anatomy = Anatomy()
    regressor = MODEL.J_regressor[1]
    assert regressor.min() >= 0
    assert np.abs(regressor.sum(1) - 1).max() < 1e-6
    assert np.linalg.norm(regressor @ VERTICES * 1000 - anatomy.joints, axis=1).max() < 0.06  # mm
    space = shape_space(anatomy, VERTICES * 1000, MODEL.weights[1])
    moved = np.einsum("jv,vak->jak", regressor, MODEL.shapedirs[1] * 1000)
    assert np.linalg.norm(moved - space.joints, axis=1).max() < 0.3  # mm for one sigma
    assert space.names == load_free_arrays()["shape_names"].tolist()


def test_shape_directions_do_what_they_are_called():
    names = load_free_arrays()["shape_names"].tolist()
    assert names[0] == "size"
    rest = bone_lengths(rest_keypoints(MODEL, 1))

    def lengths(name: str) -> np.ndarray:
        moved = shaped(np.eye(10)[names.index(name)])
        joints = np.concatenate([MODEL.J_regressor[1] @ moved, moved[MODEL.tips[1]]])
        return bone_lengths(joints[MANO_TO_STD])

    def bones(finger: str) -> list[int]:
        return [i for i, (parent, child) in enumerate(BONES) if STD21_NAMES[child].startswith(finger) and parent != 0]

    assert lengths("size") / rest == pytest.approx(1.05, abs=0.005)
    assert (lengths("little_length") / rest)[bones("little")] == pytest.approx(1.06, abs=0.01)
    assert (lengths("little_length") / rest)[bones("index")] == pytest.approx(1.0, abs=0.01)
    assert (lengths("thumb_length") / rest)[bones("thumb")].min() > 1.04
    assert (lengths("index_vs_ring") / rest)[bones("index")].min() > 1.02
    assert (lengths("index_vs_ring") / rest)[bones("ring")].max() < 0.98


def test_pose_space():
    arrays = load_free_arrays()
    components, deviations = arrays["hands_components"].astype(np.float64), arrays["hands_std"].astype(np.float64)
    assert np.abs(components @ components.T - np.eye(45)).max() < 1e-6
    assert (np.diff(deviations) <= 1e-9).all()
    assert (deviations > 0).sum() == 27  # 26 degrees of freedom, one of which curves in axis-angle space
    explained = np.cumsum(deviations**2) / (deviations**2).sum()
    assert explained[5] > 0.85
    assert explained[9] > 0.93
    fresh = sample_poses(500, np.random.default_rng(99))
    projected = (fresh - arrays["hands_mean"]) @ components[:27].T @ components[:27] + arrays["hands_mean"]
    assert np.abs(projected - fresh).max() < 1e-5
    assert (fresh >= arrays["theta_min"]).all()
    assert (fresh <= arrays["theta_max"]).all()


def test_correctives_keep_a_fists_volume():
    gestures = load_free_arrays()["gestures"][load_free_arrays()["gesture_names"].tolist().index("fist")]
    eye, betas, side = torch.eye(3)[None], torch.zeros(1, 10), torch.ones(1, dtype=torch.int64)
    fist = HandLayer()(eye, torch.tensor(gestures)[None], betas, side).vertices[0].numpy()
    rest = sealed(VERTICES).volume
    assert 0.94 < sealed(fist).volume / rest < 1.02
    plain = HandLayer(replace(MODEL, posedirs=np.zeros_like(MODEL.posedirs)))
    skinned = plain(eye, torch.tensor(gestures)[None], betas, side).vertices[0].numpy()
    assert sealed(skinned).volume < sealed(fist).volume - 0.03 * rest


def test_gestures_in_contact_touch():
    """Pinch and OK bring the pads of thumb and index together; in the open hand they are apart."""
    names, gestures = load_free_arrays()["gesture_names"].tolist(), load_free_arrays()["gestures"]
    assert names == list(GESTURES_DEG)
    poses = torch.tensor(np.stack([gestures[names.index(name)] for name in ("pinch", "ok", "flat")]))
    out = HandLayer()(torch.eye(3).expand(3, 3, 3), poses, torch.zeros(3, 10), torch.ones(3, dtype=torch.int64))
    part = load_free_arrays()["part"]
    gaps = []
    for vertices in out.vertices.numpy():
        thumb, index = vertices[part == 4], vertices[part == 0]
        gaps.append(np.linalg.norm(thumb[:, None] - index[None], axis=-1).min() * 1000)
    assert gaps[0] < 5
    assert gaps[1] < 5
    assert gaps[2] > 20


@pytest.fixture(scope="module")
def rebuilt() -> dict[str, np.ndarray]:
    return build_arrays()


def test_shipped_hand_is_what_the_source_builds(rebuilt):
    found = differences(rebuilt, read_npz(FREE_HAND_FILE))
    assert max(found.values()) < 1e-6, found


def test_saved_file_is_reproducible_and_small(rebuilt, tmp_path):
    for name in ("a.npz", "b.npz"):
        save_arrays(tmp_path / "new" / name, rebuilt)
    first, second = ((tmp_path / "new" / name).read_bytes() for name in ("a.npz", "b.npz"))
    assert first == second
    assert len(first) < 160_000
    assert len(list((tmp_path / "new").iterdir())) == 2  # no temporary file stays
    assert np.array_equal(load_hand(tmp_path / "new" / "a.npz").v_template, MODEL.v_template)


def test_failed_save_leaves_the_old_file(tmp_path):
    file = tmp_path / "hand.npz"
    file.write_bytes(b"old")

    class Unsavable:
        def __array__(self, dtype=None, copy=None):
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        save_arrays(file, {"v_template": Unsavable()})
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_differences_sees_changes():
    arrays = {"a": np.zeros(3), "n": np.array(["x"])}
    assert differences(arrays, arrays) == {"a": 0.0, "n": 0.0}
    assert differences(arrays, {"a": np.array([0, 0.5, 0]), "n": np.array(["y"])}) == {"a": 0.5, "n": float("inf")}
    assert differences(arrays, {"a": np.zeros(2)}) == {"a": float("inf"), "n": float("inf")}


def test_describe_names_both_sides():
    text = "\n".join(describe(MODEL))
    assert "778 vertices, 1538 faces" in text
    assert "left 745 317 444 556 673" in text
    assert "0.00 mm or less from the mirrored right one" in text


def test_info_command(tmp_path):
    result = CliRunner().invoke(app, ["hand", "info"])
    assert result.exit_code == 0
    assert "model       free" in result.stdout
    (tmp_path / "bad.npz").write_bytes(b"nothing")
    result = CliRunner().invoke(app, ["hand", "info", str(tmp_path / "bad.npz")])
    assert result.exit_code == 2
    assert "bad.npz: expected a readable .npz" in result.stderr
    result = CliRunner().invoke(app, ["hand", "info", str(tmp_path / "none")])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")


def test_build_command(rebuilt, tmp_path, monkeypatch):
    monkeypatch.setattr("handnet.hand.generator.build.build_arrays", lambda report: rebuilt)
    result = CliRunner().invoke(app, ["hand", "build", str(tmp_path / "mine.npz"), "--check"])
    assert result.exit_code == 0
    assert "same as the hand in this package" in result.stdout
    changed = rebuilt | {"weights": rebuilt["weights"] + np.float32(0.01)}
    monkeypatch.setattr("handnet.hand.generator.build.build_arrays", lambda report: changed)
    result = CliRunner().invoke(app, ["hand", "build", str(tmp_path / "mine.npz"), "--check"])
    assert result.exit_code == 1
    assert "weights by up to 1.000e-02" in result.stdout
    result = CliRunner().invoke(app, ["hand", "build", str(tmp_path / "mine.obj")])
    assert result.exit_code == 2
    assert "expected a path that ends in .npz" in result.stderr
