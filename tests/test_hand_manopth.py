"""A stand-in for manopth's ManoLayer, with its buffers, options and conventions, taken over as a hand model."""

import numpy as np
import pytest
import torch
from official_mano import with_left_of_its_own
from test_hand_layer import naive_hand, random_input

from handnet.hand.files import HandModel, load_hand
from handnet.hand.layer import HandLayer
from handnet.hand.manopth import forward_options, model_from_manopth


class Chumpy:
    """A chumpy array: its value is `.r`."""

    def __init__(self, value: np.ndarray) -> None:
        self.r = value


class ManoLayer(torch.nn.Module):
    """manopth's interface: float32 buffers named th_*, pose coefficients behind 3 numbers of root rotation, millimetres, std21."""

    def __init__(self, model: HandModel, side: str, *, use_pca=True, ncomps=6, flat_hand_mean=True, center_idx=None):
        super().__init__()
        self.model, self.side, self.use_pca, self.flat_hand_mean, self.center_idx = model, side, use_pca, flat_hand_mean, center_idx
        self.index = ("left", "right").index(side)
        self.ncomps = ncomps if use_pca else 45
        self.joint_rot_mode = self.root_rot_mode = "axisang"
        arrays = {name: getattr(model, name)[self.index] for name in ("shapedirs", "posedirs", "J_regressor", "weights")}
        for name, array in arrays.items():
            self.register_buffer(f"th_{name}", torch.tensor(array, dtype=torch.float32))
        self.register_buffer("th_v_template", torch.tensor(model.v_template[self.index], dtype=torch.float32)[None])
        self.register_buffer("th_faces", torch.tensor(model.faces[self.index]))
        mean = np.zeros(45) if flat_hand_mean else model.hands_mean[self.index]
        self.register_buffer("th_hands_mean", torch.tensor(mean, dtype=torch.float32)[None])
        self.register_buffer("th_comps", torch.tensor(model.hands_components[self.index], dtype=torch.float32))
        self.smpl_data = {"hands_mean": Chumpy(model.hands_mean[self.index]), "hands_components": model.hands_components[self.index]}
        self.kintree_parents = [2**32 - 1, *model.parents[1:].tolist()]

    def forward(self, th_pose_coeffs, th_betas, th_trans):
        vertices, joints = [], []
        for coefficients, betas, shift in zip(th_pose_coeffs.numpy(), th_betas.numpy(), th_trans.numpy(), strict=True):
            pose = coefficients[3 : 3 + self.ncomps]
            if self.use_pca:
                pose = pose @ self.th_comps.numpy()[: self.ncomps]
            v, j = naive_hand(self.model, self.index, coefficients[:3], pose + self.th_hands_mean.numpy()[0], betas, "manopth")
            if not shift.any() and self.center_idx is not None:
                shift = -j[self.center_idx]
            vertices.append((v + shift) * 1000)
            joints.append((j + shift) * 1000)
        return np.stack(vertices), np.stack(joints)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    "options", [{}, {"ncomps": 12, "flat_hand_mean": False}, {"use_pca": False, "flat_hand_mean": False, "center_idx": 9}]
)
def test_the_same_hand_as_manopth_in_metres(side, options):
    model = with_left_of_its_own(load_hand())
    layers = [ManoLayer(model, name, **options) for name in ("right", "left")]
    theirs = layers[0] if side == "right" else layers[1]
    ours = HandLayer(model_from_manopth(*layers))
    x = random_input(3, dtype=torch.float32)
    pose, sides = x["pose"][:, : theirs.ncomps], torch.full((3,), int(side == "right"))
    shift = torch.zeros(3, 3) if "center_idx" in options else x["translation"]
    vertices, joints = theirs(torch.cat([x["root"], pose], 1), x["betas"], shift)
    out = ours(x["root"], pose, x["betas"], sides, shift, joints="manopth", **forward_options(theirs))
    assert np.abs(out.vertices.numpy() - vertices / 1000).max() < 2e-6
    assert np.abs(out.joints.numpy() - joints / 1000).max() < 2e-6
    assert torch.equal(ours.faces(int(side == "right")), theirs.th_faces)


def test_one_layer_is_mirrored_and_the_left_fault_removed():
    model = load_hand()
    right, left = ManoLayer(model, "right"), ManoLayer(model, "left")
    assert np.allclose(model_from_manopth(right).v_template, model.v_template, atol=1e-7)
    assert np.allclose(model_from_manopth(left).shapedirs, model.shapedirs, atol=1e-9)
    left.th_shapedirs[:, 0] *= -1  # as the official file has it, and with it manopth
    assert np.allclose(model_from_manopth(left, right).shapedirs, model.shapedirs, atol=1e-9)
    assert np.allclose(model_from_manopth(right).hands_mean, model.hands_mean)  # out of smpl_data: the layer's own is 0


def test_what_is_no_mano_layer_is_named():
    layer = ManoLayer(load_hand(), "right")
    with pytest.raises(ValueError, match=r"ManoLayer: expected layers of two sides, got right twice"):
        model_from_manopth(layer, layer)
    with pytest.raises(ValueError, match=r"Linear: side: expected 'left' or 'right', got None"):
        model_from_manopth(torch.nn.Linear(1, 1))
    layer.side = "left"
    with pytest.raises(ValueError, match=r"ManoLayer \(left\): v_template: expected a left hand.*got a right one"):
        model_from_manopth(layer)
    layer.side, layer.smpl_data = "right", {}
    with pytest.raises(ValueError, match=r"ManoLayer: hands_mean: expected it in smpl_data or th_hands_mean.*found none"):
        model_from_manopth(layer)
    del layer.th_weights
    with pytest.raises(ValueError, match=r"ManoLayer: expected manopth's ManoLayer, found no th_weights"):
        model_from_manopth(layer)
    short = ManoLayer(load_hand(), "right")
    short.th_v_template = short.th_v_template[:, :700]
    with pytest.raises(ValueError, match=r"ManoLayer \(right\): v_template: expected shape \(778, 3\), got \(700, 3\)"):
        model_from_manopth(short)
