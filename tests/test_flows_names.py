"""What flows call things: artifacts, runs, experiments."""

from __future__ import annotations

import pytest

from flows.artifacts import figures_table
from flows.naming import artifact_key, experiment_name, name_of_overrides
from flows.progress import read_progress


def test_what_changed_since_the_former_run() -> None:
    def figures(error: float, recall: float) -> dict[str, dict[str, dict[str, float]]]:
        return {"multi": {"ours": {"error_2d_fraction": error, "recall": recall}}}

    lines = figures_table(figures(0.19, 0.5), figures(0.2, 0.0)).splitlines()[2:]
    assert [line.split(" | ")[4] for line in lines] == ["-5.0% better", "better"]
    lines = figures_table(figures(0.20001, 0.4), figures(0.2, 0.5)).splitlines()[2:]
    assert [line.split(" | ")[4] for line in lines] == ["none", "-20.0% worse"]
    assert "better" not in figures_table(figures(0.2, 0.5), {})


@pytest.mark.parametrize("name", ["../up", "a b", "", ".hidden", "x.lock", "a..b", "a/b"])
def test_names_that_git_or_the_file_system_would_not_take(name: str) -> None:
    with pytest.raises(ValueError, match="experiment: expected"):
        experiment_name(name)


def test_names() -> None:
    assert experiment_name("lr-0.5_b") == "lr-0.5_b"
    assert artifact_key("progress", "ingest@free hand") == "progress-ingest-free-hand"
    assert name_of_overrides(["a=1"]) == name_of_overrides(["a=1"]) != name_of_overrides(["a=2"])
    assert read_progress("train crop: 30/120 steps, 10 s, loss 0.5") == ("train crop: 30/120 steps, 10 s, loss 0.5", 25.0)
    assert read_progress("report: 15/16 figures, 34 s, done") == ("report: 15/16 figures, 34 s, done", 100.0)
    assert read_progress("note: 8 of 9") is read_progress("none: 0/0 hands") is None
