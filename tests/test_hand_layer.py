"""The skinning layer against a naive per-hand loop and smplx, and its mirror, centring, gradients and errors."""

import pickle

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from handnet.hand.files import HandModel, load_hand
from handnet.hand.layer import HandLayer
from handnet.rotations import axis_angle_to_matrix
from handnet.skeleton import MANO_PARENTS, STD21_NAMES

MIRROR = torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)


def naive_hand(model: HandModel, side: int, root: np.ndarray, pose: np.ndarray, betas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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
    names = ["wrist", *(f"{f}{k}" for f in ("index", "middle", "little", "ring", "thumb") for k in (1, 2, 3))]
    by_name = dict(zip(names, position, strict=True))
    by_name |= {f"{f}4": out[t] for f, t in zip(("thumb", "index", "middle", "ring", "little"), model.tips[side], strict=True)}
    return out, np.stack([by_name[name] for name in STD21_NAMES])


def test_float32_layer_is_close_to_float64(model):
    x = random_input(8)
    exact = run(HandLayer(model, dtype=torch.float64), x)
    single = run(HandLayer(model), {name: value.float() if value.is_floating_point() else value for name, value in x.items()})
    assert (single.vertices - exact.vertices).abs().max() < 2e-6
    converted = run(HandLayer(model).double(), x)
    assert (converted.joints - exact.joints).abs().max() < 1e-6


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
    """A model whose sides are not mirrors of each other, as the official files', with weights of their own."""
    from dataclasses import replace

    rng = np.random.default_rng(5)
    weights = model.weights.copy()
    weights[0] = np.roll(weights[0], 1, axis=0)
    names = ("v_template", "shapedirs", "posedirs")
    noise = {name: getattr(model, name) + 1e-3 * rng.standard_normal(getattr(model, name).shape) for name in names}
    return replace(model, name="asymmetric", weights=weights, **noise)


@pytest.mark.parametrize("which", ["model", "asymmetric"])
def test_equals_naive_loop(which, request):
    model = request.getfixturevalue(which)
    layer, x = HandLayer(model, dtype=torch.float64), random_input(7)
    layer_model = model
    out = run(layer, x)
    for i in range(7):
        vertices, joints = naive_hand(layer_model, int(x["side"][i]), x["root"][i].numpy(), x["pose"][i].numpy(), x["betas"][i].numpy())
        assert np.abs(out.vertices[i].numpy() - vertices).max() < 1e-12
        assert np.abs(out.joints[i].numpy() - joints).max() < 1e-12


def test_matrix_pose_equals_axis_angle_pose(model):
    layer, x = HandLayer(model), random_input(4, dtype=torch.float32)
    matrices = axis_angle_to_matrix(x["pose"].unflatten(1, (15, 3)))
    a, b = run(layer, x), run(layer, x | {"pose": matrices})
    assert torch.equal(a.vertices, b.vertices)
    assert torch.equal(a.joints, b.joints)


def test_mean_pose_is_added_to_axis_angle_only(model):
    layer, x = HandLayer(model), random_input(4, dtype=torch.float32)
    mean = torch.tensor(model.hands_mean, dtype=torch.float32)[x["side"]]
    assert torch.equal(run(layer, x, flat_hand_mean=False).vertices, run(layer, x | {"pose": x["pose"] + mean}).vertices)
    with pytest.raises(ValueError, match="flat_hand_mean"):
        run(layer, x | {"pose": axis_angle_to_matrix(x["pose"].unflatten(1, (15, 3)))}, flat_hand_mean=False)


@pytest.mark.parametrize("is_right", [True, False])
@pytest.mark.parametrize("flat", [True, False])
def test_equals_smplx(model, tmp_path, is_right, flat):
    smplx = pytest.importorskip("smplx")
    side = int(is_right)
    arrays = {name: getattr(model, name)[side] for name in ("v_template", "shapedirs", "posedirs", "J_regressor", "weights")}
    arrays |= {"hands_mean": model.hands_mean[side], "hands_components": model.hands_components[side], "f": model.faces[side]}
    arrays["kintree_table"] = np.stack([model.parents, np.arange(16)])
    file = tmp_path / f"MANO_{'RIGHT' if is_right else 'LEFT'}.pkl"
    file.write_bytes(pickle.dumps(arrays))
    oracle = smplx.MANO(str(file), is_rhand=is_right, use_pca=False, flat_hand_mean=flat, dtype=torch.float64)
    x = random_input(5) | {"side": torch.full((5,), side)}
    expected = oracle(betas=x["betas"], global_orient=x["root"], hand_pose=x["pose"], transl=x["translation"])
    layer = HandLayer(model, dtype=torch.float64)
    got = run(layer, x, translation=x["translation"], flat_hand_mean=flat)
    assert (got.vertices - expected.vertices).abs().max() < 1e-6
    assert (got.joints[:, [0, 5, 6, 7, 9, 10, 11, 17, 18, 19, 13, 14, 15, 1, 2, 3]] - expected.joints[:, :16]).abs().max() < 1e-6
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


def test_centering_comes_before_translation(model):
    layer, x = HandLayer(model), random_input(4, dtype=torch.float32)
    plain = run(layer, x)
    for joint in (0, 9):
        out = run(layer, x, translation=x["translation"], center_joint=joint)
        assert torch.allclose(out.joints[:, joint], x["translation"], atol=1e-6)
        shift = x["translation"] - plain.joints[:, joint]
        assert torch.allclose(out.vertices, plain.vertices + shift[:, None], atol=1e-6)


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


def test_components_are_the_pca_basis(model):
    layer = HandLayer(model)
    coefficients = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    side = torch.tensor([0, 1, 1])
    got = layer.pose_from_components(coefficients, side)
    for i in range(3):
        expected = coefficients[i].numpy() @ model.hands_components[side[i], :6]
        assert np.allclose(got[i].numpy(), expected, atol=1e-6)


def test_gradcheck(model):
    layer, x = HandLayer(model, dtype=torch.float64), random_input(2, seed=3)
    probe = torch.randn(778, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def function(root, pose, betas, translation):
        out = layer(axis_angle_to_matrix(root), pose, betas, x["side"], translation, center_joint=9)
        return (out.vertices * probe).sum((1, 2)), out.joints

    pose = x["pose"].clone()
    pose[0] = 0  # the rest pose is where axis-angle formulas lose their gradient
    inputs = [v.requires_grad_() for v in (x["root"], pose, x["betas"], x["translation"])]
    assert torch.autograd.gradcheck(function, inputs)


def test_empty_batch(model):
    out = run(HandLayer(model), random_input(0, dtype=torch.float32), center_joint=0)
    assert out.vertices.shape == (0, 778, 3)
    assert out.joints.shape == (0, 21, 3)


def test_buffers_stay_out_of_checkpoints(model):
    layer = HandLayer(model)
    assert not layer.state_dict()
    assert not list(layer.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pose": torch.zeros(2, 48)}, r"pose: expected shape \(2, 45\).*got \(2, 48\)"),
        ({"betas": torch.zeros(2, 11)}, r"betas: expected shape \(2, 10\), got \(2, 11\)"),
        ({"side": torch.zeros(3, dtype=torch.int64)}, r"side: expected shape \(2,\), got \(3,\)"),
        ({"side": torch.zeros(2)}, "side: expected int64.*got torch.float32"),
        ({"side": torch.tensor([1, 2])}, r"side: expected 0 \(left\) or 1 \(right\), got \[1, 2\]"),
    ],
)
def test_wrong_input_is_named(model, change, message):
    with pytest.raises(ValueError, match=message):
        run(HandLayer(model), random_input(2, dtype=torch.float32) | change)


def test_wrong_options_are_named(model):
    layer, x = HandLayer(model), random_input(2, dtype=torch.float32)
    with pytest.raises(ValueError, match="center_joint: expected a std21 index"):
        run(layer, x, center_joint=21)
    with pytest.raises(ValueError, match=r"translation: expected shape \(2, 3\)"):
        run(layer, x, translation=torch.zeros(2, 2))
    with pytest.raises(ValueError, match="side: expected 0"):
        layer.faces(2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_onnx_export_with_any_batch_size(model, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")

    class Centered(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = HandLayer(model)

        def forward(self, root, pose, betas, side):
            return tuple(self.layer(axis_angle_to_matrix(root), pose, betas, side, center_joint=9))

    names = ("root", "pose", "betas", "side")
    small, large = (tuple(random_input(num, dtype=torch.float32)[name] for name in names) for num in (2, 5))
    file = tmp_path / "hand.onnx"
    axes = {name: {0: "num_hands"} for name in names}
    torch.onnx.export(Centered(), small, str(file), dynamo=False, opset_version=17, input_names=list(names), dynamic_axes=axes)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    got = session.run(None, {name: value.numpy() for name, value in zip(names, large, strict=True)})
    for ours, theirs in zip(Centered()(*large), got, strict=True):
        assert np.abs(ours.numpy() - theirs).max() < 1e-6
