"""The report as a whole, built from a made-up run: what is on the page, that it stands alone, and what happens when an input is missing."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_hands import make_crops, write_shards
from fake_run import FIGURES, TERMS, VALIDATED, write_run
from PIL import Image
from safetensors.torch import load_file, save_file

from pipelines.config import load_params
from pipelines.published import TABLES
from pipelines.report import main

VOID = {"meta", "link", "img", "br", "hr", "input"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run and its report."""
    folder = tmp_path_factory.mktemp("run")
    write_run(folder)
    with contextlib.chdir(folder):
        assert main([]) == 0
    return folder


class Page(HTMLParser):
    """Elements by tag, their attributes, and the text; fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    return Page((run / "reports/index.html").read_text())


def test_the_page_needs_nothing_but_itself(run: Path, page: Page) -> None:
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "xlink:href", "data", "action"):
            value = attributes.get(name)
            beside = tag == "a" and value == "../data/scene_reports/train/index.html"  # a page of the same project, opened on a click
            assert value is None or beside or value.startswith(("data:", "#")), f"<{tag} {name}={value}>"
    assert [set(script) for script in page.of("script")] == [{"type", "id"}, set()]  # the meshes and the viewer
    text = re.sub(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+", "", (run / "reports/index.html").read_text())
    text = re.sub(r'"(faces|vertices|colors)": "[A-Za-z0-9+/=]+"', "", text)
    assert "://" not in text
    assert not re.search(r"""(src|href)=["']//|fetch\(|XMLHttpRequest|import\(""", text)
    assert "@import" not in text
    assert set(re.findall(r"url\((.)", text)) <= {"#"}  # clip paths of the charts


def test_every_link_inside_the_page_has_its_target(page: Page) -> None:
    ids = Counter(attributes["id"] for _, attributes in page.elements if "id" in attributes)
    assert max(ids.values()) == 1
    targets = {str(attributes["href"])[1:] for tag, attributes in page.elements if str(attributes.get("href")).startswith("#")}
    assert targets <= set(ids)
    sections = {
        "results",
        "paper",
        "predictions",
        "meshes",
        "strata",
        "pck",
        "speed",
        "training",
        "samples",
        "scenes",
        "submissions",
        "run",
    }
    assert sections <= set(ids)
    assert [link["href"] for link in page.of("a") if not str(link["href"]).startswith("#")] == ["../data/scene_reports/train/index.html"]


def test_all_pictures_are_there_and_described(run: Path, page: Page) -> None:
    pictures = page.of("img")
    config = load_params(run / "params.yaml").report
    num_ranked = 3  # one each of the best, the median and the worst hand
    expected = 2 * config.num_samples + 3 * config.num_scenes + 7 * num_ranked + 6 * config.num_scenes + 6 * num_ranked
    assert len(pictures) == expected
    for picture in pictures:
        assert picture["alt"]
        image = Image.open(io.BytesIO(base64.b64decode(str(picture["src"]).split(",")[1])))
        assert (image.format, str(image.width), str(image.height)) == ("JPEG", picture["width"], picture["height"])
        assert max(image.size) >= 448  # big enough to see something
    assert len({picture["src"] for picture in pictures}) > expected / 2
    charts = page.of("svg")
    assert len(charts) == 2 * 3 + 2 * len(TERMS) + len(VALIDATED) + 1 + 2 + 1  # PCK, training, validation, strata (1 and 2), speed
    figures = [figure for figure in page.of("figure") if figure.get("role") == "img"]
    assert len(figures) == len(charts)
    assert all(figure["aria-label"] for figure in figures)


def test_every_measured_number_is_on_the_page(run: Path, page: Page) -> None:
    for name in FIGURES:
        metrics = json.loads((run / "metrics" / f"{name}.json").read_text())
        for group in metrics.values():
            for figure, values in group.items():
                assert figure in page.text
                for value in values if isinstance(values, list) else [values]:
                    assert re.search(rf"(?<![\d.]){re.escape(f'{value:g}')}(?![\d.])", page.text), (name, figure, value)
    for text in ("8.1%", "21.9%", "81.2%", "76.5%", "14.3", "0.714", "14.0 to 14.7"):  # as the table writes them
        assert text in page.text


def test_the_better_of_two_is_marked(run: Path) -> None:
    text = (run / "reports/index.html").read_text()
    rows = {re.sub(r"&nbsp;.", "", label): cells for label, cells in re.findall(r'<th scope="row">([^<]*)</th>(<td.*?)</tr>', text)}
    best = {label: re.findall(r'best">([^<]*)<', cells) for label, cells in rows.items()}
    assert best["2D error, px"] == ["7.12", "9.88"]
    assert best["PA-MPJPE, mm"] == ["13.5"]  # the mean hand is better here, and the page says so
    assert best["PA-AUC of joints, 0 to 50 mm"] == ["0.714"]
    assert best["detection recall"] == []  # of the same detections: nothing to compare
    assert re.search(r'class="beside worse">worse than the mean hand\S+ 13\.5<', text)
    assert re.search(r'class="beside soft">65\.4% with the mean hand in our', text)


def test_what_was_run_is_told(run: Path, page: Page) -> None:
    for text in ("tiny", "crop-fingerprint", "multi-fingerprint", "1,234 images seen", "submissions/freihand/pred.zip", "12,345 bytes"):
        assert text in page.text
    assert "6 samples of the 3,960" in page.text
    assert "python -m pipelines.evaluate multi" in page.text
    assert "data/scenes/eval : 5 images" in page.text
    assert "not in a git repository" in page.text
    assert "mobilenetv3_small_050" in page.text


def test_the_readme_shows_the_same(run: Path) -> None:
    text = (run / "reports/README.md").read_text()
    assert "${" not in text
    assert "{{" not in text
    named = set(re.findall(r"\]\(assets/([^)]+)\)", text))
    assert named == {path.name for path in (run / "reports/assets").iterdir()}
    assert {"samples.jpg", "scenes.jpg", "predictions-crop.jpg", "predictions-multi.jpg", "pck-crop.png", "terms-multi.png"} <= named
    for name in named:
        with Image.open(run / "reports/assets" / name) as image:
            assert image.format == {"jpg": "JPEG", "png": "PNG"}[name.split(".")[1]]
            assert np.asarray(image).std() > 5
    assert "| 2D error, share of hand size ↓ | **8.1%** | 21.9% | – | – |" in text
    assert "| PA-MPJPE, mm ↓ | 14.3 (14.0 to 14.7) | **13.5** |" in text
    assert "| detection recall ↑ | – | – | 76.5% | 65.4% |" in text
    assert all(description for description in re.findall(r"!\[([^\]]*)\]", text))
    tables = [block.splitlines() for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)]
    assert len(tables) == 8  # results, I to IV, the text's results, speed, stages
    for table in tables:
        assert len({line.count("|") for line in table}) == 1, table[0]
        assert re.fullmatch(r"\|( -+:? \|)+", table[1])


def report_bytes(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted((folder / "reports").rglob("*")) if path.is_file()}


def test_the_same_inputs_make_the_same_bytes_and_nothing_else(run: Path) -> None:
    before = report_bytes(run)
    (run / "reports/assets/of-an-older-report.png").write_bytes(b"")
    with contextlib.chdir(run):
        assert main([]) == 0
    after = report_bytes(run)
    assert sorted(after) == sorted(before)
    assert [name for name in before if before[name] != after[name]] == []


@pytest.mark.parametrize(
    ("path", "stage"),
    [
        ("data/scenes/eval/manifest.json", "compose@eval"),
        ("data/ingest/procedural/train/manifest.json", "ingest@procedural"),
        ("models/crop/model.json", "train_crop"),
        ("models/multi/model.safetensors", "train_multi"),
        ("logs/multi/plots/metrics/train/loss.tsv", "train_multi"),
        ("metrics/crop.json", "evaluate@crop"),
        ("results/multi/hands.parquet", "evaluate@multi"),
        ("results/crop/strata.json", "evaluate@crop"),
        ("results/speed.json", "speed"),
        ("results/crop/pck.csv", "evaluate@crop"),
        ("submissions/freihand/pred.zip", "submit@freihand"),
        ("submissions/freihand/meta.json", "submit@freihand"),
    ],
)
def test_a_missing_input_is_named_with_its_stage(run: Path, path: str, stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = report_bytes(run)
    os.rename(run / path, run / "away")
    try:
        with contextlib.chdir(run):
            assert main([]) == 1
    finally:
        os.rename(run / "away", run / path)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert lines == [f"error: {path}: not found; stage {stage} makes it: `dvc repro {stage}`"]
    assert report_bytes(run) == before


@pytest.mark.parametrize(
    ("path", "content", "expected"),
    [
        ("metrics/multi.json", "{", "metrics/multi.json: not valid JSON"),
        ("results/crop/strata.json", '{"strata": {"side": [{}]}}', "results/crop/strata.json: expected strata"),
        ("results/speed.json", "{", "results/speed.json: not valid JSON"),
        ("results/speed.json", "{}", "results/speed.json: expected machine"),
        ("results/crop/hands.parquet", "text", "results/crop/hands.parquet: not a readable parquet file"),
        ("results/crop/pck_2d.csv", "threshold_fraction,ours\n0,1\n", "results/crop/pck_2d.csv: expected columns"),
        ("results/crop/pck.csv", "threshold_mm,ours,mean_hand\n0,x,1\n", "results/crop/pck.csv: expected numbers"),
        ("logs/crop/plots/metrics/train/loss.tsv", "step\tlos\n1\t2\n", "loss.tsv: expected columns step and loss"),
        ("logs/crop/plots/metrics/train/loss.tsv", "", "loss.tsv: expected a header"),
        ("models/crop/model.json", "[]", "models/crop/model.json: "),
        ("submissions/freihand/meta.json", "[]", "submissions/freihand/meta.json: expected a JSON object"),
    ],
)
def test_a_damaged_input_is_named(run: Path, path: str, content: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / path).read_bytes()
    (run / path).write_text(content)
    try:
        with contextlib.chdir(run):
            assert main([]) == 1
    finally:
        (run / path).write_bytes(before)
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert expected in error


def test_bad_params_stop_first(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "params.yaml").read_text()
    (run / "params.yaml").write_text(before.replace("num_scenes:", "num_scene:"))
    try:
        with contextlib.chdir(run):
            assert main([]) == 2
    finally:
        (run / "params.yaml").write_text(before)
    assert "num_scene" in capsys.readouterr().err
    assert main(["crop"]) == 2


@pytest.fixture(scope="module")
def unusual(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run under a name with markup, its first stage trained from URLs only, and beside it a model for Fig. 10."""
    folder = tmp_path_factory.mktemp("unusual")
    for name in ("dvc.yaml", "data", "logs", "metrics", "results", "submissions"):
        os.symlink(run / name, folder / name)
    shutil.copytree(run / "models", folder / "models")
    description = json.loads((folder / "models/crop/model.json").read_text())
    url = "s3://bucket/shards/train"
    description["provenance"] |= {"data": url, "mixture": {"far": {"path": url, "weight": 1.0}}}
    (folder / "models/crop/model.json").write_text(json.dumps(description))
    shutil.copytree(folder / "models/crop", folder / "models/crop-unregularized")
    weights = load_file(folder / "models/crop-unregularized/model.safetensors")
    weights["hands.first.5.bias"] += 3 * torch.randn(64, generator=torch.Generator().manual_seed(1))  # wild poses
    save_file(weights, folder / "models/crop-unregularized/model.safetensors")
    params = (run / "params.yaml").read_text().replace("preset: tiny", "preset: '<script>&'")
    (folder / "params.yaml").write_text(params)
    with contextlib.chdir(folder):
        assert main([]) == 0
    return folder


def test_a_preset_name_cannot_break_the_page(unusual: Path) -> None:
    """Whatever is in a file is text on the page."""
    page = Page((unusual / "reports/index.html").read_text())
    assert len(page.of("script")) == 2
    assert "<script>&" in page.text


def test_data_behind_urls_is_named_and_not_shown(unusual: Path) -> None:
    page, readme = Page((unusual / "reports/index.html").read_text()), (unusual / "reports/README.md").read_text()
    sentence = "models/crop learned from s3://bucket/shards/train; what is behind URLs is not shown."
    assert sentence in page.text
    assert sentence in readme
    assert "samples.jpg" not in readme
    assert not (unusual / "reports/assets/samples.jpg").exists()
    assert (unusual / "reports/assets/scenes.jpg").exists()  # the second stage's are here


def test_with_and_without_regularisation(run: Path, page: Page, unusual: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fig. 10 where its second model is there; where it is not, how to make it."""
    assert "dvc get . models/crop --rev unregularized -o models/crop-unregularized" in page.text
    assert "-S train.crop.loss.pose_limits=0 -S train.crop.loss.shape_prior=0" in (run / "reports/README.md").read_text()
    text = Page((unusual / "reports/index.html").read_text()).text
    assert "dvc get" not in text
    assert "Of 6 held-out hands" in text
    shares = re.search(r"(\d+)% have a joint more than 5° beyond its limits with it .* (\d+)% have .* without it", text)
    assert shares is not None
    captions = re.findall(r"\d{6}: furthest angle (\d+)° beyond its limits with, (\d+)° without", text)
    assert len(captions) == load_params(run / "params.yaml").report.num_scenes
    without = [int(second) for _, second in captions]
    assert without == sorted(without, reverse=True)
    assert all(int(first) < int(second) for first, second in captions)
    assert shares[2] == "100"
    with Image.open(unusual / "reports/assets/regularization.jpg") as sheet:
        assert sheet.width > 5 * 200
    (unusual / "models/crop-unregularized/model.safetensors").unlink()
    with contextlib.chdir(unusual):
        assert main([]) == 1
    assert "models/crop-unregularized/model.safetensors: not found; report.unregularized" in capsys.readouterr().err


def test_the_viewer_lists_every_image_once(page: Page, run: Path) -> None:
    text = (run / "reports/index.html").read_text()
    scenes = json.loads(re.search(r'<script type="application/json" id="viewer-data">(.*?)</script>', text, re.DOTALL)[1])["scenes"]  # type: ignore[index]
    subjects = [re.sub(r", .*?(\d{6})", r", \1", scene["name"]) for scene in scenes]
    assert len(subjects) >= 4
    assert len(set(subjects)) == len(subjects)


def test_an_older_table_of_hands_is_noticed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Results of other data than those at hand."""
    folder = run / "data/ingest/procedural/eval"
    os.rename(folder, run / "away")
    try:
        write_shards(folder, make_crops(1, 3, side=1))
        with contextlib.chdir(run):
            assert main([]) == 1
    finally:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        os.rename(run / "away", folder)
    assert "results/crop/hands.parquet: expected samples of data/ingest/procedural/eval" in capsys.readouterr().err


def test_published_numbers_are_marked_as_theirs(run: Path) -> None:
    """A run on rendered hands must not look like a result on FreiHAND: rows of theirs and of ours are told apart in the table itself."""
    text = (run / "reports/index.html").read_text()
    section = text[text.index('id="paper"') : text.index('id="predictions"')]
    tables = re.findall(r'<table class="paper">.*?</table>', section, re.DOTALL)
    assert len(tables) == len(TABLES) + 1
    for published, table in zip(TABLES, tables[:-1], strict=True):
        rows = re.findall(r"<tr(?: class=\"([^\"]*)\")?>(.*?)</tr>", table[table.index("<tbody>") :], re.DOTALL)
        theirs = [re.findall(r'class="number">([^<]*)<', cells) for kind, cells in rows if kind == "theirs"]
        assert theirs == [[text.replace("-", "–") if text == "-" else text for text in row.values] for row in published.rows]
        kinds = [kind for kind, _ in rows]
        assert kinds[0] == "between"
        assert f"Published, on {published.dataset}" in rows[0][1]
        own = kinds.index("between elsewhere")
        assert "NOT comparable" in rows[own][1]
        assert f"not on {published.dataset}" in rows[own][1]
        assert set(kinds[own + 1 :]) == {"elsewhere"}
        assert "theirs" not in kinds[own:]
        assert all("procedural hands" in cells for _, cells in rows[own + 1 :])
    readme = (run / "reports/README.md").read_text()
    ours = [line for line in readme.splitlines() if line.startswith("| this run,")]
    assert ours
    assert all("NOT comparable" in line for line in ours)
    assert "| this run, crop, on rendered procedural hands: **NOT comparable** | 2D | yes | *1.43* | *0.714* |" in readme
