"""The closing table of `make demo`: figures next to the baseline's, the better one marked, nothing stale."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from pipelines.preset import write_preset
from pipelines.summary import ROWS, main, metrics_table, read_metrics, row_cells

CROP = {
    "ours": {"error_2d_px": 7.125, "error_2d_fraction": 0.0625, "pa_mpjpe_mm": 12.5, "auc": 0.75},
    "mean_hand": {"error_2d_px": 21.0, "error_2d_fraction": 0.1875, "pa_mpjpe_mm": 18.5, "auc": 0.8},
    "count": {"images": 4, "hands": 4, "measured_hands": 4},
}
MULTI = {
    "ours": {"error_2d_px": 9.0, "precision": 0.875, "recall": 0.5},
    "mean_hand": {"error_2d_px": 9.0},
    "count": {"images": 2, "hands": 9, "measured_hands": 5},
}


def row(name: str):
    return next(row for row in ROWS if row.name == name)


def test_the_better_value_is_marked_whichever_way_it_goes() -> None:
    lower = row_cells(row("error_2d_px"), CROP)
    assert [(cell.plain, str(cell.style)) for cell in lower] == [("7.12", "green"), ("21.00", "")]
    higher = row_cells(row("auc"), CROP)
    assert [(cell.plain, str(cell.style)) for cell in higher] == [("0.750", ""), ("0.800", "green")]
    assert [str(cell.style) for cell in row_cells(row("error_2d_px"), MULTI)] == ["", ""]  # a tie


def test_what_was_not_measured_stays_empty() -> None:
    output = io.StringIO()
    Console(file=output, width=120).print(metrics_table({"crop": CROP, "multi": MULTI}))
    lines = {line.split("  ")[0].strip(" │"): line for line in output.getvalue().splitlines()}
    precision = next(line for label, line in lines.items() if label.startswith("detection precision"))
    assert [cell.strip() for cell in precision.strip("│").split("│")[1:]] == ["", "", "87.5%", ""]
    assert not any("detection AP" in label for label in lines)  # nobody has it


def test_main(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    write_preset("demo", tmp_path / "params.yaml")
    metrics = tmp_path / "metrics"
    metrics.mkdir()
    (metrics / "crop.json").write_text(json.dumps(CROP))
    (metrics / "stale.json").write_text("an evaluation that params.yaml no longer names")
    assert main() == 1
    assert capsys.readouterr().err == "error: metrics/multi.json: not found; `dvc repro` makes it\n"
    (metrics / "multi.json").write_text(json.dumps(MULTI))
    assert main() == 0
    printed = capsys.readouterr().out
    assert "4 of 4 hands measured in data/ingest/procedural/eval, true centres" in printed
    assert "5 of 9 hands measured in data/scenes/eval, predicted centres" in printed
    assert "report: reports/index.html" in printed


def test_broken_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "crop.json").write_text("{")
    with pytest.raises(ValueError, match=r"crop\.json: not valid JSON"):
        read_metrics(["crop"], tmp_path)
