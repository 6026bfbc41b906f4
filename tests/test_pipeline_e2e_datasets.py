"""From published archives to composed scenes through the real dvc command line: FreiHAND as a zip, HO3D as a tar."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from official_layouts import tarred, write_freihand, write_ho3d, zipped
from repositories import Repository, clone, stages_run
from ruamel.yaml import YAML

from pipelines.shards import ShardReader

ROOT = Path(__file__).parents[1]
STAGES = ["ingest@freihand", "ingest@ho3d", "compose@train", "compose@eval"]
NUM_SCENES = 3


def write_params(folder: Path) -> None:
    """The tiny preset on real datasets: scenes of FreiHAND's hands to train on, of HO3D's to evaluate."""
    params = YAML(typ="safe").load((ROOT / "pipelines/presets/tiny.yaml").read_text())
    common = {"samples_per_shard": 4, "max_quarantined": 0.3, "mano_model": None}
    params["ingest"] = {
        "freihand": {"path": "datasets/freihand.zip", "seed": 0, "val_fraction": 0.34, **common},
        "ho3d": {"path": "datasets", "version": "v3", "val_sequences": ["SM2"], **common},
    }
    for name, (source, split) in {"train": ("freihand", "train"), "eval": ("ho3d", "val")}.items():
        params["compose"][name] |= {"source": source, "split": split, "num_scenes": NUM_SCENES, "scenes_per_shard": 2}
    text = StringIO()
    YAML().dump(params, text)
    (folder / "params.yaml").write_text(text.getvalue().replace("ingest/procedural/", "ingest/freihand/"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A clone with both archives after `dvc repro` of its data stages; one of FreiHAND's images is truncated."""
    scratch = tmp_path_factory.mktemp("datasets")
    repository = clone(scratch / "clone")
    repository.environment["HANDNET_WORKERS"] = "1"  # starting more takes longer than the work
    datasets = repository.folder / "datasets"
    datasets.mkdir()
    freihand = write_freihand(scratch / "FreiHAND_pub_v2")
    image = freihand / "training/rgb/00000005.jpg"
    image.write_bytes(image.read_bytes()[:-200])
    zipped(freihand, datasets / "freihand.zip", "FreiHAND_pub_v2/")
    tarred(write_ho3d(scratch / "HO3D_v3", "v3"), datasets / "ho3d.tar", "HO3D_v3/")
    write_params(repository.folder)
    repository.git("add", "--all")
    repository.git("commit", "--quiet", "--message=Start")
    result = repository.dvc("repro", *STAGES)
    assert sorted(stages_run(result.stdout)) == sorted(STAGES)
    return repository


def test_scenes_come_out_of_the_archives(finished: Repository) -> None:
    data = finished.folder / "data"
    sizes = {f"{path.parent.parent.name}/{path.parent.name}": len(ShardReader(path.parent)) for path in sorted(data.rglob("manifest.json"))}
    # FreiHAND: two of three frames to train on, four images each, of which one may be the truncated one
    assert {name: size for name, size in sizes.items() if "freihand" not in name} == {
        "ho3d/eval": 2,
        "ho3d/train": 2,
        "ho3d/val": 2,
        "scenes/eval": NUM_SCENES,
        "scenes/train": NUM_SCENES,
    }
    assert sizes["freihand/train"] + sizes["freihand/val"] == 11
    assert sizes["freihand/eval"] == 2
    for name, source in (("train", "freihand/training/"), ("eval", "ho3d-v3/train/SM2/")):
        reader = ShardReader(data / "scenes" / name)
        reader.verify()
        scenes = [reader.read(index, labels_3d=True) for index in range(len(reader))]
        hands = [hand for scene in scenes for hand in scene.hands]
        assert hands
        assert all(hand.source_id.startswith(source) for hand in hands)
        assert all(hand.keypoints_m is not None for hand in hands)


def test_damage_is_listed_beside_the_shards(finished: Repository) -> None:
    folder = finished.folder / "data/ingest/freihand"
    listed = [json.loads(line) for path in folder.rglob("quarantine.jsonl") for line in path.read_text().splitlines()]
    assert [record["key"] for record in listed] == ["00000002-1"]
    assert "freihand.zip: FreiHAND_pub_v2/training/rgb/00000005.jpg: not a whole image" in listed[0]["reason"]


def test_nothing_half_made_stays_and_a_second_run_does_nothing(finished: Repository) -> None:
    assert not list((finished.folder / "data").rglob("*.partial"))
    assert sorted(path.name for path in (finished.folder / "datasets").iterdir()) == ["freihand.zip", "ho3d.tar"]
    assert stages_run(finished.dvc("repro", *STAGES).stdout) == []


def test_too_much_damage_fails_the_stage_in_one_line(finished: Repository) -> None:
    """Less is allowed than there is: one line, and the list where it says."""
    params = finished.folder / "params.yaml"
    before = params.read_text()
    assert before.count("max_quarantined: 0.3") == 2
    params.write_text(before.replace("max_quarantined: 0.3", "max_quarantined: 0.001"))
    try:
        result = finished.run("python", "-m", "pipelines.ingest", "freihand", check=False)
    finally:
        params.write_text(before)
    assert result.returncode == 1
    message = result.stderr.splitlines()[-1]
    assert message.startswith("error: freihand/")
    assert "more than max_quarantined (0.001) allows; they are listed in data/ingest/freihand.partial/" in message
    listing = message.partition("listed in ")[2].partition(";")[0]
    assert "00000005.jpg" in (finished.folder / listing).read_text()
