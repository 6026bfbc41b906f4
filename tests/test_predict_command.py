"""`handnet predict`: a model folder and images in, JSON and GLB out; mistakes are one line."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from handnet.cli import app
from handnet.hand.layer import HandLayer
from handnet.network.handnet import HandNet, HandNetConfig
from handnet.predict import ModelDescription

CONFIG = HandNetConfig(backbone="mobilenetv3_small_050", feature_channels=16, output_stride=4, hidden_channels=32, rotation="6d", keypoint_branch="window")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """Untrained weights that see a hand everywhere."""
    torch.manual_seed(0)
    network = HandNet(CONFIG, HandLayer())
    network.center_head[-1].bias.data.fill_(3.0)
    folder = tmp_path_factory.mktemp("model")
    save_file(network.state_dict(), folder / "model.safetensors")
    values = {"stage": "multi", "input_px": 96, "focal_px": 512.0, "fingerprint": "", "provenance": {}}
    (folder / "model.json").write_text(ModelDescription(schema=1, network=CONFIG, hand="free", **values).to_json())
    return folder


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


def test_no_hands_write_an_empty_list_and_no_mesh(model, photo, tmp_path):
    result = run(photo, "--model", model, "--out", tmp_path / "out", "--threshold", 1.0)
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "out/photo.json").read_text()) == {"hands": []}
    assert not (tmp_path / "out/photo.glb").exists()


def test_mistakes_are_one_line(model, photo, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "model.json").write_text("{}")
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.json").write_text((model / "model.json").read_text().replace('"hand": "free"', '"hand": "mano"'))
    (other / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes())
    for arguments, message in (
        ((photo, "--model", other), "hand: expected 'free', got 'mano'"),
        ((tmp_path / "text.png", "--model", model), "text.png: not an image"),
        ((tmp_path / "none.png", "--model", model), "none.png"),
        ((photo, "--model", tmp_path / "nowhere"), "model.json: not found"),
        ((photo, "--model", damaged), "schema: expected 1, got None"),
    ):
        result = run(*arguments, "--out", tmp_path / "out")
        assert result.exit_code == 2
        assert result.output.startswith("error: ")
        assert message in result.output
        assert len(result.output.strip().splitlines()) == 1
