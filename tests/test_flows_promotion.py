"""Which model is promoted, how the two are exchanged, and the measuring of the promoted one on another evaluation."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flow_projects import make_project
from repositories import Repository

from flows import promotion, retrain
from flows.evaluations import measure, read_evaluation
from flows.processes import Processes
from flows.promotion import Rule, judge, promote, read_record
from flows.workspaces import workspace

RULE = Rule(figure="error_2d_fraction", margin=0.05, guards=("recall",))


@pytest.mark.parametrize(
    ("candidate", "promoted", "expected"),
    [
        ({"error_2d_fraction": 0.10, "recall": 0.9}, None, True),
        ({"error_2d_fraction": 0.10, "recall": 0.9}, {"error_2d_fraction": 0.12, "recall": 0.9}, True),
        ({"error_2d_fraction": 0.119, "recall": 0.9}, {"error_2d_fraction": 0.12, "recall": 0.9}, False),  # within the margin
        ({"error_2d_fraction": 0.12, "recall": 0.9}, {"error_2d_fraction": 0.12, "recall": 0.9}, False),
        ({"error_2d_fraction": 0.13, "recall": 0.99}, {"error_2d_fraction": 0.12, "recall": 0.9}, False),
        ({"error_2d_fraction": 0.05, "recall": 0.5}, {"error_2d_fraction": 0.12, "recall": 0.9}, False),  # finds fewer hands
    ],
)
def test_who_is_promoted(candidate: dict[str, float], promoted: dict[str, float] | None, expected: bool) -> None:
    assert judge(RULE, candidate, promoted).promote is expected


def test_rules_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match=r"figure: expected one of .* got 'eror'"):
        Rule(figure="eror", margin=0.1)
    with pytest.raises(ValueError, match="margin: expected a share"):
        Rule(figure="recall", margin=1.5)
    with pytest.raises(ValueError, match="'recall': not among those of the candidate"):
        judge(RULE, {"error_2d_fraction": 0.01}, {"error_2d_fraction": 0.1, "recall": 0.9})
    assert judge(Rule(figure="recall", margin=0.0), {"recall": 0.9}, {"recall": 0.8}).promote


@pytest.mark.parametrize("promoted", [None, {"error_2d_fraction": 0.1, "recall": 0.9}])
def test_figures_that_are_no_numbers_promote_nothing(promoted: dict[str, float] | None) -> None:
    with pytest.raises(ValueError, match="figure 'error_2d_fraction' of the candidate: expected a finite number, got nan"):
        judge(RULE, {"error_2d_fraction": float("nan"), "recall": 0.9}, promoted)


def test_promotion_is_done_or_not_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever rename the process dies at, `current` is a whole model."""
    model = tmp_path / "model"
    model.mkdir()
    store = tmp_path / "promoted"
    store.mkdir()

    def weights(text: str) -> Path:
        (model / "weights").write_text(text)
        return model

    promote(store, weights("first"), {"number": 1})
    promote(store, weights("second"), {"number": 2})
    assert [(store / link / "weights").read_text() for link in ("current", "former")] == ["second", "first"]
    real = os.replace
    for dies_at in range(3):
        renames = iter(range(10))

        def replace(source: Path, target: Path, renames=renames, dies_at: int = dies_at) -> None:
            if next(renames) == dies_at:
                raise KeyboardInterrupt
            real(source, target)

        monkeypatch.setattr(promotion.os, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            promote(store, weights("third"), {"number": 3})
        assert (store / "current/weights").read_text() == "second"
        assert read_record(store)["number"] == 2  # type: ignore[index]
        assert (store / "former/weights").read_text() in ("first", "second")
    monkeypatch.setattr(promotion.os, "replace", real)
    promote(store, weights("third"), {"number": 3})
    assert [(store / link / "weights").read_text() for link in ("current", "former")] == ["third", "second"]
    folders = [path for path in store.iterdir() if path.is_dir() and not path.is_symlink()]
    assert len(folders) == 2


def test_a_promotion_that_finds_no_room_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/weights").write_text("x")
    (tmp_path / "promoted").mkdir()

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(promotion, "_sync", full)
    with pytest.raises(OSError, match="No space left on device"):
        promote(tmp_path / "promoted", tmp_path / "model", {"number": 1})
    assert not list((tmp_path / "promoted").iterdir())


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """The small project after its evaluation."""
    made = make_project(tmp_path_factory.mktemp("promotion") / "project")
    made.dvc("repro", "evaluate@multi")
    return made


def test_another_model_is_measured_on_the_workspaces_data(project: Repository, tmp_path: Path) -> None:
    evaluation = read_evaluation(project.folder, "multi")
    assert (evaluation.model, evaluation.metrics) == ("models/multi", "metrics/multi.json")
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.json").write_text('{"error": 0.05}')
    before = (project.folder / "metrics/multi.json").read_text()
    (project.folder / ".dvc/tmp/measure-killed").mkdir(parents=True)
    assert measure(project.folder, evaluation, other, Processes(), print)["error_2d_fraction"] == 0.05
    assert (project.folder / "metrics/multi.json").read_text() == before
    assert not list((project.folder / ".dvc/tmp").glob("measure-*"))
    with pytest.raises(ValueError, match="expected stage evaluate@none"):
        read_evaluation(project.folder, "none")


def test_the_promoted_model_is_measured_on_the_gpus_of_the_stage(
    project: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    needs: list[object] = []

    @contextmanager
    def reserved(need: object) -> Iterator[dict[str, str]]:
        needs.append(need)
        yield {"CUDA_VISIBLE_DEVICES": "5"}

    monkeypatch.setattr(retrain.gpus, "reserved", reserved)
    monkeypatch.setattr(retrain, "get_run_logger", lambda: logging.getLogger("run"))
    evaluation = read_evaluation(project.folder, "multi")
    evaluation = replace(evaluation, command=f"{evaluation.command} && echo on $CUDA_VISIBLE_DEVICES")
    (tmp_path / "current").symlink_to(project.folder / "models/multi")
    with caplog.at_level("INFO"), workspace(project.folder, None, wait=False, say=print) as space:
        retrain.measure_promoted.fn(space, evaluation, tmp_path)
    assert needs == [1]
    assert "on 5" in caplog.messages


def test_a_run_killed_at_its_promotion_has_saved_the_experiment(project: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """Started again it promotes: a record of promotion names an experiment that is there."""
    project.dvc("repro")
    exchange = retrain.promote
    monkeypatch.setattr(retrain, "get_run_logger", lambda: logging.getLogger("run"))
    dies = True

    def promote_or_die(*arguments: Any) -> Path:
        if dies:
            raise KeyboardInterrupt
        return exchange(*arguments)

    monkeypatch.setattr(retrain, "promote", promote_or_die)
    with workspace(project.folder, "retrain", wait=False, say=print) as space:

        def run(experiment: str) -> retrain.Verdict:
            evaluation = read_evaluation(space.folder, "multi")
            return retrain.compare_and_promote.fn(space, project.folder, evaluation, RULE, experiment)

        with pytest.raises(KeyboardInterrupt):
            run("retrain-1")
        assert "retrain-1" in project.dvc("exp", "list", "--all-commits", "--name-only").stdout
        dies = False
        assert run("retrain-2").promote
    record = read_record(project.folder / "promoted")
    assert record is not None
    assert record["experiment"] == "retrain-2"
    assert "retrain-2" in project.dvc("exp", "list", "--all-commits", "--name-only").stdout
