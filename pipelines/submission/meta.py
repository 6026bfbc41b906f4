"""meta.json beside a package: what it was made of, so that a score on a server can be traced back."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from handnet.predict import ModelDescription
from pipelines.config import SubmissionConfig
from pipelines.shards.manifest import sha256_file
from pipelines.submission.layouts import Layout
from pipelines.submission.packing import DECIMALS
from pipelines.submission.predicting import Predictions

META_SCHEMA = 1


def describe(
    package: Path, predictions: Predictions, layout: Layout, config: SubmissionConfig, model: ModelDescription, doubts: list[str]
) -> dict[str, Any]:
    """The content of meta.json."""
    return {
        "schema": META_SCHEMA,
        "layout": layout.name,
        "num_samples": len(predictions.keys),
        "num_samples_server": layout.num_samples,
        "complete": len(predictions.keys) == layout.num_samples,
        "num_missing": len(predictions.missing),
        "missing": predictions.missing,
        "decimals": DECIMALS,
        "joints": layout.convention,
        "sha256": sha256_file(package),
        "doubts": doubts,
        "params": config.model_dump(mode="json"),
        "model": {"stage": model.stage, "fingerprint": model.fingerprint, "input_px": model.input_px, "hand": model.hand},
        "git": git_revision(),
        "sample_order": {"server": layout.sample_order, "keys": predictions.keys},
    }


def git_revision() -> dict[str, Any] | None:
    """{"revision", "modified"} of the working tree, or None outside a repository, without a commit or without git."""
    try:
        revision = _git("rev-parse", "HEAD")
        return {"revision": revision.strip(), "modified": bool(_git("status", "--porcelain", "--untracked-files=no").strip())}
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout
