"""The evaluate and submit stages from params.yaml to their files, with a real (small, untrained) network on made-up hands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest
import torch
from fake_hands import make_crops, make_scenes, write_shards
from safetensors.torch import save_file

from handnet.hand.files import load_hand
from handnet.hand.layer import HandLayer
from handnet.network.files import DESCRIPTION_NAME, WEIGHTS_NAME
from handnet.network.handnet import HandNet, HandNetConfig
from handnet.predict import MODEL_SCHEMA, ModelDescription
from pipelines import evaluate, submit
from pipelines.evaluation.table import RAW
from pipelines.preset import write_preset
from pipelines.submission.checking import check_submission

NETWORK = HandNetConfig(
    backbone="mobilenetv3_small_050", feature_channels=16, output_stride=4, hidden_channels=32, rotation="6d", keypoint_branch="window"
)


def write_model(folder: Path, **changes: object) -> None:
    torch.manual_seed(0)
    network = HandNet(NETWORK, HandLayer())
    with torch.no_grad():
        network.center_head[-1].bias.fill_(-1.0)  # an untrained network sees no hand: make it see some
    folder.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), folder / WEIGHTS_NAME)
    hand = {"hand": "free", "hand_sha256": load_hand().sha256}
    values = {"schema": MODEL_SCHEMA, "network": NETWORK, **hand, "stage": folder.name, "input_px": 64, "focal_px": None}
    description = ModelDescription(**{**values, "fingerprint": "abc", "provenance": {}, **changes})  # type: ignore[arg-type]
    (folder / DESCRIPTION_NAME).write_text(description.to_json())


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("workspace")
    write_preset("tiny", root / "params.yaml")
    write_shards(root / "data/ingest/procedural/train", make_crops(12, seed=1))
    write_shards(root / "data/ingest/procedural/eval", make_crops(6, seed=2, side=1))
    write_shards(root / "data/scenes/eval", make_scenes(4, seed=3, size_px=96))
    for stage in ("crop", "multi"):
        write_model(root / "models" / stage)
    return root


@pytest.fixture(autouse=True)
def _in_workspace(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)


def files(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


@pytest.mark.parametrize("name", ["crop", "multi"])
def test_evaluate(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main([name]) == 0
    assert capsys.readouterr().out == f"wrote metrics/{name}.json\n"
    metrics = orjson.loads(Path(f"metrics/{name}.json").read_bytes())
    assert list(metrics) == ["ours", "mean_hand", "count", "headline", "ours_ci95", "headline_ci95"]
    assert metrics["count"]["hands"] == 6
    bounds, of_headline = metrics.pop("ours_ci95"), metrics.pop("headline_ci95")
    assert all(low <= metrics["ours"][figure] <= high for figure, (low, high) in bounds.items())
    assert all(low <= metrics["headline"][figure] <= high for figure, (low, high) in of_headline.items())
    assert set(of_headline) == set(metrics["headline"])
    numbers = [
        value for group in (*metrics.values(), {i: v for i, pair in enumerate(bounds.values()) for v in pair}) for value in group.values()
    ]
    assert all(isinstance(value, (int, float)) and np.isfinite(value) for value in numbers)
    # 5 significant digits
    assert all(len(repr(value).split("e")[0].replace(".", "").lstrip("-0")) <= 6 for value in numbers)
    if name == "crop":
        assert metrics["count"]["measured_hands"] == 6
        assert set(metrics["mean_hand"]) == set(metrics["ours"]) - {"hand_type_accuracy", "error_2d_input_px", *RAW}
    else:
        assert metrics["count"]["detections"] > 0
        assert {"precision", "recall", "ap"} <= set(metrics["ours"])
    written = files(f"results/{name}")
    assert set(written) == {"hands.parquet", "strata.json", "pck.csv", "pck_vertices.csv", "pck_2d.csv", "predictions.npz"}
    table = pq.read_table(f"results/{name}/hands.parquet").to_pydict()
    assert sum(table["labelled"]) == 6
    assert sum(table["found"]) + sum(not labelled for labelled in table["labelled"]) == metrics["count"]["detections"]
    with np.load(f"results/{name}/predictions.npz", allow_pickle=False) as arrays:
        assert len(arrays["side"]) == metrics["count"]["detections"]
        assert np.isfinite(arrays["albedo"]).all()
    before = Path(f"metrics/{name}.json").read_bytes()
    assert evaluate.main([name]) == 0
    assert files(f"results/{name}") == written
    assert Path(f"metrics/{name}.json").read_bytes() == before


def test_submit() -> None:
    assert submit.main(["freihand"]) == 0
    written = files("submissions/freihand")
    assert set(written) == {"pred.zip", "meta.json"}
    assert check_submission("submissions/freihand/pred.zip", "freihand", 6) in ([], [meta_doubts(written)])
    meta = json.loads(written["meta.json"])
    assert meta["num_samples"] == 6
    assert meta["num_missing"] == 0
    assert meta["complete"] is False
    assert meta["sample_order"]["keys"] == [f"{i:06d}" for i in range(6)]
    assert meta["model"]["fingerprint"] == "abc"
    assert meta["params"]["layout"] == "freihand"
    assert submit.main(["freihand"]) == 0
    assert files("submissions/freihand")["pred.zip"] == written["pred.zip"]


def meta_doubts(written: dict[str, bytes]) -> str:
    return " ".join(json.loads(written["meta.json"])["doubts"])


def test_mistakes_are_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workspace: Path
) -> None:
    def error_of(main, arguments, code):
        assert main(arguments) == code
        lines = [line for line in capsys.readouterr().err.splitlines() if "done" not in line and "interrupted" not in line]
        assert len(lines) == 1, lines
        return lines[0]

    assert "usage" in error_of(evaluate.main, [], 2)
    assert "usage" in error_of(submit.main, ["a", "b"], 2)
    assert "evaluate: expected one of ['crop', 'multi'], got 'x'" in error_of(evaluate.main, ["x"], 2)
    assert "submit: expected one of ['freihand'], got 'x'" in error_of(submit.main, ["x"], 2)
    monkeypatch.chdir(tmp_path)
    write_preset("tiny", Path("params.yaml"))
    assert "data/ingest/procedural/eval/manifest.json: not found" in error_of(evaluate.main, ["crop"], 1)
    Path("data").symlink_to(workspace / "data")
    for main, name in ((evaluate.main, "crop"), (submit.main, "freihand")):
        assert "models/crop/model.json: not found" in error_of(main, [name], 1)
    write_model(Path("models/crop"), provenance={"center": "elbow"})
    assert "provenance.center: expected one of ['keypoints', 'box', 'root'], got 'elbow'" in error_of(evaluate.main, ["crop"], 1)
    assert not Path("metrics").exists()
    assert not Path("submissions").exists()
