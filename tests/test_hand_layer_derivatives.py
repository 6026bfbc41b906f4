"""The hand layer's derivatives, and the ways a layer is used beside plain calls: autocast, compiled, traced, exported, transformed."""

import numpy as np
import pytest
import torch
from official_mano import with_left_of_its_own
from test_hand_layer import random_input, run
from torch.utils._python_dispatch import TorchDispatchMode

from handnet.hand.files import load_hand
from handnet.hand.layer import HandLayer
from handnet.hand.posing import PART_SIZE, plain_pose_hands, pose_hands
from handnet.rotations import axis_angle_to_matrix

NAMES = ("root", "pose", "betas", "translation")


@pytest.fixture(scope="module", params=["mirrored", "both sides"])
def layer(request) -> HandLayer:
    model = load_hand()
    return HandLayer(model if request.param == "mirrored" else with_left_of_its_own(model), dtype=torch.float64)


def inputs(num: int, seed: int = 0) -> dict[str, torch.Tensor]:
    x = random_input(num, seed)
    return {name: value.requires_grad_() if value.is_floating_point() else value for name, value in x.items()}


def call(layer: HandLayer, x: dict[str, torch.Tensor], **options):
    return layer(x["root"], x["pose"], x["betas"], x["side"], x["translation"], **options)


@pytest.mark.parametrize("center", [None, 9])
def test_gradcheck(layer, center):
    x = inputs(2, seed=3)
    with torch.no_grad():
        x["pose"][0] = 0  # the rest pose is where axis-angle formulas lose their gradient
    probe = torch.randn(778, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def function(*values):
        out = call(layer, x | dict(zip(NAMES, values, strict=True)), center_joint=center)
        return (out.vertices * probe).sum((1, 2)), out.joints

    assert torch.autograd.gradcheck(function, [x[name] for name in NAMES])


def test_second_derivatives(layer):
    x = inputs(2, seed=4)
    probe = torch.randn(778, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def function(*values):
        out = call(layer, x | dict(zip(NAMES, values, strict=True)), center_joint=0)
        return (out.vertices * probe).sum((1, 2)), out.joints[:, ::7]

    assert torch.autograd.gradgradcheck(function, [x[name] for name in NAMES], fast_mode=True)


@pytest.mark.parametrize("center", [None, 5])
@pytest.mark.parametrize("read", ["both", "vertices", "joints"])
@pytest.mark.parametrize(("matrices", "num"), [((), 3), (("root",), 3), (("pose",), 3), (("root", "pose"), PART_SIZE + 3)])
def test_the_written_derivative_equals_autograds(layer, center, read, matrices, num):
    x = random_input(num)
    if "root" in matrices:
        x["root"] = axis_angle_to_matrix(x["root"])
    if "pose" in matrices:
        x["pose"] = axis_angle_to_matrix(x["pose"].unflatten(1, (15, 3)))
    rig = layer._rig(x["side"])
    given = [torch.randn(num, k, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(k)) for k in (778, 21)]
    found = []
    for function in (pose_hands, plain_pose_hands):
        values = [x[name].clone().requires_grad_() for name in NAMES]
        outputs = function(rig, *values, center)
        pairs = [(o, g) for o, g, name in zip(outputs, given, ("vertices", "joints"), strict=True) if read in ("both", name)]
        found.append(torch.autograd.grad([o for o, _ in pairs], values, [g for _, g in pairs]))
    for name, a, b in zip(NAMES, *found, strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-11), name


def test_gradients_of_what_needs_none_are_left_out(layer):
    x = inputs(2)
    x["betas"].requires_grad_(False)
    call(layer, x).vertices.sum().backward()
    assert x["betas"].grad is None
    assert x["pose"].grad is not None


def test_runs_repeat_bit_for_bit(layer):
    grads = []
    for _ in range(2):
        x = inputs(40)
        call(layer, x, center_joint=9).vertices.square().sum().backward()
        grads.append([x[name].grad for name in NAMES])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_under_autocast_nothing_is_computed_in_half():
    layer, x = HandLayer(), random_input(3, dtype=torch.float32)
    found = []
    for enabled in (True, False):
        values = {name: value.clone().requires_grad_() if value.is_floating_point() else value for name, value in x.items()}
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            out = call(layer, values)
            joints = layer.joints_as("freihand", out, x["side"])
            (out.vertices.square().sum() + out.joints.square().sum()).backward()
        found.append([out.vertices, joints, *(values[name].grad for name in NAMES)])
    for a, b in zip(*found, strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)


class Recorder(TorchDispatchMode):
    """Names of all operations that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func._schema.name)
        return func(*args, **(kwargs or {}))


def test_no_operation_waits_for_a_value_or_has_a_shape_that_depends_on_one():
    """What would stall a GPU at every step. On a CPU the check of values does look, unless it is told not to."""
    for model in (load_hand(), with_left_of_its_own(load_hand())):
        layer, x = HandLayer(model, dtype=torch.float64, check_values=False), inputs(3)
        with Recorder() as recorder:
            out = call(layer, x, center_joint=12, joints="freihand", flat_hand_mean=False)
            (out.vertices.sum() + out.joints.sum()).backward()
        waiting = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::unique", "aten::is_nonzero", "aten::equal"}
        assert "aten::mm" in recorder.names
        assert not recorder.names & waiting


@pytest.mark.parametrize("options", [{}, {"center_joint": 8, "joints": "freihand", "flat_hand_mean": False}])
def test_compiles_without_a_graph_break(layer, options):
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    found = []
    for function in (compiled, layer):
        x = inputs(3)
        out = call(function, x, **options)
        (out.vertices.square().sum() + out.joints.square().sum()).backward()
        found.append([out.vertices, out.joints, *(x[name].grad for name in NAMES)])
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-9)


def test_jacobians_by_transforms(layer):
    """torch.func sees through plain operations only: reverse over vmap, and forward mode."""
    x = random_input(2)

    def joints(pose):
        return call(layer, x | {"pose": pose}).joints[:, 8].sum(0)

    by_rows = torch.autograd.functional.jacobian(joints, x["pose"])
    for transform in (torch.func.jacrev, torch.func.jacfwd):
        assert torch.allclose(transform(joints)(x["pose"]), by_rows, atol=1e-10)


def test_jit_trace(layer):
    x = random_input(3)
    traced = torch.jit.trace(layer, (x["root"], x["pose"], x["betas"], x["side"]))
    more = random_input(5, seed=1)
    got = traced(more["root"], more["pose"], more["betas"], more["side"])
    assert torch.allclose(got[0], run(layer, more).vertices, atol=1e-12)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_onnx_export_with_any_batch_size(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")

    class Centered(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = HandLayer()

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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_what_the_cpu_gives(layer):
    found = []
    for device in ("cpu", "cuda"):
        x = {name: value.detach().to(device).requires_grad_(value.is_floating_point()) for name, value in random_input(40).items()}
        out = call(layer.to(device), x, center_joint=9)
        out.vertices.square().sum().backward()
        found.append([out.vertices, out.joints, *(x[name].grad for name in NAMES)])
    layer.cpu()
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b.cpu(), rtol=1e-9, atol=1e-10)
