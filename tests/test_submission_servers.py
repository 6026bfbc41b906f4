"""From a server's test set as it is published to the package it takes: its joints, axes, order of samples and given places."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from fake_run import write_model
from official_layouts import write_freihand, write_ho3d

from handnet.hand.layer import HandLayer
from handnet.skeleton import JOINT_CONVENTIONS
from pipelines import submit
from pipelines.config import IngestConfig, SubmissionConfig, load_params
from pipelines.config_datasets import FreihandConfig, Ho3dConfig
from pipelines.ingest import ingest
from pipelines.preset import preset_path
from pipelines.shards import ShardReader
from pipelines.submission.checking import find_problems
from pipelines.submission.layouts import LAYOUTS
from pipelines.submission.scoring import load_submission

ROUNDING = 2e-5  # metres: each side of a comparison is rounded to 5 decimals


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both datasets as published, ingested, and an untrained crop model whose labels had `model` joints."""
    root = tmp_path_factory.mktemp("servers")
    common = {"samples_per_shard": 5, "max_quarantined": 0.0, "mano_model": None}
    freihand = FreihandConfig(path=str(write_freihand(root / "FreiHAND_pub_v2")), seed=0, val_fraction=0.0, **common)
    ho3d = Ho3dConfig(path=str(write_ho3d(root / "HO3D_v2")), version="v2", val_sequences=["SM2"], **common)
    section = IngestConfig(freihand=freihand, ho3d=ho3d)
    for name in ("freihand", "ho3d"):
        ingest(name, section, data=root / "data", num_workers=1)
    write_model(root / "models/crop", load_params(preset_path("tiny")), "crop", 0)
    return root


@pytest.fixture(autouse=True)
def _in_workspace(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)


def config_of(preset: str, name: str, layout: str | None = None) -> SubmissionConfig:
    """The paper's section, with a batch that leaves a remainder."""
    config = load_params(preset_path(preset)).submit[name]
    return config.model_copy(update={"batch_size": 1, "layout": layout or config.layout})


@pytest.mark.parametrize("model_joints", ["model", "interhand"])
def test_freihand(workspace: Path, model_joints: str) -> None:
    set_joints(workspace, model_joints)
    package = submit.submit("freihand", config_of("paper-freihand", "freihand"))
    assert not [f for f in find_problems(package, LAYOUTS["freihand"], 2) if not f.is_doubt]
    xyz, verts = load_submission(package)
    # FreiHAND's joints: the regressor on the posed mesh, and five vertices (MANO's 555 and 672 are others on the free hand)
    layer = HandLayer()
    regressed = np.asarray(layer.J_regressor[-1] if layer.J_regressor.ndim == 3 else layer.J_regressor) @ verts.astype(np.float64)
    std_of_mano = {0: 0, 13: 1, 14: 2, 15: 3, 1: 5, 2: 6, 3: 7, 4: 9, 5: 10, 6: 11, 10: 13, 11: 14, 12: 15, 7: 17, 8: 18, 9: 19}
    for mano, std in std_of_mano.items():
        np.testing.assert_allclose(xyz[:, std], regressed[:, mano], atol=ROUNDING)
    np.testing.assert_allclose(xyz[:, [4, 8, 12, 16, 20]], verts[:, [744, 320, 443, 556, 673]], atol=ROUNDING)
    # in the order of image ids, each with the bone length that is given for it
    truth = json.loads(Path("FreiHAND_pub_v2/evaluation_xyz.json").read_text())
    lengths = [np.linalg.norm(np.subtract(hand[10], hand[9])) for hand in truth]
    np.testing.assert_allclose(np.linalg.norm(xyz[:, 10] - xyz[:, 9], axis=1), lengths, atol=2 * ROUNDING)
    meta = json.loads(package.with_name("meta.json").read_text())
    assert meta["sample_order"] == {"server": "image id", "keys": ["00000000", "00000001"]}
    assert meta["joints"] == "freihand"
    assert meta["params"]["place"] == "scale"


@pytest.mark.parametrize("layout", ["ho3d", "ho3d-v3"])
def test_ho3d(workspace: Path, layout: str) -> None:
    set_joints(workspace, "freihand")  # regressed joints, which HO3D's are not
    package = submit.submit(layout, config_of("paper-ho3d", "ho3d", layout))
    assert not [f for f in find_problems(package, LAYOUTS[layout], 2) if not f.is_doubt]
    xyz, verts = load_submission(package)
    # MANO's order, then tips from thumb to little finger, OpenGL's axes
    np.testing.assert_allclose(xyz[:, 16:], verts[:, [744, 333, 444, 556, 673]], atol=ROUNDING)
    assert (xyz[..., 2] < 0).all()
    reader = ShardReader(Path("data/ingest/ho3d/eval"))
    wrists = [reader.read(index, labels_3d=False).hands[0].given_wrist_m for index in range(2)]
    np.testing.assert_allclose(xyz[:, 0], np.array(wrists) * [1, -1, -1], atol=ROUNDING)
    # a network that reports HO3D's joints itself says the same
    set_joints(workspace, "ho3d")
    for own, converted in zip(load_submission(submit.submit(layout, config_of("paper-ho3d", "ho3d", layout))), (xyz, verts), strict=True):
        np.testing.assert_allclose(own, converted, atol=ROUNDING)


def test_every_layout_s_joints_are_a_known_convention() -> None:
    assert {layout.convention for layout in LAYOUTS.values()} <= set(JOINT_CONVENTIONS)


def test_the_same_model_reports_its_own_joints_otherwise(workspace: Path) -> None:
    """Two servers get different fingertips of the same hand, at most a centimetre apart."""
    set_joints(workspace, "model")
    found = []
    for layout in ("freihand", "ho3d"):
        package = submit.submit(layout, config_of("paper-ho3d", "ho3d", layout).model_copy(update={"place": "predicted"}))
        found.append(LAYOUTS[layout].to_std21(load_submission(package)[0]))
    apart = np.linalg.norm(found[0] - found[1], axis=2)
    assert apart[:, 8].min() > 1e-4  # vertex 320 or 333
    assert apart[:, 12].min() > 1e-4  # vertex 443 or 444
    assert apart[:, [4, 16, 20]].max() < ROUNDING
    assert apart.max() < 0.012


def test_a_test_set_without_what_is_asked_for(workspace: Path) -> None:
    config = config_of("paper-ho3d", "ho3d").model_copy(update={"place": "scale"})
    with pytest.raises(ValueError, match="sample 00000000: place: scale: the dataset gives none"):
        submit.submit("nothing", config)
    assert not Path("submissions/nothing").exists()


def set_joints(workspace: Path, convention: str) -> None:
    """The model's labels were of this convention: its network says so in model.json, and reports those joints."""
    path = workspace / "models/crop/model.json"
    description = json.loads(path.read_text())
    description["network"]["joints"] = convention
    path.write_text(json.dumps(description))
