"""`handnet predict`: a model folder and images in, JSON and GLB out; mistakes are one line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from handnet.cli import app
from handnet.hand.files import load_free_arrays, load_hand
from handnet.hand.layer import HandLayer
from handnet.network.handnet import HandNet, HandNetConfig
from handnet.predict import MODEL_SCHEMA, ModelDescription

CONFIG = HandNetConfig(
    backbone="mobilenetv3_small_050", feature_channels=16, output_stride=4, hidden_channels=32, rotation="6d", keypoint_branch="window"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """Untrained weights that see a hand everywhere."""
    torch.manual_seed(0)
    network = HandNet(CONFIG, HandLayer())
    network.center_head[-1].bias.data.fill_(3.0)
    folder = tmp_path_factory.mktemp("model")
    save_file(network.state_dict(), folder / "model.safetensors")
    write_description(folder, hand="free", hand_sha256=load_hand().sha256)
    return folder


def write_description(folder: Path, **hand) -> None:
    values = {"stage": "multi", "input_px": 96, "focal_px": 512.0, "fingerprint": "", "provenance": {}}
    (folder / "model.json").write_text(ModelDescription(schema=MODEL_SCHEMA, network=CONFIG, **values, **hand).to_json())


@pytest.fixture
def photo(tmp_path) -> Path:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 120, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def run(*arguments: object):
    return CliRunner().invoke(app, ["predict", *map(str, arguments)])


def test_writes_json_and_glb_in_one_camera_frame(model, photo, tmp_path):
    result = run(photo, "--model", model, "--out", tmp_path / "out", "--focal-px", 300)
    assert result.exit_code == 0, result.output
    hands = json.loads((tmp_path / "out/photo.json").read_text())["hands"]
    assert hands
    for hand in hands:
        assert hand["K"] == [[300.0, 0.0, 60.0], [0.0, 300.0, 40.0], [0.0, 0.0, 1.0]]
        points = np.array(hand["keypoints_m"]) @ np.array(hand["K"]).T
        np.testing.assert_allclose(points[:, :2] / points[:, 2:], hand["keypoints_px"], atol=0.05)
        assert len(hand["mano"]) == 61
    scene = trimesh.load(tmp_path / "out/photo.glb")
    assert len(scene.geometry) == len(hands)
    for mesh in scene.geometry.values():
        assert mesh.vertices.shape == (778, 3)
        assert mesh.vertices[:, 2].max() < 0  # in front of the camera, which looks along -z in glTF
    assert not list((tmp_path / "out").glob("*.partial"))


def test_nothing_is_said_but_what_was_found(model, photo, tmp_path, recwarn):
    torch.set_warn_always(True)
    try:
        result = run(photo, "--model", model, "--out", tmp_path / "out")
    finally:
        torch.set_warn_always(False)
    assert result.output.count("\n") == 1
    assert [str(warning.message) for warning in recwarn if "NumPy" in str(warning.message)] == []


def test_no_hands_write_an_empty_list_and_no_mesh(model, photo, tmp_path):
    result = run(photo, "--model", model, "--out", tmp_path / "out", "--threshold", 1.0)
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "out/photo.json").read_text()) == {"hands": []}
    assert not (tmp_path / "out/photo.glb").exists()


def test_a_model_trained_with_the_users_mano_files_draws_their_hand(model, photo, tmp_path):
    """Files in MANO's layout: here the free hand's, a tenth larger."""
    arrays = dict(load_free_arrays())
    arrays |= {name: arrays[name] * 1.1 for name in ("v_template", "shapedirs", "posedirs")}
    np.savez(tmp_path / "MANO_RIGHT.npz", **arrays)
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    write_description(folder, hand="mano", hand_sha256=load_hand(tmp_path).sha256)
    sizes = []
    for used, options in ((model, ()), (folder, ("--mano", tmp_path))):
        result = run(photo, "--model", used, "--out", tmp_path / "out", *options)
        assert result.exit_code == 0, result.output
        mesh = next(iter(trimesh.load(tmp_path / "out/photo.glb").geometry.values()))
        sizes.append(mesh.extents.max())
    assert sizes[1] / sizes[0] == pytest.approx(1.1, rel=1e-3)


def test_mistakes_are_one_line(model, photo, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "model.json").write_text("{}")
    other = tmp_path / "other"
    other.mkdir()
    write_description(other, hand="free", hand_sha256="0" * 64)
    (other / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes())
    with_mano = tmp_path / "with_mano"
    shutil.copytree(other, with_mano)
    write_description(with_mano, hand="mano", hand_sha256="0" * 64)
    for arguments, message in (
        ((photo, "--model", other), "trained with another 'free' hand: expected hand_sha256 "),
        ((photo, "--model", with_mano, "--mano", tmp_path), "hand 'mano': expected MANO_RIGHT.pkl or MANO_RIGHT.npz in "),
        ((tmp_path / "text.png", "--model", model), "text.png: not an image"),
        ((tmp_path / "none.png", "--model", model), "none.png"),
        ((photo, "--model", tmp_path / "nowhere"), "model.json: not found"),
        ((photo, "--model", damaged), f"schema: expected one of [2, {MODEL_SCHEMA}], got None"),
    ):
        result = run(*arguments, "--out", tmp_path / "out")
        assert result.exit_code == 2
        assert result.output.startswith("error: ")
        assert message in result.output
        assert len(result.output.strip().splitlines()) == 1
