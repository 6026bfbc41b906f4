"""The whole chain through the real dvc command line: the tiny preset in a fresh repository, then experiments on top of it."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from repositories import Repository, stages_run, tiny_clone

ROOT = Path(__file__).parents[1]
EVERY_STAGE = [
    "ingest@procedural",
    "compose@train",
    "compose@eval",
    "dataset_crop@procedural",
    "dataset_multi@scenes",
    "mixture@crop",
    "mixture@multi",
    "train_crop",
    "train_multi",
    "evaluate@crop",
    "evaluate@multi",
    "submit@freihand",
    "speed",
    "report",
]
DATA_STAGES = {"ingest@procedural", "compose@train", "compose@eval"}
OUTS = [
    "data/ingest/procedural/train",
    "data/scenes/eval",
    "models/crop",
    "models/multi",
    "logs/crop",
    "results/multi",
    "submissions/freihand",
    "reports",
]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A new repository holding what git would commit here, on the tiny preset. A space in its path, since people have them."""
    return tiny_clone(tmp_path_factory.mktemp("e2e") / "a clone")


@pytest.fixture(scope="module")
def finished(repository: Repository) -> Repository:
    """The repository after `dvc repro`, its results committed."""
    result = repository.dvc("repro")
    assert sorted(stages_run(result.stdout)) == sorted(EVERY_STAGE)
    repository.git("add", "dvc.lock", "metrics")
    repository.git("commit", "--quiet", "--message=Reference run")
    return repository


def numbers(tree: Any) -> Iterator[float]:
    if isinstance(tree, dict):
        for value in tree.values():
            yield from numbers(value)
    elif isinstance(tree, int | float):
        yield float(tree)


def test_everything_is_there(finished: Repository) -> None:
    for out in OUTS:
        assert any((finished.folder / out).iterdir()), out
    for name in ("crop", "multi"):
        values = list(numbers(json.loads((finished.folder / "metrics" / f"{name}.json").read_text())))
        assert len(values) >= 6
        assert all(math.isfinite(value) for value in values)
    with zipfile.ZipFile(finished.folder / "submissions" / "freihand" / "pred.zip") as archive:
        assert archive.namelist() == ["pred.json"]
        joints, vertices = json.loads(archive.read("pred.json"))
    assert len(joints) == len(vertices) == 8
    assert len(joints[0]) == 21
    assert len(vertices[0]) == 778
    page = (finished.folder / "reports" / "index.html").read_text()
    assert not re.search(r"""(src|href)=["'](https?:)?//""", page), "the page must show offline"
    assert "pred.zip" in page


def test_nothing_but_results_is_new_to_git(finished: Repository) -> None:
    """Everything a stage makes is ignored, but dvc.lock and metrics, which are committed with the code."""
    assert finished.git("status", "--porcelain") == ""
    assert set(finished.git("show", "--name-only", "--format=").split()) == {"dvc.lock", "metrics/crop.json", "metrics/multi.json"}


def test_no_work_files_stay(finished: Repository) -> None:
    left = [path for path in finished.folder.rglob("*") if ".dvc" not in path.parts and path.name.endswith((".partial", ".tmp"))]
    assert not left
    checkpoints = finished.folder / "checkpoints"
    assert not checkpoints.exists() or not [path for path in checkpoints.rglob("*") if path.is_file()]


def test_a_second_run_does_nothing(finished: Repository) -> None:
    assert "up to date" in finished.dvc("status").stdout
    started = time.monotonic()
    result = finished.dvc("repro")
    assert stages_run(result.stdout) == []
    assert "Data and pipelines are up to date." in result.stdout
    assert time.monotonic() - started < 30


def test_the_table_at_the_end_of_the_demo(finished: Repository) -> None:
    printed = finished.run(sys.executable, "-m", "pipelines.summary").stdout
    assert "mean hand" in printed
    assert "PA-MPJPE" in printed
    assert "reports/index.html" in printed.replace("\n", "")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("pipelines/report.py", {"report"}),
        ("pipelines/composition/layout.py", {"compose@train", "compose@eval"}),
        ("handnet/task.py", {"train_crop", "train_multi"}),
        ("pipelines/evaluate.py", {"evaluate@crop", "evaluate@multi"}),
        ("docs/licences.md", set()),
    ],
)
def test_a_change_of_code_reaches_its_own_stages(finished: Repository, path: str, expected: set[str]) -> None:
    file = finished.folder / path
    before = file.read_text()
    file.write_text(before + "\n# changed\n")
    try:
        status = finished.json("status")
    finally:
        file.write_text(before)
    changed = {name for name, changes in status.items() if any("changed deps" in change and path_of(change, path) for change in changes)}
    assert changed == expected


def path_of(change: dict[str, dict[str, str]], path: str) -> bool:
    return any(path == dep or path.startswith(f"{dep}/") for dep in change["changed deps"])


def test_an_experiment_runs_what_its_param_reaches(finished: Repository) -> None:
    """A new learning rate retrains, and leaves the data alone; what changed is then told by name and number."""
    result = finished.dvc("exp", "run", "--name", "faster", "-S", "train.crop.lr=0.002", "evaluate@crop")
    run = stages_run(result.stdout)
    assert "train_crop" in run
    assert "evaluate@crop" in run
    assert not DATA_STAGES & set(run)

    changed = finished.json("params", "diff")["params.yaml"]
    assert list(changed) == ["train.crop.lr"]
    assert (changed["train.crop.lr"]["old"], changed["train.crop.lr"]["new"]) == (0.001, 0.002)

    metrics = finished.json("metrics", "diff")
    assert "metrics/crop.json" in metrics
    assert all("diff" in change for change in metrics["metrics/crop.json"].values())

    shown = finished.json("exp", "show")
    experiments = [row["experiments"] for row in shown if row.get("experiments")]
    assert [row["name"] for row in experiments[0]] == ["faster"]
    header, *rows = finished.dvc("exp", "show", "--only-changed", "--csv").stdout.splitlines()
    assert "train.crop.lr" in header.split(",")
    assert any("faster" in row and "0.002" in row.split(",") for row in rows)

    finished.dvc("plots", "diff", "--out", "dvc_plots")
    page = (finished.folder / "dvc_plots" / "index.html").read_text()
    for label in ("share of joints within it", "share of hand size", "loss"):
        assert label in page
    for revision in ("HEAD", "workspace"):
        assert f'"rev": "{revision}"' in page


def test_going_back_takes_no_training(finished: Repository) -> None:
    """The run before the experiment comes out of the cache."""
    finished.git("checkout", "--quiet", "--", "params.yaml", "dvc.lock", "metrics")
    finished.dvc("checkout")
    assert "up to date" in finished.dvc("status").stdout


def test_bad_overrides_stop_with_one_line(finished: Repository) -> None:
    before = finished.git("rev-parse", "HEAD")
    for override, expected in [("train.crop.lr=fast", "train.crop.lr"), ("+train.crop.momentum=0.9", "train.crop.momentum: unknown key")]:
        result = finished.dvc("exp", "run", "-S", override, check=False)
        assert result.returncode != 0
        assert expected in result.stderr
        assert "Traceback" not in result.stderr
        finished.git("checkout", "--quiet", "--", "params.yaml", "dvc.lock", "metrics")
        finished.dvc("checkout")
    assert finished.git("rev-parse", "HEAD") == before
    assert "up to date" in finished.dvc("status").stdout


def test_interrupted_training_goes_on_where_it_was(finished: Repository) -> None:
    """Ctrl-C reaches dvc and the stage alike; the same command then takes up the checkpoint."""
    params = finished.folder / "params.yaml"
    params.write_text(re.sub(r"steps: 6\b", "steps: 60", params.read_text(), count=1))
    command = [sys.executable, "-m", "dvc", "repro", "--single-item", "train_crop"]
    process = subprocess.Popen(
        command, cwd=finished.folder, env=finished.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0
    )
    try:
        checkpoints = finished.folder / "checkpoints"
        deadline = time.monotonic() + 300
        while not any(path.is_file() for path in checkpoints.rglob("*")):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline, "no checkpoint within five minutes"
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # what a terminal does on Ctrl-C
        output, _ = process.communicate(timeout=60)
        assert process.returncode != 0
        assert (stopped := re.search(r"stopped at step (\d+) of 60", output)), output
        result = finished.run(*command)
        assert f"resuming at step {stopped[1]} of 60" in result.stdout + result.stderr
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        finished.git("checkout", "--quiet", "--", "params.yaml", "dvc.lock", "metrics")
