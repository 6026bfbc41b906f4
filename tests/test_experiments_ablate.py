"""Ablations by their real command line and DVC, over stages that take no time: interrupted, failed, taken up again, only the table."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from flow_projects import processes_in, wait_for
from repositories import ROOT, Repository

from pipelines.ablate import main
from pipelines.preset import preset_path

GRAPH = """
stages:
  train_crop:
    cmd: python stage.py train
    deps: [stage.py]
    params: [train]
    outs: [models/crop]
  evaluate:
    foreach: [crop, multi]
    do:
      cmd: python stage.py evaluate ${item}
      deps: [stage.py, models/crop]
      params: ["evaluate.${item}"]
      metrics:
        - metrics/${item}.json:
            cache: false
"""
# Training takes ten steps, each kept where checkpoints belong. A file beside the repository tells runs with the box's centre what to do:
# `hold` has them wait after step 4, `fail` ends them.
STAGE = """
import json, os, pathlib, signal, sys, time
from ruamel.yaml import YAML

train = YAML(typ="safe").load(open("params.yaml"))["train"]
center, order = train["crop"]["center"], pathlib.Path(os.environ["ORDER"])
told = order.read_text() if center == "box" and order.exists() else ""
error = {"keypoints": 10, "box": 20, "root": 11}[center] + train["seed"]
if sys.argv[1] == "train":
    if told == "fail":
        sys.exit("no such luck")
    stopped = []
    signal.signal(signal.SIGINT, lambda *_: stopped.append(130))
    kept = pathlib.Path(os.environ.get("HANDNET_CHECKPOINTS", "checkpoints"), f"{center}.json")
    start = json.loads(kept.read_text()) if kept.exists() else 0
    print(f"{center} starts at step {start}", flush=True)
    for step in range(start, 10):
        while told == "hold" and step == 4 and not stopped:
            order.with_name("held").touch()
            time.sleep(0.02)
        if stopped:
            sys.exit(stopped[0])
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(step + 1))
    pathlib.Path("models/crop").mkdir(parents=True)
    pathlib.Path("models/crop/model.json").write_text(json.dumps({"error": error}))
    kept.unlink()
else:
    error = json.load(open("models/crop/model.json"))["error"]
    pathlib.Path("metrics").mkdir(exist_ok=True)
    pathlib.Path("metrics", sys.argv[2] + ".json").write_text(json.dumps({"ours": {"pa_mpjpe_mm": error, "recall": 0.5}}))
"""
ARGUMENTS = ("centers", "--seeds", "0")
RUNS = ["centers-box-s0", "centers-keypoints-s0", "centers-root-s0"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A repository with the tiny preset's params and the stages above, committed; a space in its path, since people have them."""
    folder = tmp_path_factory.mktemp("ablate") / "a project"
    folder.mkdir()
    repository = Repository(folder)
    repository.environment |= {"ORDER": str(folder.parent / "order"), "PYTHONPATH": str(ROOT)}
    for name in (".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copy(preset_path("tiny"), folder / "params.yaml")
    (folder / "dvc.yaml").write_text(GRAPH)
    (folder / "stage.py").write_text(STAGE)
    repository.git("init", "--quiet", "--initial-branch=main")
    repository.dvc("init", "--quiet")
    repository.git("add", "--all")
    repository.git("commit", "--quiet", "--message=Start")
    return repository


def experiments(project: Repository) -> list[str]:
    return sorted(project.dvc("exp", "list", "--name-only").stdout.split())


def figures(project: Repository) -> dict[str, dict[str, float]]:
    """The first figure of every row by seed, as it was written for programs."""
    tree = json.loads((project.folder / "ablations/centers.json").read_text())
    return {row["variant"]: row["figures"][0]["by_seed"] for row in tree["rows"]}


def nothing_left_behind(project: Repository) -> None:
    assert project.git("status", "--porcelain") == ""
    assert not processes_in(project.folder)
    assert list((project.folder / ".dvc/tmp/exps/standalone").glob("tmp*")) == []
    assert sorted(path.name for path in (project.folder / "ablations").iterdir()) == ["centers.html", "centers.json", "centers.md"]


@pytest.fixture
def ablate(project: Repository, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`python -m pipelines.ablate` in this process, since to start another takes longer than the work; returns its exit code."""
    monkeypatch.chdir(project.folder)
    for name, value in project.environment.items():
        monkeypatch.setenv(name, value)
    return lambda *arguments: main(arguments)


def interrupted(project: Repository, number: signal.Signals, held: Path) -> None:
    """The command as its own process, which gets the signal when a stage waits."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.ablate", *ARGUMENTS],
        cwd=project.folder,
        env=project.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    try:
        wait_for(lambda: held.exists() or process.poll() is not None, 600)
        os.killpg(process.pid, number)
        output, errors = process.communicate(timeout=300)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert process.returncode == 130, output + errors
    assert errors.endswith("interrupted; the same command goes on: finished runs, stages and checkpoints are kept\n")
    assert "Traceback" not in output + errors


def test_ctrl_c_a_failure_and_the_same_command_again(
    project: Repository, ablate: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    order = project.folder.parent / "order"
    order.write_text("hold")
    for number in (signal.SIGINT, signal.SIGTERM):
        order.with_name("held").unlink(missing_ok=True)
        interrupted(project, number, order.with_name("held"))
    # the first run is recorded and in the table; of the second there is its checkpoint alone
    assert experiments(project) == ["centers-keypoints-s0"]
    assert figures(project) == {"keypoints": {"0": 1.0}, "box": {}, "root": {}}
    assert (project.folder / "checkpoints/centers-box-s0/box.json").read_text() == "4"
    nothing_left_behind(project)

    order.write_text("fail")
    assert ablate(*ARGUMENTS) == 1
    printed = capfd.readouterr()
    assert "3 runs, 1 of them done" in printed.out
    assert re.findall(r"^== run .* of 2: ([a-z0-9-]+)", printed.out, flags=re.MULTILINE) == ["centers-box-s0", "centers-root-s0"]
    assert printed.err.endswith("error: 1 of 2 runs failed: centers-box-s0; the same command tries again\n")
    assert experiments(project) == ["centers-keypoints-s0", "centers-root-s0"]  # a failure does not stop the others
    nothing_left_behind(project)

    order.unlink()
    assert ablate(*ARGUMENTS) == 0
    printed = capfd.readouterr()
    assert "3 runs, 2 of them done" in printed.out
    assert re.findall(r"^== run .*", printed.out, flags=re.MULTILINE) == ["== run 1 of 1: centers-box-s0"]
    assert "box starts at step 4" in printed.out
    assert figures(project) == {"keypoints": {"0": 1.0}, "box": {"0": 2.0}, "root": {"0": pytest.approx(1.1)}}
    assert experiments(project) == RUNS
    shown = json.loads(project.dvc("exp", "show", "--json").stdout)
    assert sorted(run["name"] for commit in shown for run in commit["experiments"] or []) == RUNS
    assert not list((project.folder / "checkpoints").iterdir())
    nothing_left_behind(project)


def test_a_table_takes_no_run(project: Repository, ablate: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    before = project.git("for-each-ref")
    assert ablate("centers", "--seeds", "0,5", "--table") == 0
    printed = capsys.readouterr().out
    assert "6 runs, 3 of them done" in printed
    assert "| mean of the visible keypoints | *1.07* | *1.10* | 1.000 |" in printed
    assert "Not run yet: centers-keypoints-s5, centers-box-s5, centers-root-s5" in printed
    assert project.git("for-each-ref") == before


def test_a_run_of_other_params_is_not_taken_for_this_one(
    project: Repository, ablate: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    refs = {ref.rsplit("/", 1)[1]: ref for ref in project.git("for-each-ref", "--format=%(refname)", "refs/exps").split()}
    renamed = refs["centers-box-s0"].replace("box-s0", "box-s5")
    project.git("update-ref", renamed, refs["centers-box-s0"])  # as `dvc exp rename` does it
    try:
        assert ablate("centers", "--seeds", "5", "--table") == 2
    finally:
        project.git("update-ref", "-d", renamed)
    error = capsys.readouterr().err
    assert "experiment centers-box-s5: expected the params that this run would have, got others in train" in error
    assert error.count("\n") == 1
