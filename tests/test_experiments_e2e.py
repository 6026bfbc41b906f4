"""DVC's queue and the comparing of its runs, by the real command lines in a clone on a shrunken preset."""

from __future__ import annotations

import contextlib
import hashlib
import re
import sys
import time
from pathlib import Path

import pytest
from dvc.api import DVCFileSystem
from repositories import Repository, clone, stages_run

from pipelines.experiments.runs import queued_names

# less of everything than the tiny preset has, and nothing is rendered while training
SMALLER = {"num_train: 24": "num_train: 16", "photometric: 1.0": "photometric: 0.0", "validate_every: 3": "validate_every: 0"}
RATES = {"slower": "0.0001", "faster": "0.01"}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A repository whose crop stage has been run and committed. A space in its path, since people have them."""
    repository = clone(tmp_path_factory.mktemp("experiments") / "a clone")
    repository.run(sys.executable, "-m", "pipelines.preset", "tiny", "--force")
    params = repository.folder / "params.yaml"
    text = params.read_text()
    for old, new in SMALLER.items():
        assert old in text
        text = text.replace(old, new)
    params.write_text(text)
    repository.git("add", "--all")
    repository.git("commit", "--quiet", "--message=Start")
    repository.dvc("repro", "evaluate@crop")
    repository.git("add", "dvc.lock", "metrics")
    repository.git("commit", "--quiet", "--message=Baseline")
    return repository


@pytest.fixture(scope="module")
def queued(repository: Repository) -> Repository:
    """After two queued runs of different learning rates."""
    for name, rate in RATES.items():
        repository.dvc("exp", "run", "--queue", "--name", name, "-S", f"train.crop.lr={rate}", "evaluate@crop")
    with contextlib.chdir(repository.folder):
        assert queued_names() == set(RATES)  # what an ablation does not queue again
    repository.dvc("queue", "start", "--jobs", "1")
    deadline = time.monotonic() + 900
    while True:
        status = repository.dvc("queue", "status").stdout
        if len(re.findall(r"\b(Success|Failed)\b", status)) == len(RATES):
            break
        assert time.monotonic() < deadline, status
        time.sleep(1)
    if "Failed" in status:
        pytest.fail("".join(repository.dvc("queue", "logs", name, check=False).stdout[-3000:] for name in RATES))
    return repository


def weights_of(repository: Repository, name: str) -> str:
    files = DVCFileSystem(str(repository.folder), rev=name)
    with files.open("models/crop/model.safetensors") as file:
        return hashlib.sha256(file.read()).hexdigest()


def test_queued_runs_are_distinct_and_correct(queued: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", queued.environment["DVC_SITE_CACHE_DIR"])
    weights = {name: weights_of(queued, name) for name in ("HEAD", *RATES)}
    assert len(set(weights.values())) == 3, weights
    for name, rate in RATES.items():
        files = DVCFileSystem(str(queued.folder), rev=name)
        with files.open("params.yaml", mode="r") as file:
            assert f"lr: {float(rate)}" in file.read()
        with files.open("logs/crop/plots/metrics/train/loss.tsv", mode="r") as file:
            steps = [line.split("\t")[0] for line in file.read().splitlines()[1:]]
        assert steps == ["1", "2", "3", "4", "5", "6"]  # trained from the start, not on from another run's checkpoint
    assert queued.git("status", "--porcelain") == "", "the workspace is as it was"


def test_what_is_done_is_in_the_queue_no_more(queued: Repository) -> None:
    with contextlib.chdir(queued.folder):
        assert queued_names() == set()


def test_the_same_params_again_train_nothing(queued: Repository) -> None:
    result = queued.dvc("exp", "run", "--temp", "--name", "again", "-S", f"train.crop.lr={RATES['faster']}", "evaluate@crop")
    assert "train_crop" not in stages_run(result.stdout)
    assert "Stage 'train_crop' is cached" in result.stdout


def test_runs_side_by_side(queued: Repository) -> None:
    result = queued.run(sys.executable, "-m", "pipelines.cli", "compare", "HEAD", *RATES)
    row = next(line for line in result.stdout.splitlines() if "train.crop.lr" in line)
    assert [cell.strip() for cell in row.strip("│ ").split("│")] == ["train.crop.lr", "0.001", *RATES.values()]
    assert "crop: PA-MPJPE, mm ↓" in result.stdout
    page = (queued.folder / "comparisons/index.html").read_text()
    assert not re.search(r"""(src|href)=["'](https?:)?//""", page), "the page must show offline"
    assert "crop, train: loss: HEAD" in page
    assert page.count("crop: 2D PCK: HEAD") == 1
    assert page.count("crop: 3D PCK of vertices, after Procrustes alignment: HEAD") == 1
    assert "missing in slower: logs/crop/plots/metrics/validation" in result.stdout, "this preset does not validate"


def test_a_curve_that_the_cache_has_lost_is_named(queued: Repository) -> None:
    files = DVCFileSystem(str(queued.folder), rev="slower")
    lost = files.info("logs/crop/plots/metrics/train/loss.tsv")["dvc_info"]["md5"]
    path = queued.folder / ".dvc/cache/files/md5" / lost[:2] / lost[2:]
    kept = path.read_bytes()
    path.unlink()
    try:
        result = queued.run(sys.executable, "-m", "pipelines.compare", "slower", "faster")
    finally:
        path.write_bytes(kept)
    assert "missing in slower: logs/crop/plots/metrics/train" in result.stdout
    assert "missing in faster: logs/crop/plots/metrics/train" not in result.stdout


def test_a_wrong_revision_is_one_line(queued: Repository) -> None:
    result = queued.run(sys.executable, "-m", "pipelines.compare", "HEAD", "nonsuch", check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("error: nonsuch: expected workspace, or a commit, branch, tag or experiment")
    assert result.stderr.count("\n") == 1


def test_an_ablation_s_table_names_the_runs_that_are_not_done(queued: Repository) -> None:
    result = queued.run(sys.executable, "-m", "pipelines.ablate", "centers", "--seeds", "0", "--table")
    assert "Not run yet: centers-keypoints-s0, centers-box-s0, centers-root-s0" in result.stdout
    assert (queued.folder / "ablations/centers.json").is_file()
    queued.dvc("exp", "rename", "again", "centers-box-s0")
    result = queued.run(sys.executable, "-m", "pipelines.ablate", "centers", "--seeds", "0", "--table", check=False)
    assert result.returncode == 2
    assert "experiment centers-box-s0: expected the params that this run would have, got others in train" in result.stderr
    assert Path(queued.folder / "ablations/centers.md").read_text().count("|") > 10
