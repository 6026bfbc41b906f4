"""The stages of dvc.yaml with their templates filled in: for the table of stages, and to say which one makes a missing file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

GRAPH = Path("dvc.yaml")
_TEMPLATE = re.compile(r"\$\{([\w.]+)\}")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage: its name as `dvc repro` takes it, what it is for, its command, and the files or folders it makes."""

    name: str
    description: str
    command: str
    outs: tuple[str, ...]


def read_stages(params: Mapping[str, Any], path: Path = GRAPH) -> list[Stage]:
    """Every stage in the file's order. `params`: the tree the templates refer to. ValueError names the file and what is wrong."""
    try:
        tree = YAML(typ="safe", pure=True).load(path.read_text())
        return [stage for name, body in tree["stages"].items() for stage in _expand(name, body, params)]
    except FileNotFoundError:
        raise ValueError(f"{path}: not found; run from the project's root") from None
    except YAMLError as error:
        raise ValueError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: expected stages with cmd and outs: {type(error).__name__} {error}") from None


def maker_of(path: Path, stages: Sequence[Stage]) -> str | None:
    """The name of the stage that makes `path` (or a folder it is in), None if no stage does."""
    for stage in stages:
        if any(path == Path(out) or Path(out) in path.parents for out in stage.outs):
            return stage.name
    return None


def require(path: Path, stages: Sequence[Stage]) -> Path:
    """`path` if it exists. ValueError otherwise, with the stage that makes it."""
    if path.exists():
        return path
    maker = maker_of(path, stages)
    hint = f"stage {maker} makes it: `dvc repro {maker}`" if maker else "`dvc repro` makes it"
    raise ValueError(f"{path}: not found; {hint}")


def _expand(name: str, body: Mapping[str, Any], params: Mapping[str, Any]) -> Iterator[Stage]:
    if "foreach" not in body:
        yield _stage(name, body, params)
        return
    source = body["foreach"]
    items = _value(source, params) if isinstance(source, str) else source
    pairs = items.items() if isinstance(items, Mapping) else ((str(item), item) for item in items)
    for key, item in pairs:
        if item is not None:
            yield _stage(f"{name}@{key}", body["do"], {**params, "key": key, "item": item})


def _stage(name: str, body: Mapping[str, Any], context: Mapping[str, Any]) -> Stage:
    outs = [next(iter(out)) if isinstance(out, Mapping) else out for kind in ("outs", "metrics") for out in body.get(kind, [])]
    return Stage(
        name=name,
        description=_filled(body.get("desc", ""), context),
        command=_filled(body["cmd"], context),
        outs=tuple(_filled(out, context) for out in outs),
    )


def _filled(text: str, context: Mapping[str, Any]) -> str:
    return _TEMPLATE.sub(lambda found: str(_value(found[0], context)), text)


def _value(template: str, context: Mapping[str, Any]) -> Any:
    match = _TEMPLATE.fullmatch(template)
    if match is None:
        raise KeyError(template)
    value: Any = context
    for part in match[1].split("."):
        value = value[part]
    return value
