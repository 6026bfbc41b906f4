"""The hand layer against a naive per-hand loop and smplx: options, mirror, centring, joint conventions and errors."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from official_mano import with_left_of_its_own
from scipy.spatial.transform import Rotation

from handnet.hand.files import HandModel, load_hand
from handnet.hand.layer import HandLayer
from handnet.hand.posing import PART_SIZE
from handnet.rotations import axis_angle_to_matrix
from handnet.skeleton import JOINT_CONVENTIONS, MANO_PARENTS, STD21_NAMES, STD_TO_MANO, convention_index

MIRROR = torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)


def naive_hand(
    model: HandModel, side: int, root: np.ndarray, pose: np.ndarray, betas: np.ndarray, convention: str = "model"
) -> tuple[np.ndarray, np.ndarray]:
    """One hand at a time, one joint at a time; root and pose in axis-angle, joints in std21."""
    v = model.v_template[side] + model.shapedirs[side] @ betas
    rest = model.J_regressor[side] @ v
    rotations = Rotation.from_rotvec(np.concatenate([root, pose]).reshape(16, 3)).as_matrix()
    v = v + model.posedirs[side] @ (rotations[1:] - np.eye(3)).reshape(-1)
    world, position = rotations.copy(), rest.copy()
    for j in range(1, 16):
        p = MANO_PARENTS[j]
        world[j] = world[p] @ rotations[j]
        position[j] = position[p] + world[p] @ (rest[j] - rest[p])
    out = np.zeros_like(v)
    for j in range(16):
        out += model.weights[side][:, j, None] * ((v - rest[j]) @ world[j].T + position[j])
    tips = {
        "model": model.tips[side],
        "manopth": (745, 317, 444 if side else 445, 556, 673),
        # MANO's 555 and 672 are not at the free hand's fingertips, so it keeps its own
        "freihand": (744, 320, 443, 556, 673),
        "ho3d": (744, 333, 444, 556, 673),
        "smplx": (744, 320, 443, 554, 671),
        "interhand": (745, 317, 445, 556, 673),
    }[convention]
    if convention in ("freihand", "interhand"):
        position = model.J_regressor[side] @ out
    names = ["wrist", *(f"{f}{k}" for f in ("index", "middle", "little", "ring", "thumb") for k in (1, 2, 3))]
    by_name = dict(zip(names, position, strict=True))
    by_name |= {f"{f}4": out[t] for f, t in zip(("thumb", "index", "middle", "ring", "little"), tips, strict=True)}
    return out, np.stack([by_name[name] for name in STD21_NAMES])


def random_input(num: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return {
        "root": normal(num, 3),
        "pose": 0.5 * normal(num, 45),
        "betas": normal(num, 10),
        "side": torch.arange(num) % 2,
        "translation": normal(num, 3),
    }


def run(layer: HandLayer, x: dict[str, torch.Tensor], **options):
    return layer(axis_angle_to_matrix(x["root"]), x["pose"], x["betas"], x["side"], **options)


@pytest.fixture(scope="module")
def model() -> HandModel:
    return load_hand()


@pytest.fixture(scope="module")
def asymmetric(model) -> HandModel:
    return with_left_of_its_own(model)


def test_float32_layer_is_close_to_float64(model):
    x = random_input(8)
    exact = run(HandLayer(model, dtype=torch.float64), x)
    single = run(HandLayer(model), {name: value.float() if value.is_floating_point() else value for name, value in x.items()})
    assert (single.vertices - exact.vertices).abs().max() < 2e-6
    converted = run(HandLayer(model).double(), x)
    assert (converted.joints - exact.joints).abs().max() < 1e-6


@pytest.mark.parametrize("which", ["model", "asymmetric"])
@pytest.mark.parametrize("convention", list(JOINT_CONVENTIONS))
def test_equals_naive_loop(which, convention, request):
    model = request.getfixturevalue(which)
    layer, x = HandLayer(model, dtype=torch.float64), random_input(4)
    assert layer.mirrored == (which == "model")
    out = run(layer, x, joints=convention)
    for i in range(4):
        values = (x[name][i].numpy() for name in ("root", "pose", "betas"))
        vertices, joints = naive_hand(model, int(x["side"][i]), *values, convention)
        assert np.abs(out.vertices[i].numpy() - vertices).max() < 1e-12
        assert np.abs(out.joints[i].numpy() - joints).max() < 1e-12


@pytest.mark.parametrize("which", ["model", "asymmetric"])
def test_a_batch_in_parts_equals_its_hands_alone(which, request):
    layer, num = HandLayer(request.getfixturevalue(which), dtype=torch.float64), 2 * PART_SIZE + 3
    x = random_input(num)
    x = {name: value.requires_grad_() if value.is_floating_point() else value for name, value in x.items()}
    out = run(layer, x, center_joint=9)
    (out.vertices.square().sum() + out.joints.square().sum()).backward()
    for i in (0, PART_SIZE - 1, PART_SIZE, num - 1):
        one = {name: value.detach()[i : i + 1].clone() for name, value in x.items()}
        one = {name: value.requires_grad_() if value.is_floating_point() else value for name, value in one.items()}
        alone = run(layer, one, center_joint=9)
        (alone.vertices.square().sum() + alone.joints.square().sum()).backward()
        assert torch.allclose(out.vertices[i], alone.vertices[0], rtol=0, atol=1e-14)
        for name in ("root", "pose", "betas"):
            assert torch.allclose(x[name].grad[i], one[name].grad[0], rtol=1e-10, atol=1e-10), name


def test_mirrored_sides_and_two_matrices_are_the_same_hand(model):
    """A left template a hair off makes the layer hold both sides: it must not be another hand."""
    template = model.v_template.copy()
    template[0, 0, 0] += 1e-7
    one, two = HandLayer(model, dtype=torch.float64), HandLayer(replace(model, v_template=template), dtype=torch.float64)
    assert (one.mirrored, two.mirrored) == (True, False)
    a, b = (run(layer, random_input(6)) for layer in (one, two))
    assert (a.vertices - b.vertices).abs().max() < 2e-7
    assert (a.joints - b.joints).abs().max() < 2e-7


def test_matrix_and_axis_angle_input_are_the_same(model):
    layer, x = HandLayer(model), random_input(4, dtype=torch.float32)
    matrices = axis_angle_to_matrix(x["pose"].unflatten(1, (15, 3)))
    root = axis_angle_to_matrix(x["root"])
    expected = layer(root, matrices, x["betas"], x["side"])
    for given_root in (x["root"], root):
        for pose in (x["pose"], matrices):
            out = layer(given_root, pose, x["betas"], x["side"])
            assert torch.allclose(out.vertices, expected.vertices, atol=1e-6)
            assert torch.allclose(out.joints, expected.joints, atol=1e-6)


def test_mean_pose_is_added_to_axis_angle_only(model):
    layer, x = HandLayer(model), random_input(4, dtype=torch.float32)
    mean = torch.tensor(model.hands_mean, dtype=torch.float32)[x["side"]]
    assert torch.equal(run(layer, x, flat_hand_mean=False).vertices, run(layer, x | {"pose": x["pose"] + mean}).vertices)
    with pytest.raises(ValueError, match=r"flat_hand_mean: expected True with rotation matrices.*got False"):
        run(layer, x | {"pose": axis_angle_to_matrix(x["pose"].unflatten(1, (15, 3)))}, flat_hand_mean=False)


@pytest.mark.parametrize("is_right", [True, False])
@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("num_components", [None, 6, 44])
def test_equals_smplx_on_the_same_file(asymmetric, tmp_path, monkeypatch, is_right, flat, num_components):
    smplx = pytest.importorskip("smplx")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for side, name in enumerate(("LEFT", "RIGHT")):
        arrays = {key: getattr(asymmetric, key)[side] for key in ("v_template", "shapedirs", "posedirs", "J_regressor", "weights")}
        arrays |= {"hands_mean": asymmetric.hands_mean[side], "hands_components": asymmetric.hands_components[side]}
        arrays |= {"f": asymmetric.faces[side], "kintree_table": np.stack([asymmetric.parents, np.arange(16)])}
        (tmp_path / f"MANO_{name}.pkl").write_bytes(pickle.dumps(arrays))
    side = int(is_right)
    file = tmp_path / f"MANO_{('LEFT', 'RIGHT')[side]}.pkl"
    pca = {"use_pca": False} if num_components is None else {"use_pca": True, "num_pca_comps": num_components}
    oracle = smplx.MANO(str(file), is_rhand=is_right, flat_hand_mean=flat, dtype=torch.float64, **pca)
    x = random_input(5) | {"side": torch.full((5,), side)}
    if num_components is not None:
        x["pose"] = 2 * x["pose"][:, :num_components].contiguous()
    expected = oracle(betas=x["betas"], global_orient=x["root"], hand_pose=x["pose"], transl=x["translation"])
    layer = HandLayer(load_hand(tmp_path), dtype=torch.float64)
    options = {"flat_hand_mean": flat, "use_pca": num_components is not None, "joints": "smplx"}
    got = run(layer, x, translation=x["translation"], **options)
    assert (got.vertices - expected.vertices).abs().max() < 1e-6
    joints = got.joints[:, STD_TO_MANO.tolist()]
    num = expected.joints.shape[1]  # 16 joints, and the tips in versions that give them
    assert num >= 16
    assert (joints[:, :num] - expected.joints).abs().max() < 1e-6
    assert np.array_equal(layer.faces(side).numpy(), oracle.faces.astype(np.int64))


def test_left_is_the_mirrored_right(model):
    layer, x = HandLayer(model, dtype=torch.float64), random_input(6)
    right = run(layer, x | {"side": torch.ones(6, dtype=torch.int64)})
    turn = torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)
    mirrored = {"root": x["root"] * turn, "pose": x["pose"] * turn.repeat(15), "side": torch.zeros(6, dtype=torch.int64)}
    left = run(layer, x | mirrored)
    # the two wrists mirror each other too, so no shift is needed
    assert (left.vertices - right.vertices * MIRROR).abs().max() < 1e-12
    assert (left.joints - right.joints * MIRROR).abs().max() < 1e-12


@pytest.mark.parametrize("use_pca", [True, False])
def test_the_mean_pose_and_components_of_the_left_hand_mirror_the_right_ones(model, use_pca):
    layer, x = HandLayer(model, dtype=torch.float64), random_input(3)
    turn = torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64)
    sides = torch.zeros(3, dtype=torch.int64), torch.ones(3, dtype=torch.int64)
    pose = x["pose"][:, :9].contiguous() if use_pca else x["pose"]
    left_pose = pose if use_pca else pose * turn.repeat(15)  # the left hand's components are mirrored themselves
    right = run(layer, x | {"side": sides[1], "pose": pose}, flat_hand_mean=False, use_pca=use_pca)
    left = run(layer, x | {"side": sides[0], "pose": left_pose, "root": x["root"] * turn}, flat_hand_mean=False, use_pca=use_pca)
    assert (left.vertices - right.vertices * MIRROR).abs().max() < 1e-12


@pytest.mark.parametrize("joint", [0, 9, 12])
@pytest.mark.parametrize("convention", ["model", "freihand", "ho3d"])
def test_centering_comes_before_translation(model, joint, convention):
    layer, x = HandLayer(model), random_input(4, dtype=torch.float32)
    plain = run(layer, x, joints=convention)
    out = run(layer, x, translation=x["translation"], center_joint=joint, joints=convention)
    assert torch.allclose(out.joints[:, joint], x["translation"], atol=1e-6)
    shift = x["translation"] - plain.joints[:, joint]
    assert torch.allclose(out.vertices, plain.vertices + shift[:, None], atol=1e-6)
    assert torch.allclose(out.joints, plain.joints + shift[:, None], atol=1e-6)


def test_root_rotation_turns_the_hand_about_its_wrist(model):
    layer, x = HandLayer(model, dtype=torch.float64), random_input(3)
    still = run(layer, x | {"root": torch.zeros(3, 3, dtype=torch.float64)}, center_joint=0)
    turned = run(layer, x, center_joint=0)
    rotated = still.vertices @ axis_angle_to_matrix(x["root"]).mT
    assert torch.allclose(turned.vertices, rotated, atol=1e-12)


def test_tips_are_vertices(model):
    out = run(HandLayer(model), random_input(2, dtype=torch.float32))
    for i in range(2):
        assert torch.equal(out.joints[i, [4, 8, 12, 16, 20]], out.vertices[i, torch.tensor(model.tips[i])])


@pytest.mark.parametrize("which", ["model", "asymmetric"])
def test_hands_of_one_batch_can_have_conventions_of_their_own(which, request):
    layer, x = HandLayer(request.getfixturevalue(which)), random_input(2 * len(JOINT_CONVENTIONS), dtype=torch.float32)
    out = run(layer, x, center_joint=9)
    names = [name for name in JOINT_CONVENTIONS for _ in range(2)]
    mixed = layer.joints_as(torch.tensor([convention_index(name) for name in names]), out, x["side"])
    for i, name in enumerate(names):
        assert torch.allclose(mixed[i], layer.joints_as(name, out, x["side"])[i], atol=1e-7), name


def test_components_are_the_pca_basis(model):
    layer = HandLayer(model)
    coefficients = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    side = torch.tensor([0, 1, 1])
    got = layer.pose_from_components(coefficients, side)
    for i in range(3):
        expected = coefficients[i].numpy() @ model.hands_components[side[i], :6]
        assert np.allclose(got[i].numpy(), expected, atol=1e-6)
    root, betas = torch.zeros(3, 3), torch.zeros(3, 10)
    assert torch.equal(layer(root, coefficients, betas, side, use_pca=True).vertices, layer(root, got, betas, side).vertices)


def test_half_types_are_computed_in_the_layers_own(model):
    layer, x = HandLayer(model), random_input(3, dtype=torch.bfloat16)
    out = layer(x["root"], x["pose"], x["betas"], x["side"], x["translation"])
    exact = layer(*(x[name].float() for name in ("root", "pose", "betas")), x["side"], x["translation"].float())
    assert torch.equal(out.vertices, exact.vertices)


def test_empty_batch(model):
    x = random_input(0, dtype=torch.float32)
    x["pose"].requires_grad_()
    out = run(HandLayer(model), x, center_joint=0)
    assert out.vertices.shape == (0, 778, 3)
    assert out.joints.shape == (0, 21, 3)
    out.joints.sum().backward()
    assert x["pose"].grad.shape == (0, 45)


def test_buffers_stay_out_of_checkpoints(model):
    layer = HandLayer(model)
    assert not layer.state_dict()
    assert not list(layer.parameters())
    assert (layer.name, layer.sha256) == (model.name, model.sha256)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pose": torch.zeros(2, 48)}, r"pose: expected shape \(2, 45\).*got \(2, 48\)"),
        ({"betas": torch.zeros(2, 11)}, r"betas: expected shape \(2, 10\), got \(2, 11\)"),
        ({"side": torch.zeros(3, dtype=torch.int64)}, r"side: expected shape \(2,\), got \(3,\)"),
        ({"side": torch.zeros(2)}, "side: expected int64.*got torch.float32"),
        ({"side": torch.tensor([1, 2])}, r"side: expected 0 \(left\) or 1 \(right\), got \[1, 2\]"),
        ({"betas": torch.zeros(2, 10, dtype=torch.float64)}, "betas: expected torch.float32 as the layer.*got torch.float64"),
        ({"pose": torch.zeros(2, 45, dtype=torch.int64)}, "pose: expected torch.float32 as the layer.*got torch.int64"),
        ({"pose": torch.full((2, 45), float("nan"))}, r"pose: expected finite numbers, got NaN or infinity in hands \[0, 1\] of 2"),
        ({"betas": torch.tensor([[0.0] * 10, [1.0] * 9 + [float("inf")]])}, r"betas: expected finite numbers.*in hands \[1\] of 2"),
    ],
)
def test_wrong_input_is_named(model, change, message):
    with pytest.raises(ValueError, match=message):
        run(HandLayer(model), random_input(2, dtype=torch.float32) | change)


def test_values_are_not_looked_at_when_asked_not_to(model):
    x = random_input(2, dtype=torch.float32) | {"pose": torch.full((2, 45), float("nan"))}
    assert run(HandLayer(model, check_values=False), x).vertices.isnan().any()


def test_wrong_options_are_named(model):
    layer, x = HandLayer(model), random_input(2, dtype=torch.float32)
    with pytest.raises(ValueError, match="center_joint: expected a std21 index"):
        run(layer, x, center_joint=21)
    with pytest.raises(ValueError, match=r"translation: expected shape \(2, 3\)"):
        run(layer, x, translation=torch.zeros(2, 2))
    with pytest.raises(ValueError, match="side: expected 0"):
        layer.faces(2)
    with pytest.raises(ValueError, match=r"joint convention: expected one of \['model', .*got 'openpose'"):
        run(layer, x, joints="openpose")
    with pytest.raises(ValueError, match=r"pose: expected shape \(2, 1\.\.45\) with use_pca, got \(2, 46\)"):
        run(layer, x | {"pose": torch.zeros(2, 46)}, use_pca=True)
    out = run(layer, x)
    with pytest.raises(ValueError, match=r"vertices: expected shape \(2, 778, 3\), got \(2, 700, 3\)"):
        layer.joints_as("ho3d", out._replace(vertices=out.vertices[:, :700]), x["side"])
    with pytest.raises(ValueError, match=r"coefficients: expected shape \(N, 1\.\.45\), got \(2, 0\)"):
        layer.pose_from_components(torch.zeros(2, 0), x["side"])
