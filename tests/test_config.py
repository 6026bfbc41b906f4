"""params.yaml: every mistake stops before any work, with one line that names the key."""

from __future__ import annotations

import copy
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from ruamel.yaml import YAML

from pipelines.config import IngestConfig, Params, ParamsError, Section, load_params, parse_params

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "pipelines" / "presets" / "demo.yaml"
ENTRY_POINTS = ["ingest procedural", "compose train", "train crop", "evaluate multi", "submit freihand", "report"]


@pytest.fixture
def tree() -> dict[str, Any]:
    return YAML(typ="safe", pure=True).load(DEMO.read_text())


def put(tree: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A copy of the tree with `key` (dotted) set to `value`."""
    tree = copy.deepcopy(tree)
    *path, last = key.split(".")
    node = tree
    for name in path:
        node = node[name]
    node[last] = value
    return tree


def sections(tree: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys of every mapping in the tree, the root as an empty string."""
    found = [prefix]
    for key, value in tree.items():
        if isinstance(value, dict):
            found += sections(value, f"{prefix}.{key}" if prefix else key)
    return found


def test_the_demo_is_valid_and_frozen(tree: dict[str, Any]) -> None:
    params = parse_params(tree, "demo")
    assert params.train.crop.lr == tree["train"]["crop"]["lr"]
    with pytest.raises(Exception, match="frozen"):
        params.train.crop.lr = 1.0  # type: ignore[misc]


def test_every_key_of_the_schema_is_in_the_demo(tree: dict[str, Any]) -> None:
    """A default hidden in the code would be a param nobody sees: only whole optional sections may be missing."""

    def missing(model: BaseModel, node: dict[str, Any], prefix: str) -> list[str]:
        found = []
        for name in type(model).model_fields:
            value = getattr(model, name)
            if name not in node:
                found.append(f"{prefix}{name}")
            elif isinstance(value, BaseModel):
                found += missing(value, node[name], f"{prefix}{name}.")
        return found

    others = {f"ingest.{name}" for name in IngestConfig.model_fields} - {"ingest.procedural"}
    assert set(missing(parse_params(tree, "demo"), tree, "")) == others


def test_no_default_hides_in_the_schema() -> None:
    """Values come from params.yaml alone; dvc.yaml relies on it, where pipelines/config.py is no dep of any stage."""

    def models(kind: type[BaseModel]) -> Iterator[type[BaseModel]]:
        yield kind
        for below in kind.__subclasses__():
            yield from models(below)

    sections = [model for model in models(Section) if model is not IngestConfig]
    assert len(sections) > 10
    assert [f"{model.__name__}.{name}" for model in sections for name, field in model.model_fields.items() if not field.is_required()] == []


def test_unknown_keys_are_named_at_every_level(tree: dict[str, Any]) -> None:
    places = sections(tree)
    assert len(places) > 15
    for place in places:
        if place in ("evaluate", "submit", "train.crop.data", "train.multi.data"):  # their keys are the user's names
            continue
        key = f"{place}.colour_depth" if place else "colour_depth"
        with pytest.raises(ParamsError) as error:
            parse_params(put(tree, key, 1), "params.yaml")
        assert str(error.value) == f"params.yaml: {key}: unknown key"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("train.crop.lr", "fast", "valid number"),
        ("train.crop.steps", 10.5, "valid integer"),
        ("train.crop.steps", True, "valid integer"),
        ("train.model.keypoint_branch", "yes", "'none', 'fused' or 'window'"),
        ("train.model.texture", 1, "valid boolean"),
        ("train.crop.augment.scale", [0.9], "scale"),
        ("train.crop.loss", None, "train.crop.loss"),
        ("evaluate.multi", [], "evaluate.multi"),
        ("train.seed", "0", "valid integer"),
    ],
)
def test_wrong_types(tree: dict[str, Any], key: str, value: Any, expected: str) -> None:
    check_one_line(put(tree, key, value), key, expected)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("train.crop.lr", 0.0, "greater than 0"),
        ("train.crop.lr", -1e-3, "greater than 0"),
        ("train.multi.batch_size", 0, "greater than 0"),
        ("train.crop.input_px", 100, "multiple of 32"),
        ("train.model.output_stride", 16, "4 or 8"),
        ("train.model.pretrained", "imagenet", "'none'"),
        ("train.crop.augment.flip", 1.5, "less than or equal to 1"),
        ("train.multi.ema_decay", 1.0, "less than 1"),
        ("ingest.procedural.num_train", 0, "greater than 0"),
        ("compose.eval.split", "test", "'eval'"),
        ("evaluate.multi.centers", True, "'predicted'"),
        ("submit.freihand.layout", "rhd", "'freihand'"),
    ],
)
def test_impossible_values(tree: dict[str, Any], key: str, value: Any, expected: str) -> None:
    check_one_line(put(tree, key, value), key, expected)


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("ingest.procedural.focal_factor", [3.0, 2.0], "focal_factor"),
        ("ingest.procedural.hand_fraction", [0.5, 1.2], "hand_fraction"),
        ("compose.train.hand_px", [56, 4000], "hand_px"),
        ("train.crop.augment.scale", [1.2, 0.8], "scale"),
        ("train.crop.milestones", [0.5, 0.2], "milestones"),
        ("compose.train.source", "freihand", "compose.train.source"),
        ("compose.eval.split", "train", "compose.eval.split"),
        ("train.crop.data.procedural.path", "data/ingest/freihand/train", "train.crop.data.procedural.path"),
        ("train.crop.data.procedural.path", "ingest/procedural/train", "train.crop.data.procedural.path"),
        ("train.crop.data.procedural.path", "ftp://host/hands", "data.procedural.path: expected a URL with one of ['s3',"),
        ("train.multi.data", {"A B": {"path": "data/x", "weight": 1.0, "labels_3d": 1.0, "masks": 1.0}}, "data.A B: expected a name"),
        ("evaluate.multi.data", "scenes/test", "evaluate.multi.data"),
        ("submit.freihand.data", "data/scenes/eval", "submit.freihand.data"),
    ],
)
def test_values_that_contradict_each_other(tree: dict[str, Any], key: str, value: Any, named: str) -> None:
    check_one_line(put(tree, key, value), named, "expected")


def check_one_line(tree: dict[str, Any], key: str, expected: str) -> None:
    with pytest.raises(ParamsError) as error:
        parse_params(tree, "params.yaml")
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith("params.yaml: ")
    assert key in message
    assert expected in message


def test_infinite_and_missing_values(tree: dict[str, Any]) -> None:
    with pytest.raises(ParamsError, match=r"train\.crop\.lr"):
        parse_params(put(tree, "train.crop.lr", float("nan")), "params.yaml")
    del tree["train"]["crop"]["lr"]
    with pytest.raises(ParamsError, match=r"train\.crop\.lr.*required"):
        parse_params(tree, "params.yaml")


def test_scientific_notation_is_a_number(tree: dict[str, Any], tmp_path: Path) -> None:
    """YAML 1.1 reads 1e-3 as a string; DVC reads YAML 1.2 and so do we."""
    path = tmp_path / "params.yaml"
    path.write_text(DEMO.read_text().replace("lr: 0.001", "lr: 1e-3"))
    assert load_params(path).train.crop.lr == 1e-3


@pytest.mark.parametrize("text", ["", "[1, 2]", "train: [", "preset: demo\npreset: tiny\n"])
def test_files_that_are_no_params(text: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ParamsError) as error:
        load_params(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"pipelines\.preset demo"):
        load_params(tmp_path / "params.yaml")


def broken_params(folder: Path) -> Path:
    """A params.yaml with a misspelt key of train, in an otherwise empty folder."""
    path = folder / "params.yaml"
    path.write_text(re.sub(r"^    lr: ", "    learning_rate: ", DEMO.read_text(), count=1, flags=re.MULTILINE))
    return path


def check_refusal(exit_code: object, printed: str, errors: str) -> None:
    assert exit_code == 2
    assert printed == ""
    assert errors.count("\n") == 1
    assert "params.yaml: train.crop.learning_rate: unknown key" in errors


@pytest.mark.parametrize("command", ["ingest procedural", "train crop"])
def test_stages_stop_before_any_work(command: str, tmp_path: Path) -> None:
    """As dvc runs them: exit code 2, one line, nothing written."""
    path = broken_params(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    module, argument = command.split()
    arguments = [sys.executable, "-m", f"pipelines.{module}", argument]
    result = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    check_refusal(result.returncode, result.stdout, result.stderr)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("command", ENTRY_POINTS)
def test_every_entry_point_checks_the_whole_file(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistake in any section stops each of them, whichever section it reads."""
    path = broken_params(tmp_path)
    monkeypatch.chdir(tmp_path)
    module, *arguments = command.split()
    exit_code = importlib.import_module(f"pipelines.{module}").main(arguments)
    check_refusal(exit_code, *capsys.readouterr())
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("module", "known"), [("ingest", "procedural"), ("compose", "eval"), ("train", "crop"), ("evaluate", "multi"), ("submit", "freihand")]
)
def test_entry_points_name_what_they_know(
    module: str, known: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(DEMO.read_text())
    monkeypatch.chdir(tmp_path)
    assert importlib.import_module(f"pipelines.{module}").main(["nosuch"]) == 2
    assert known in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [path]


def test_params_are_ordered_as_the_stages_run() -> None:
    assert list(Params.model_fields) == ["preset", "ingest", "compose", "train", "evaluate", "submit", "speed", "report"]
