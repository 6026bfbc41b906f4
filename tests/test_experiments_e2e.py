"""DVC's queue and the comparing of its runs, by the real command lines in a clone on a shrunken preset."""

from __future__ import annotations

import contextlib
import hashlib
import re
import sys

import pytest
from dvc.api import DVCFileSystem
from repositories import Repository, queue_runs, stages_run, tiny_clone

from pipelines.compare import main
from pipelines.experiments.runs import queued_names

# less of everything than the tiny preset has, and nothing is rendered while training
SMALLER = {"num_train: 24": "num_train: 16", "photometric: 1.0": "photometric: 0.0", "validate_every: 3": "validate_every: 0"}
RATES = {"slower": "0.0001", "faster": "0.01"}


@pytest.fixture(scope="module")
def queued(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A repository with its data made and committed, after two queued runs of different learning rates. A space in its path."""
    repository = tiny_clone(tmp_path_factory.mktemp("experiments") / "a clone", SMALLER)
    repository.dvc("repro", "mixture@crop")
    repository.git("add", "dvc.lock")
    repository.git("commit", "--quiet", "--message=Data")
    for name, rate in RATES.items():
        repository.dvc("exp", "run", "--queue", "--name", name, "-S", f"train.crop.lr={rate}", "evaluate@crop")
    with contextlib.chdir(repository.folder):
        assert queued_names() == set(RATES)  # what an ablation does not queue again
    queue_runs(repository, RATES)
    with contextlib.chdir(repository.folder):
        assert queued_names() == set()
    return repository


def compare(repository: Repository, monkeypatch: pytest.MonkeyPatch, *revisions: str) -> int:
    """`handnet compare` in this process, since to start another takes longer than the work; its exit code."""
    monkeypatch.chdir(repository.folder)
    for name in ("DVC_SITE_CACHE_DIR", "COLUMNS"):
        monkeypatch.setenv(name, repository.environment[name])
    return main(revisions)


def weights_of(repository: Repository, name: str) -> str:
    files = DVCFileSystem(str(repository.folder), rev=name)
    with files.open("models/crop/model.safetensors") as file:
        return hashlib.sha256(file.read()).hexdigest()


def test_queued_runs_are_distinct_and_correct(queued: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", queued.environment["DVC_SITE_CACHE_DIR"])
    weights = {name: weights_of(queued, name) for name in RATES}
    assert len(set(weights.values())) == 2, weights
    for name, rate in RATES.items():
        files = DVCFileSystem(str(queued.folder), rev=name)
        with files.open("params.yaml", mode="r") as file:
            assert f"lr: {float(rate)}" in file.read()
        with files.open("logs/crop/plots/metrics/train/loss.tsv", mode="r") as file:
            steps = [line.split("\t")[0] for line in file.read().splitlines()[1:]]
        assert steps == ["1", "2", "3", "4", "5", "6"]  # trained from the start, not on from another run's checkpoint
    assert queued.git("status", "--porcelain") == "", "the workspace is as it was"


def test_the_same_params_again_train_nothing(queued: Repository) -> None:
    result = queued.dvc("exp", "run", "--temp", "--name", "again", "-S", f"train.crop.lr={RATES['faster']}", "evaluate@crop")
    assert "train_crop" not in stages_run(result.stdout)
    assert "Stage 'train_crop' is cached" in result.stdout


def test_runs_side_by_side(queued: Repository) -> None:
    result = queued.run(sys.executable, "-m", "pipelines.cli", "compare", *RATES)
    row = next(line for line in result.stdout.splitlines() if "train.crop.lr" in line)
    assert [cell.strip() for cell in row.strip("│ ").split("│")] == ["train.crop.lr", *RATES.values()]
    assert "crop: PA-MPJPE, mm ↓" in result.stdout
    page = (queued.folder / "comparisons/index.html").read_text()
    assert not re.search(r"""(src|href)=["'](https?:)?//""", page), "the page must show offline"
    assert "crop, train: loss: slower" in page
    assert page.count("crop: 2D PCK: slower") == 1
    assert page.count("crop: 3D PCK of vertices, after Procrustes alignment: slower") == 1
    assert "missing in slower: logs/crop/plots/metrics/validation" in result.stdout, "this preset does not validate"


def test_a_curve_that_the_cache_has_lost_is_named(
    queued: Repository, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = DVCFileSystem(str(queued.folder), rev="slower")
    lost = files.info("logs/crop/plots/metrics/train/loss.tsv")["dvc_info"]["md5"]
    path = queued.folder / ".dvc/cache/files/md5" / lost[:2] / lost[2:]
    kept = path.read_bytes()
    path.unlink()
    try:
        assert compare(queued, monkeypatch, "slower", "faster") == 0
    finally:
        path.write_bytes(kept)
    printed = capsys.readouterr().out
    assert "missing in slower: logs/crop/plots/metrics/train" in printed
    assert "missing in faster: logs/crop/plots/metrics/train" not in printed


def test_a_wrong_revision_is_one_line(queued: Repository, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(queued, monkeypatch, "HEAD", "nonsuch") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: nonsuch: expected workspace, or a commit, branch, tag or experiment")
    assert error.count("\n") == 1
