"""The shape of the repository: layers, DVC deps and params against the code, file sizes, things that must not be there."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
LAYERS = ["handnet", "pipelines", "flows"]  # each may import itself and what stands before it
MAX_LINES = 400
# What cannot change a result, so that a change of it reruns nothing: the schema of the params (it holds no default; the values are
# in the stages' params) and the progress bar.
NO_DEPS = {"pipelines/config.py", "pipelines/config_datasets.py", "pipelines/config_mixture.py", "pipelines/progress.py"}
LATE_IMPORT = re.compile(r"(handnet|pipelines)(\.\w+)+:\w+")  # "package.module:name", imported when it is needed


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imported_names(path: Path) -> set[str]:
    """Dotted names a file imports, wherever in it, as absolute names; `from a import b` counts as a.b and a."""
    package = relative(path).removesuffix(".py").split("/")[:-1]
    names = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and LATE_IMPORT.fullmatch(node.value):
            names.add(node.value.split(":")[0])
    return names


def module_files(name: str) -> list[Path]:
    """Files of this repository that importing `name` runs: the packages on the way and the module itself."""
    parts = name.split(".")
    if parts[0] not in LAYERS:
        return []
    found = []
    for length in range(1, len(parts) + 1):
        place = ROOT.joinpath(*parts[:length])
        found += [path for path in (place / "__init__.py", place.with_suffix(".py")) if path.is_file()]
    return found


@cache
def import_closure(start: Path) -> frozenset[str]:
    """Every file that running `start` may import, by repository path; empty package files are left out."""
    seen: set[Path] = set()
    todo = [start, start.parent / "__init__.py"]
    while todo:
        path = todo.pop()
        if path in seen:
            continue
        seen.add(path)
        todo += [found for name in imported_names(path) for found in module_files(name)]
    return frozenset(relative(path) for path in seen if any(not is_docstring(node) for node in parsed(path).body))


def is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def stages() -> dict[str, dict]:
    """Stages of dvc.yaml by name, a foreach stage once, as its `do` block."""
    tree = YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text())
    return {name: stage.get("do", stage) for name, stage in tree["stages"].items()}


def entry_point(stage: dict) -> Path:
    """The file that a stage's command runs."""
    match = re.fullmatch(r"python -m pipelines\.(\w+)( [\w${}]+)*", stage["cmd"])
    assert match, f"expected `python -m pipelines.NAME [ARGUMENT...]`, got {stage['cmd']!r}"
    return ROOT / "pipelines" / f"{match[1]}.py"


def code_deps(stage: dict) -> list[str]:
    return [dep for dep in stage["deps"] if dep.split("/")[0] in LAYERS]


def covers(dep: str, path: str) -> bool:
    return path == dep or path.startswith(f"{dep}/")


@pytest.mark.parametrize("path", python_files(*LAYERS), ids=relative)
def test_arrows_point_in_one_direction(path: Path) -> None:
    layer = LAYERS.index(relative(path).split("/")[0])
    above = {name for name in imported_names(path) if name.split(".")[0] in LAYERS[layer + 1 :]}
    assert not above, f"{relative(path)} imports {sorted(above)}"


@pytest.mark.parametrize("path", python_files("handnet"), ids=relative)
def test_handnet_knows_no_pipeline(path: Path) -> None:
    """The science is a library: it reads no params.yaml and knows no tool that runs it."""
    tools = {"dvc", "dvclive", "prefect", "webdataset", "dask", "pydantic", "lightning_fabric"}
    assert not {name.split(".")[0] for name in imported_names(path)} & tools
    assert not re.search(r"params\.yaml|load_params", path.read_text())


@pytest.mark.parametrize("name", stages())
def test_deps_cover_what_a_stage_imports(name: str) -> None:
    """DVC does not follow imports: a file that is missing here would change without the stage running again."""
    stage = stages()[name]
    needed = import_closure(entry_point(stage)) - NO_DEPS
    missing = sorted(path for path in needed if not any(covers(dep, path) for dep in code_deps(stage)))
    assert not missing, f"dvc.yaml: {name} imports what its deps do not name: {missing}"


@pytest.mark.parametrize("name", stages())
def test_deps_are_no_wider_than_the_imports(name: str) -> None:
    """A dep that nothing imports reruns a stage for nothing."""
    stage = stages()[name]
    closure = import_closure(entry_point(stage))
    unused = sorted(dep for dep in code_deps(stage) if dep in NO_DEPS or not any(covers(dep, path) for path in closure))
    assert not unused, f"dvc.yaml: {name} names deps that it does not import: {unused}"
    if name in ("ingest", "compose"):
        assert "handnet" not in code_deps(stage), "data stages must not rerun when the network changes"


def test_no_stage_imports_what_dvc_ignores() -> None:
    """A file in .dvcignore is in no stage's hash, whatever the deps say."""
    imported = sorted({path for stage in stages().values() for path in import_closure(entry_point(stage))})
    command = [sys.executable, "-m", "dvc", "check-ignore", *imported]
    ignored = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ignored.returncode in (0, 1), ignored.stderr  # 1: none is
    assert ignored.stdout == ""


@pytest.mark.parametrize("name", stages())
def test_a_stage_that_loads_the_free_hand_depends_on_it(name: str) -> None:
    stage = stages()[name]
    if "handnet/hand/files.py" in import_closure(entry_point(stage)):
        assert any(covers(dep, "handnet/hand/free_hand.npz") for dep in code_deps(stage))


def sections_read(path: Path) -> set[str]:
    """Top-level sections of params.yaml that an entry point takes: `load_params().x`, or `params.x` with params = load_params()."""
    tree = parsed(path)
    names = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("load_params(") and ast.unparse(node.value).endswith(")")
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    holders = {"load_params()", *names}
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node.value) in holders}


def attributes_of_arguments(path: Path, annotation: str) -> set[str]:
    """Attributes that the functions of a file read from their arguments of a type."""
    read = set()
    for function in ast.walk(parsed(path)):
        if isinstance(function, ast.FunctionDef):
            arguments = [*function.args.args, *function.args.kwonlyargs]
            names = {argument.arg for argument in arguments if argument.annotation and ast.unparse(argument.annotation) == annotation}
            read |= {node.attr for node in ast.walk(function) if isinstance(node, ast.Attribute) and ast.unparse(node.value) in names}
    return read


@pytest.mark.parametrize("name", stages())
def test_params_are_the_sections_that_are_read(name: str) -> None:
    """A section read but not declared would change a result behind DVC's back; one declared but not read reruns for nothing."""
    stage = stages()[name]
    declared = set(stage["params"])
    assert sections_read(entry_point(stage)) == {section.split(".")[0] for section in declared}
    # below the top: train reads its own stage by name, and what both stages share; the others only their own item
    shared = {section.split(".")[1] for section in declared if section.startswith("train.")} - {"crop", "multi"}
    for path in python_files("pipelines"):
        if relative(path) in import_closure(entry_point(stage)) and path.name != "config.py":
            # "model_dump" and the like are pydantic's
            for section in ("TrainConfig", "IngestConfig", "ComposeConfig"):
                read = {attribute for attribute in attributes_of_arguments(path, section) if not attribute.startswith("model_")}
                assert read <= shared, f"{relative(path)} reads {sorted(read - shared)} of {section}, which {name} does not declare"


def test_commands_name_no_machine() -> None:
    for name, stage in stages().items():
        assert entry_point(stage).is_file(), name
        assert stage["desc"], name


SIZE = [*python_files(*LAYERS, "tests", "benchmarks"), ROOT / "Makefile", ROOT / "dvc.yaml"]


@pytest.mark.parametrize("path", SIZE, ids=relative)
def test_no_file_is_long(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", python_files(*LAYERS), ids=relative)
def test_modules_say_what_they_are_for(path: Path) -> None:
    assert path.stem not in ("utils", "util", "helpers", "helper", "misc", "common")
    if path.read_text().strip():  # an empty package file needs no words
        assert ast.get_docstring(parsed(path)), f"{relative(path)} has no docstring"


@pytest.mark.parametrize("path", python_files(*LAYERS), ids=relative)
def test_nothing_is_left_half_done(path: Path) -> None:
    """No debugger, no note to self, no unsafe reading, no exception that swallows everything."""
    words = "|".join(["TO" + "DO", "FIX" + "ME", "X" * 3, "Not" + "ImplementedError", r"breakpoint\(", r"set_trace\("])
    found = re.search(rf"\b({words})", path.read_text())
    assert found is None, f"{relative(path)}: {found[0]}"
    assert not {"pickle", "dill", "pdb"} & {name.split(".")[0] for name in imported_names(path)}
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "everything"
            assert caught not in ("everything", "Exception", "BaseException"), f"{relative(path)}:{node.lineno} catches {caught}"


def tracked_text_files() -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    binary = {".npz", ".npy", ".png", ".jpg", ".glb", ".zip"}
    paths = [ROOT / name for name in listing.split("\0") if name]
    return [path for path in paths if path.is_file() and path.suffix not in binary]


def test_no_path_of_one_machine_and_no_network_host() -> None:
    """A clone works anywhere: no absolute home or work paths, and requirements name packages, not where they come from."""
    machine = re.compile(r"(?<![\w.])/(work|home|root|Users)/\w")
    for path in tracked_text_files():
        if path == Path(__file__):
            continue
        found = machine.search(path.read_text(errors="replace"))
        assert found is None, f"{relative(path)}: {found[0]}"
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        assert re.fullmatch(r"[a-z0-9-]+==[\w.+]+( ; .+)?", line), line
