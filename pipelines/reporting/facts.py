"""What was run: the revision of the code, the parameters, the models, and the stages with what they left on disk."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from handnet.network.files import DESCRIPTION_NAME, WEIGHTS_NAME
from handnet.predict import ModelDescription
from pipelines.config_mixture import is_remote
from pipelines.reporting.inputs import DATA, MODELS
from pipelines.reporting.stages import Stage
from pipelines.shards.manifest import MANIFEST, digest, load_manifest

CODE = ("handnet", "pipelines", "flows", "params.yaml", "dvc.yaml")  # what a result depends on, besides data
DIGEST_LENGTH = 12


@dataclass(frozen=True, kw_only=True)
class StageRow:
    """A stage and, per out, its path and what is there, such as "400 images, 400 hands, 9.1 MB"."""

    stage: Stage
    outs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class ModelRow:
    """A trained model: its description and the size of its weights."""

    folder: str
    description: ModelDescription
    size: str

    @property
    def trained_on(self) -> str:
        """The folders and URLs of the parts it learned from."""
        parts = self.description.provenance.get("mixture")
        if not isinstance(parts, dict):
            return f"{DATA.name}/{self.description.provenance.get('data', '')}"
        return ", ".join(str(part.get("path", name)) for name, part in parts.items())

    @property
    def training(self) -> str:
        """Supervision and length of training as the model's provenance has them."""
        provenance = self.description.provenance
        parts = []
        if "supervision" in provenance:
            parts.append(f"{str(provenance['supervision']).upper()} labels")
        for key, label in (("steps", "steps"), ("images_seen", "images seen")):
            if isinstance(value := provenance.get(key), int):
                parts.append(f"{value:,} {label}")
        return ", ".join(parts)


def git_revision() -> str | None:
    """The commit this folder is at, and whether code or parameters differ from it; None where it is no repository's root."""
    try:
        if _git("rev-parse", "--show-prefix").strip():
            return None
        revision = _git("rev-parse", "HEAD").strip()[:DIGEST_LENGTH]
        changed = _git("status", "--porcelain", "--", *CODE).strip()
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None
    return f"{revision}, with uncommitted changes" if changed else revision


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout


def params_digest(params: dict[str, Any]) -> str:
    """A short digest of every parameter value."""
    return digest(params)[:DIGEST_LENGTH]


def params_text(params: dict[str, Any]) -> str:
    """All parameters as YAML."""
    stream = StringIO()
    writer = YAML()
    writer.default_flow_style = None
    writer.width = 1000
    writer.dump(params, stream)
    return stream.getvalue()


def read_model(stage: str) -> ModelRow:
    """The model a training stage left."""
    folder = MODELS / stage
    description = ModelDescription.read(folder / DESCRIPTION_NAME)
    return ModelRow(folder=folder.as_posix(), description=description, size=size_text((folder / WEIGHTS_NAME).stat().st_size))


def training_data(model: ModelRow) -> str:
    """Where the largest part of what a model was trained on lies: a folder below data/, or a URL if no part is here."""
    data = model.description.provenance.get("data")
    if not isinstance(data, str):
        raise ValueError(f"{model.folder}/{DESCRIPTION_NAME}: provenance.data: expected the folder of the training shards, got {data!r}")
    return data


def training_shards(model: ModelRow) -> Path | None:
    """The folder of the training shards, None if all of them are behind URLs."""
    data = training_data(model)
    return None if is_remote(data) else DATA / data


def stage_rows(stages: Sequence[Stage], unfinished: str) -> list[StageRow]:
    """The stages with what they left; `unfinished` is the stage that is still writing."""
    return [
        StageRow(stage=stage, outs=tuple((out, "this report" if stage.name == unfinished else out_text(Path(out))) for out in stage.outs))
        for stage in stages
    ]


def out_text(path: Path) -> str:
    """What is at `path`, in a few words."""
    if not path.exists():
        return "not made"
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    size = size_text(sum(file.stat().st_size for file in files))
    texts = []
    for manifest_path in sorted(file for file in files if file.name == MANIFEST):
        manifest = load_manifest(manifest_path.parent)
        prefix = f"{manifest_path.parent.name}: " if manifest_path.parent != path else ""
        aside = f", {manifest.num_quarantined:,} damaged ones set aside" if manifest.num_quarantined else ""
        texts.append(f"{prefix}{manifest.num_samples:,} images, {manifest.num_hands:,} hands{aside}")
    return "; ".join([*texts, size])


def size_text(num_bytes: int) -> str:
    """Bytes for people: 9.1 MB."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes} bytes"
