"""Hand models from files: the free hand, users' npz files and folders, and every way a file can be wrong."""

from pathlib import Path

import numpy as np
import pytest

from handnet.hand.files import FREE_HAND_FILE, HandModel, load_free_arrays, load_hand
from handnet.hand.frames import anatomical_frames

SCHEMA_KEYS = ["v_template", "f", "shapedirs", "posedirs", "J_regressor", "weights", "hands_mean", "hands_components", "kintree_table"]


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    """The free right hand as a file with MANO's keys only."""
    return {key: load_free_arrays()[key].copy() for key in SCHEMA_KEYS}


def save(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    np.savez(path, **arrays)
    return path


def test_free_hand_has_both_sides():
    model = load_hand()
    shapes = {
        "v_template": (2, 778, 3),
        "shapedirs": (2, 778, 3, 10),
        "posedirs": (2, 778, 3, 135),
        "J_regressor": (2, 16, 778),
        "weights": (2, 778, 16),
        "hands_mean": (2, 45),
        "hands_components": (2, 45, 45),
        "faces": (2, 1538, 3),
        "parents": (16,),
        "joint_axes": (2, 16, 3, 3),
        "tips": (2, 5),
    }
    for name, shape in shapes.items():
        assert getattr(model, name).shape == shape
    assert model.faces.dtype == np.int64
    assert model.name == "free"
    assert load_hand() is model  # read once
    with pytest.raises(ValueError, match="read-only"):
        model.v_template[0, 0, 0] = 1


def test_left_arrays_mirror_the_right():
    model = load_hand()
    assert np.array_equal(model.v_template[0] * [-1, 1, 1], model.v_template[1])
    assert np.array_equal(model.faces[0, :, ::-1], model.faces[1])
    assert np.allclose(np.linalg.det(model.joint_axes), 1)  # both sides' frames are right-handed in (l, d, u)
    for v, f in zip(model.v_template, model.faces, strict=True):
        assert np.einsum("ij,ij->", np.cross(v[f[:, 0]], v[f[:, 1]]), v[f[:, 2]]) > 0  # wound outwards


def test_free_arrays_hold_the_extras():
    arrays = load_free_arrays()
    assert arrays["gestures"].shape == (22, 45)
    assert len(set(arrays["gesture_names"].tolist())) == 22
    assert len(arrays["shape_names"]) == 10
    assert set(np.unique(arrays["part"]).tolist()) == {-1, 0, 1, 2, 3, 4}
    assert (arrays["theta_min"] < arrays["theta_max"]).all()
    with pytest.raises(ValueError, match="read-only"):
        arrays["gestures"][0] = 0


def test_users_npz_loads_like_the_free_hand(tmp_path, arrays):
    model, free = load_hand(save(tmp_path / "mine.npz", arrays)), load_hand()
    assert model.name == "mine"
    for name in ("v_template", "posedirs", "weights", "faces", "tips"):
        assert np.array_equal(getattr(model, name), getattr(free, name))


def test_frames_are_derived_when_a_file_has_none(tmp_path, arrays):
    model, free = load_hand(save(tmp_path / "mine.npz", arrays)), load_hand()
    cosines = np.einsum("sjkc,sjkc->sjk", model.joint_axes, free.joint_axes)
    assert np.degrees(np.arccos(np.clip(cosines, -1, 1))).max() < 1.5
    joints = free.J_regressor[0] @ free.v_template[0]
    assert np.allclose(anatomical_frames(joints, free.v_template[0][free.tips[0]], left=True), model.joint_axes[0])


def test_left_file_gives_the_right_hand_by_mirroring(tmp_path, arrays):
    free = load_hand()
    left = arrays | {"v_template": free.v_template[0], "f": free.faces[0], "shapedirs": free.shapedirs[0], "posedirs": free.posedirs[0]}
    left |= {"hands_mean": free.hands_mean[0], "hands_components": free.hands_components[0]}
    model = load_hand(save(tmp_path / "MANO_LEFT.npz", left))
    for name in ("v_template", "shapedirs", "posedirs", "faces", "hands_mean"):
        assert np.array_equal(getattr(model, name), getattr(free, name))


def test_folder_with_both_sides_fixes_the_left_shapedirs(tmp_path, arrays):
    free = load_hand()
    save(tmp_path / "MANO_RIGHT.npz", arrays)
    left = {key: value.copy() for key, value in arrays.items()} | {"v_template": free.v_template[0], "f": free.faces[0]}
    left["posedirs"] = free.posedirs[0]
    left["shapedirs"] = free.shapedirs[0] * np.array([-1.0, 1, 1])[:, None]  # the official fault: x as in the right hand
    save(tmp_path / "MANO_LEFT.npz", left)
    assert np.abs(load_hand(tmp_path).shapedirs - free.shapedirs).max() < 1e-12
    left["shapedirs"] = free.shapedirs[0]  # a file without the fault must stay as it is
    save(tmp_path / "MANO_LEFT.npz", left)
    assert np.array_equal(load_hand(tmp_path).shapedirs, free.shapedirs)
    assert load_hand(tmp_path).tips.tolist() == [[745, 317, 445, 556, 673], [745, 317, 444, 556, 673]]


def test_folder_with_the_right_hand_only(tmp_path, arrays):
    save(tmp_path / "MANO_RIGHT.npz", arrays)
    model: HandModel = load_hand(tmp_path)
    assert np.array_equal(model.v_template, load_hand().v_template)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="MANO_RIGHT"):
        load_hand(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"none\.npz"):
        load_hand(tmp_path / "none.npz")
    with pytest.raises(ValueError, match=r"expected a hand model as \.npz or \.pkl.*'\.obj'"):
        load_hand(tmp_path / "hand.obj")


def with_nan(array: np.ndarray) -> np.ndarray:
    array[3] = np.nan
    return array


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        ("posedirs", None, r"posedirs: expected an array of shape \(778, 3, 135\), found no such key among"),
        ("v_template", lambda a: a[:700], r"v_template: expected shape \(778, 3\), got \(700, 3\)"),
        ("weights", with_nan, "weights: expected finite numbers, got 16 that are not"),
        ("weights", lambda a: a * 2, "weights: expected rows >= 0 that sum to 1"),
        ("f", lambda a: a.astype(float), "f: expected integer numbers, got dtype float64"),
        ("f", lambda a: a + 700, r"f: expected vertex ids 0\.\.777, got 700\.\.1477"),
        ("hands_mean", lambda a: a.astype(str), "hands_mean: expected real numbers, got dtype"),
        ("kintree_table", lambda a: a[:, ::-1], r"kintree_table: expected the parents \[0, 1, 2"),
        ("v_template", lambda a: a * 1000, r"v_template: expected a hand in metres.*got an extent of 1"),
    ],
)
def test_wrong_arrays_are_named(tmp_path, arrays, key, change, message):
    if change is None:
        del arrays[key]
    else:
        arrays[key] = change(arrays[key])
    file = save(tmp_path / "broken.npz", arrays)
    with pytest.raises(ValueError, match=rf"broken\.npz: {message}"):
        load_hand(file)


def test_pickled_arrays_are_refused_unread(tmp_path, arrays):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    arrays["hands_mean"] = np.array([Bomb()], dtype=object)
    file = tmp_path / "broken.npz"
    np.savez(file, allow_pickle=True, **arrays)
    with pytest.raises(ValueError, match=r"broken\.npz: hands_mean: expected a plain array, got a pickled object or a damaged one"):
        load_hand(file)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("content", [b"", b"not a zip at all", FREE_HAND_FILE.read_bytes()[:5000]])
def test_damaged_files_are_named(tmp_path, content):
    file = tmp_path / "damaged.npz"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged\.npz: expected a readable \.npz"):
        load_hand(file)
