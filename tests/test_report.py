"""The report as a whole, built from a made-up run: what is on the page, that it stands alone, and what happens when an input is missing."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from fake_hands import make_crops, write_shards
from fake_run import FIGURES, TERMS, write_run
from PIL import Image

from pipelines.config import load_params
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
            assert value is None or value.startswith(("data:", "#")), f"<{tag} {name}={value}>"
    assert not page.of("script")
    text = re.sub(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+", "", (run / "reports/index.html").read_text())
    assert "//" not in text.replace("</", "")
    assert "@import" not in text
    assert set(re.findall(r"url\((.)", text)) <= {"#"}  # clip paths of the charts


def test_every_link_inside_the_page_has_its_target(page: Page) -> None:
    ids = Counter(attributes["id"] for _, attributes in page.elements if "id" in attributes)
    assert max(ids.values()) == 1
    targets = {str(attributes["href"])[1:] for tag, attributes in page.elements if str(attributes.get("href")).startswith("#")}
    assert targets <= set(ids)
    assert {"results", "predictions", "pck", "training", "samples", "scenes", "submissions", "run"} <= set(ids)


def test_all_pictures_are_there_and_described(run: Path, page: Page) -> None:
    pictures = page.of("img")
    config = load_params(run / "params.yaml").report
    num_ranked = 3  # one each of the best, the median and the worst hand
    expected = 2 * config.num_samples + 3 * config.num_scenes + 5 * num_ranked + 5 * config.num_scenes
    assert len(pictures) == expected
    for picture in pictures:
        assert picture["alt"]
        image = Image.open(io.BytesIO(base64.b64decode(str(picture["src"]).split(",")[1])))
        assert (image.format, str(image.width), str(image.height)) == ("JPEG", picture["width"], picture["height"])
        assert max(image.size) >= 448  # big enough to see something
    assert len({picture["src"] for picture in pictures}) > expected / 2
    charts = page.of("svg")
    assert len(charts) == 2 * 2 + 2 * len(TERMS)
    figures = [figure for figure in page.of("figure") if figure.get("role") == "img"]
    assert len(figures) == len(charts)
    assert all(figure["aria-label"] for figure in figures)


def test_every_measured_number_is_on_the_page(run: Path, page: Page) -> None:
    for name in FIGURES:
        metrics = json.loads((run / "metrics" / f"{name}.json").read_text())
        for group in metrics.values():
            for figure, value in group.items():
                assert figure in page.text
                assert re.search(rf"(?<![\d.]){re.escape(f'{value:g}')}(?![\d.])", page.text), (name, figure, value)
    for text in ("8.1%", "21.9%", "81.2%", "76.5%", "14.3", "0.714"):  # as the table writes them
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
    assert "| detection recall ↑ | – | – | 76.5% | 65.4% |" in text
    assert all(description for description in re.findall(r"!\[([^\]]*)\]", text))
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in table[: table.index("| stage | what it does | command | what it made |")]} == {6}


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
        ("results/multi/samples.parquet", "evaluate@multi"),
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
        ("metrics/multi.json", "{", "metrics/multi.json: expected JSON"),
        ("results/crop/samples.parquet", "text", "results/crop/samples.parquet: not a readable parquet file"),
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


def test_a_preset_name_cannot_break_the_page(tmp_path: Path, run: Path) -> None:
    """Whatever is in a file is text on the page."""
    for name in ("dvc.yaml", "data", "models", "logs", "metrics", "results", "submissions"):
        os.symlink(run / name, tmp_path / name)
    params = (run / "params.yaml").read_text().replace("preset: tiny", "preset: '<script>&'")
    (tmp_path / "params.yaml").write_text(params)
    with contextlib.chdir(tmp_path):
        assert main([]) == 0
    page = Page((tmp_path / "reports/index.html").read_text())
    assert not page.of("script")
    assert "<script>&" in page.text


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
    assert "results/crop/samples.parquet: expected samples of data/ingest/procedural/eval" in capsys.readouterr().err
