"""Complete parameter sets: list them, write one to params.yaml, check the file that is there.

    python -m pipelines.preset --list | NAME [--force] | --check
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipelines.config import PARAMS_FILE, Params, ParamsError, load_params

PRESETS_DIR = Path(__file__).parent / "presets"


def preset_names() -> list[str]:
    """Names of the presets, sorted."""
    return sorted(path.stem for path in PRESETS_DIR.glob("*.yaml"))


def preset_path(name: str) -> Path:
    """The file of a preset. Raises ValueError for a name there is none of."""
    if name not in preset_names():
        raise ValueError(f"preset: expected one of {preset_names()}, got {name!r}")
    return PRESETS_DIR / f"{name}.yaml"


def describe(name: str) -> str:
    """One line about a preset: the first comment of its file."""
    return preset_path(name).read_text().splitlines()[0].removeprefix("#").strip()


def differences(ours: object, theirs: object, prefix: str = "") -> Iterator[str]:
    """Keys at which two trees differ, as `key: value here, value there`."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in [*ours, *(key for key in theirs if key not in ours)]:
            yield from differences(ours.get(key), theirs.get(key), f"{prefix}.{key}" if prefix else str(key))
    elif ours != theirs:
        yield f"{prefix}: {ours!r}, not {theirs!r}"


def _tree(params: Params) -> dict[str, Any]:
    return params.model_dump(exclude={"preset"})


def own_values(path: Path) -> str | None:
    """What would be lost by overwriting a params file: None when its values are exactly some preset's."""
    try:
        params = load_params(path)
    except ParamsError as error:
        return str(error)
    if any(_tree(params) == _tree(load_params(preset_path(name))) for name in preset_names()):
        return None
    if params.preset not in preset_names():
        return f"{path} holds values of its own (preset: {params.preset!r})"
    changed = list(differences(_tree(params), _tree(load_params(preset_path(params.preset)))))
    more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
    return f"{path} holds values of its own: {changed[0]} as in {params.preset}{more}"


def write_preset(name: str, path: Path = PARAMS_FILE, *, force: bool = False) -> None:
    """Write preset `name` to `path`. Raises ValueError when that would lose values which are in no preset, unless `force`."""
    text = preset_path(name).read_text()
    if path.exists() and not force and (lost := own_values(path)):
        raise ValueError(f"{lost}; keep a copy, then repeat with --force")
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    os.replace(partial, path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; a mistake is one line on stderr and exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.preset", description="Complete parameter sets for params.yaml.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("name", nargs="?", help="write this preset to params.yaml")
    what.add_argument("--list", action="store_true", help="the presets, one line each")
    what.add_argument("--check", action="store_true", help="check params.yaml and write nothing")
    parser.add_argument("--force", action="store_true", help="overwrite values that are in no preset")
    options = parser.parse_args(arguments)
    try:
        if options.list:
            width = max(map(len, preset_names()))
            for name in preset_names():
                print(f"{name:<{width}}  {describe(name)}")
        elif options.check:
            load_params()
        else:
            write_preset(options.name, force=options.force)
            print(f"params.yaml is now preset {options.name}; `dvc repro` runs it")
    except ValueError as error:
        sys.exit(_fail(str(error)))


def _fail(message: str) -> int:
    print(message, file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
