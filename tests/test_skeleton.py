"""Joint orders: permutations, inverses and the bones' tree."""

import numpy as np
import pytest

from handnet import skeleton


def test_std_order_is_base_to_tip_per_finger():
    assert len(skeleton.STD21_NAMES) == 21
    assert skeleton.STD21_NAMES[:6] == ("wrist", "thumb1", "thumb2", "thumb3", "thumb4", "index1")
    assert skeleton.STD21_NAMES[skeleton.ROOT] == "middle1"


def test_bones_form_the_hand_tree():
    assert len(skeleton.BONES) == 20
    assert sorted(child for _, child in skeleton.BONES) == list(range(1, 21))
    for parent, child in skeleton.BONES:
        names = skeleton.STD21_NAMES[parent], skeleton.STD21_NAMES[child]
        if parent == 0:
            assert names[1].endswith("1")
        else:
            assert names[0][:-1] == names[1][:-1]
            assert int(names[1][-1]) == int(names[0][-1]) + 1
    assert skeleton.MIDDLE_FIRST_BONE in skeleton.BONES
    assert np.array_equal(skeleton.BONE_ARRAY, skeleton.BONES)


def test_mano_order_by_name():
    source = [*skeleton.MANO_JOINT_NAMES, *(f"{finger}4" for finger in skeleton.FINGERS)]
    assert tuple(source[i] for i in skeleton.MANO_TO_STD) == skeleton.STD21_NAMES
    assert [skeleton.STD21_NAMES[i] for i in skeleton.STD_TO_HO3D] == source
    assert skeleton.STD_TO_HO3D.tolist() == [0, 5, 6, 7, 9, 10, 11, 17, 18, 19, 13, 14, 15, 1, 2, 3, 4, 8, 12, 16, 20]


def test_mano_parents_follow_the_names():
    for joint, parent in enumerate(skeleton.MANO_PARENTS[1:], start=1):
        name, above = skeleton.MANO_JOINT_NAMES[joint], skeleton.MANO_JOINT_NAMES[parent]
        assert above == "wrist" if name.endswith("1") else (above[:-1] == name[:-1] and int(above[-1]) == int(name[-1]) - 1)


def test_rhd_and_interhand_run_from_tip_to_base():
    rhd = ["wrist", *(f"{finger}{k}" for finger in skeleton.FINGERS for k in (4, 3, 2, 1))]
    assert tuple(rhd[i] for i in skeleton.RHD_TO_STD) == skeleton.STD21_NAMES
    assert np.array_equal(skeleton.RHD_TO_STD[skeleton.RHD_TO_STD], np.arange(21))
    interhand = [*(f"{finger}{k}" for finger in skeleton.FINGERS for k in (4, 3, 2, 1)), "wrist"]
    assert tuple(interhand[i] for i in skeleton.INTERHAND_TO_STD) == skeleton.STD21_NAMES


def test_maps_are_read_only():
    with pytest.raises(ValueError, match="read-only"):
        skeleton.MANO_TO_STD[0] = 3


def test_side_index_names_the_mistake():
    assert (skeleton.side_index("left"), skeleton.side_index("right")) == (0, 1)
    with pytest.raises(ValueError, match=r"expected one of.*'Right'"):
        skeleton.side_index("Right")


def test_joint_conventions_are_whole_and_fixed():
    assert list(skeleton.JOINT_CONVENTIONS) == ["model", "manopth", "freihand", "ho3d", "smplx", "interhand"]
    for name, convention in skeleton.JOINT_CONVENTIONS.items():
        assert convention.name == name
        assert convention.regressed == (name in ("freihand", "interhand"))
        if convention.tips is None:
            assert name == "model"  # a model's own
            continue
        assert convention.tips.shape == (2, 5)
        assert len(set(convention.tips[0].tolist())) == 5
        assert (np.abs(convention.tips[0] - convention.tips[1]) <= 1).all()
        with pytest.raises(ValueError, match="read-only"):
            convention.tips[0, 0] = 1
    assert skeleton.FINGERTIP_VERTICES[skeleton.side_index("left")].tolist() == [745, 317, 445, 556, 673]


def test_convention_index_names_the_mistake():
    assert [skeleton.convention_index(name) for name in skeleton.JOINT_CONVENTIONS] == [0, 1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match=r"joint convention: expected one of \['model', 'manopth'.*got 'FreiHAND'"):
        skeleton.convention_index("FreiHAND")
