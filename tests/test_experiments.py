"""Ablations say what they claim on every kind of preset; tables and comparisons of made-up figures against plain arithmetic."""

from __future__ import annotations

import io
import json
import statistics
import tempfile
from functools import cache
from pathlib import Path

import pytest
from rich.console import Console
from ruamel.yaml import YAML

from pipelines.ablate import main, runs_of, seed_list
from pipelines.config import ParamsError
from pipelines.experiments.ablation_table import build_table, is_distinct, summarise, write_table
from pipelines.experiments.ablations import ABLATIONS, STAGES
from pipelines.experiments.comparing import changed_params, metric_rows, print_comparison
from pipelines.experiments.running import Planned, Study, evaluations_of, resolved
from pipelines.experiments.runs import RunRecord
from pipelines.preset import preset_path
from pipelines.reporting.paper import loss_terms

PRESETS = ["demo", "tiny", "paper-freihand"]


@cache
def with_overrides(preset, overrides):
    """Some variants of different ablations have the same overrides."""
    return resolved(overrides, preset_path(preset))[1]


@pytest.fixture(scope="module")
def trees():
    """Every variant's params on every preset, as DVC would write them: (preset, ablation, variant) -> tree; all of them valid."""
    return {
        (preset, ablation.name, variant.name): with_overrides(preset, ablation.run(variant, 7).overrides)
        for preset in PRESETS
        for ablation in ABLATIONS.values()
        for variant in ablation.variants
    }


@cache
def plain(preset):
    """A preset as it is."""
    return YAML(typ="safe").load(preset_path(preset))


def sections(trees, ablation, variant):
    """The training sections of both stages on every preset, with the preset's name."""
    for preset in PRESETS:
        for stage in STAGES:
            yield preset, stage, trees[preset, ablation, variant]["train"][stage]


def test_the_seed_is_training_s_alone(trees) -> None:
    for (preset, *_), tree in trees.items():
        assert tree["train"]["seed"] == 7
        for section in ("preset", "ingest", "compose", "evaluate", "submit"):
            assert tree[section] == plain(preset)[section]


def test_variants_differ_from_each_other(trees) -> None:
    for preset in PRESETS:
        for ablation in ABLATIONS.values():
            found = [json.dumps(trees[preset, ablation.name, variant.name], sort_keys=True) for variant in ablation.variants]
            assert len(set(found)) == len(found), (preset, ablation.name)


def test_rows_of_table_iv_switch_what_their_marks_say(trees) -> None:
    """The marks come from the published table, what is on from the params that training would read."""
    assert len(ABLATIONS["losses"].variants) == 11
    for variant in ABLATIONS["losses"].variants:
        for preset, stage, section in sections(trees, "losses", variant.name):
            if (
                (preset, stage) == ("demo", "multi")
                or (preset, stage) == ("tiny", "multi")
                or stage == "crop"
                or preset == "paper-freihand"
            ):
                assert loss_terms(section) == variant.settings, (preset, stage, variant.name)
            three_d = section["loss"]["joints_3d"] > 0 and section["loss"]["vertices_3d"] > 0
            assert three_d == (section["supervision"] == "3d") == (variant.settings[-1] == "✓")


def test_centers_supervision_and_augmentation_reach_both_stages(trees) -> None:
    for definition in ("keypoints", "box", "root"):
        assert {section["center"] for _, _, section in sections(trees, "centers", definition)} == {definition}
    for supervision in ("2d", "3d"):
        for _, _, section in sections(trees, "supervision", supervision):
            assert section["supervision"] == supervision
            assert (section["loss"]["joints_3d"] > 0) == (supervision == "3d")
    for preset, stage, section in sections(trees, "augmentation", "without"):
        augment = section["augment"]
        assert (augment["scale"], augment["translate"], augment["rotate_deg"], augment["color"]) == ([1.0, 1.0], 0, 0, 0)
        own = plain(preset)["train"][stage]["augment"]
        assert augment["flip"] == own["flip"]
        assert trees[preset, "augmentation", "with"]["train"][stage]["augment"] == own


def test_what_does_not_change_within_an_ablation(trees) -> None:
    """Centres differ in nothing but centres, and so on."""
    for preset in PRESETS:
        for ablation, allowed in {
            "centers": {"center"},
            "augmentation": {"augment"},
            "supervision": {"supervision", "loss"},
            "losses": {"supervision", "loss", "augment"},
        }.items():
            for stage in STAGES:
                found = [trees[preset, ablation, variant.name]["train"][stage] for variant in ABLATIONS[ablation].variants]
                for key in found[0]:
                    if key not in allowed:
                        assert all(section[key] == found[0][key] for section in found), (preset, ablation, key)


def test_runs_are_every_variant_with_every_seed() -> None:
    runs = ABLATIONS["centers"].runs([0, 3])
    names = [run.name for run in runs]
    assert len(set(names)) == 6
    assert "centers-box-s3" in names
    assert all(f"train.seed={run.name.rsplit('-s', 1)[1]}" in run.overrides for run in runs)
    shorter = runs_of(ABLATIONS["centers"], [0], ["train.crop.steps=5"])
    assert all(run.name not in names and "train.crop.steps=5" in run.overrides for run in shorter.values())


@pytest.mark.parametrize(
    ("override", "expected"),
    [("train.crop.lr=fast", "train.crop.lr"), ("train.crop.nonsense=1", "nonsense"), ("no equals sign here", "overrides")],
)
def test_an_override_that_does_not_fit_is_one_line(override: str, expected: str) -> None:
    with pytest.raises(ParamsError, match=expected) as error:
        resolved([override], preset_path("tiny"))
    assert "\n" not in str(error.value)
    # the file that is named is the person's own, not a copy
    assert tempfile.gettempdir() not in str(error.value).replace(str(preset_path("tiny")), "")


@pytest.mark.parametrize("text", ["", "1,1", "a", "-1", "1.5"])
def test_bad_seeds(text: str) -> None:
    with pytest.raises(ValueError, match="--seeds: expected"):
        seed_list(text)


def test_an_unknown_ablation_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nonsuch"]) == 2
    assert capsys.readouterr().err == "error: expected one of losses, centers, supervision, augmentation, got 'nonsuch'\n"


def test_what_is_in_the_queue_is_not_queued_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "params.yaml").write_bytes(preset_path("tiny").read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipelines.experiments.running.experiment_names", lambda: [])
    monkeypatch.setattr("pipelines.ablate.queued_names", lambda: {"centers-box-s0", "of another kind"})
    started: list[str] = []
    monkeypatch.setattr("pipelines.ablate.run_experiment", lambda run, evaluations, queue: started.append(run.name))
    assert main(["centers", "--seeds", "0", "--queue"]) == 0
    assert started == ["centers-keypoints-s0", "centers-root-s0"]
    assert "2 runs queued" in capsys.readouterr().out


def test_mean_and_spread() -> None:
    values = {0: 1.25, 1: 1.5, 2: 2.5}
    cell = summarise(values, "{:.3f}")
    assert cell.mean == pytest.approx(statistics.mean(values.values()))
    assert cell.std == pytest.approx(statistics.stdev(values.values()))
    assert cell.text == "1.750 ± 0.661"
    assert summarise({4: 2.0}, "{:.1f}").text == "2.0"
    assert is_distinct(summarise({0: 1.0, 1: 1.1}, "{}"), summarise({0: 2.0, 1: 2.1}, "{}"))
    assert is_distinct(cell, summarise({0: 1.5, 1: 2.1}, "{}")) is False
    assert is_distinct(cell, summarise({0: 2.0}, "{}")) is None


def planned(seeds: list[int], *, missing: str = "") -> dict[tuple[str, int], Planned]:
    """Runs of the centres with figures in which box is far worse than keypoints, and root the same."""
    params, tree = resolved((), preset_path("tiny"))
    far = {"keypoints": 10.0, "box": 20.0, "root": 10.0}
    found = {}
    for (variant, seed), run in runs_of(ABLATIONS["centers"], seeds, []).items():
        ours = {"pa_mpjpe_mm": far[variant] + 0.5 * seed, "pa_mpvpe_mm": 9.0 + seed, "error_2d_fraction": 0.08}
        figures = {"crop": {"ours": ours}, "multi": {"ours": {**ours, "recall": 0.9}}}
        found[variant, seed] = Planned(run=run, params=params, tree=tree, figures=None if run.name == missing else figures)
    return found


def test_the_table_in_the_paper_s_layout(tmp_path: Path) -> None:
    runs = planned([0, 1, 2], missing="centers-root-s2")
    evaluations = evaluations_of(ABLATIONS["centers"], next(iter(runs.values())).params)
    assert evaluations == ["crop", "multi"]
    study = Study(ablation=ABLATIONS["centers"], seeds=(0, 1, 2), overrides=(), evaluations=tuple(evaluations), planned=runs, seconds={})
    table = build_table(study)
    markdown, data, page = (path.read_text() for path in write_table(table, tmp_path))

    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 3
    assert len({line.count("|") for line in lines}) == 1
    keypoints, box, root = lines[2:]
    assert "1.050 ± 0.050" in keypoints
    assert "*1.07*" in keypoints
    assert "*1.10*" in keypoints
    assert "2.050 ± 0.050" in box
    assert "*1.09*" in box
    assert "≈ 1.025 ± 0.035" in root
    assert root.count("*–*") == 2
    assert "paper, FreiHAND" in lines[0]
    assert "Not run yet: centers-root-s2" in markdown
    assert "1 of 2 rows differ" in markdown

    tree = json.loads(data)
    first = tree["rows"][1]["figures"][0]
    assert first["by_seed"] == pytest.approx({"0": 2.0, "1": 2.05, "2": 2.1})
    assert first["mean"] == pytest.approx(2.05)
    assert first["std"] == pytest.approx(0.05)
    assert first["distinct_from_reference"] is True
    assert tree["rows"][1]["published"] == {"MPJPE": "1.09", "MPVPE": "1.12"}
    assert tree["missing"] == ["centers-root-s2"]
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")


def record(name: str, lr: float, error: float, recall: float | None) -> RunRecord:
    ours = {"error_2d_px": error, **({"recall": recall} if recall is not None else {})}
    return RunRecord(name=name, params={"train.crop.lr": lr, "train.seed": 0}, metrics={"multi": {"ours": ours}})


def test_changes_are_judged_by_the_figure_s_own_direction() -> None:
    runs = [record("a", 0.1, 5.0, 0.8), record("b", 0.2, 4.0, 0.7), record("c", 0.1, 5.0, None)]
    assert [(row.name, row.values) for row in changed_params(runs)] == [("train.crop.lr", ("0.1", "0.2", "0.1"))]
    rows = {row.label: row for row in metric_rows(runs)}
    error, recall = rows["2D error, px"], rows["detection recall"]
    assert [(cell.change, cell.verdict) for cell in error.cells] == [("", ""), ("−1.00", "better"), ("=", "equal")]
    assert [(cell.change, cell.verdict) for cell in recall.cells] == [("", ""), ("−10.0%", "worse"), ("", "")]
    assert recall.cells[2].value == ""


def test_nothing_to_compare_is_said() -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    print_comparison([RunRecord(name="empty", missing=["metrics"])], console)
    text = console.export_text()
    assert "No param differs." in text
    assert "No run has figures" in text
    assert "missing in empty: metrics" in text
