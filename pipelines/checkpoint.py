"""Checkpoints of a training run, kept outside DVC's outputs in a folder named by what the run is a function of.

A persistent DVC output would let a run with other parameters resume a finished checkpoint and record it as new; a folder per fingerprint
cannot. The folder is removed when the stage has written its model.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch

CHECKPOINTS = Path("checkpoints")


def fingerprint(parts: dict[str, Any]) -> str:
    """A short digest of everything a run is a function of: configuration, data manifest, initial weights, code."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def weights_digest(state: dict[str, torch.Tensor]) -> str:
    """sha256 over names, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class CheckpointFolder:
    """last.pt of one run; written atomically, read without executing anything."""

    def __init__(self, stage: str, run: str, root: Path = CHECKPOINTS):
        self.folder = root / f"{stage}-{run}"
        self.path = self.folder / "last.pt"

    def save(self, state: dict[str, Any]) -> None:
        """Replace the last checkpoint; a crash leaves the former one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self.path)

    def load(self) -> dict[str, Any] | None:
        """The last checkpoint, or None; ValueError naming the file if it cannot be read."""
        if not self.path.is_file():
            return None
        try:
            return torch.load(self.path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, OSError) as error:
            raise ValueError(f"{self.path}: not a readable checkpoint ({error}); remove its folder to start this run again") from error

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
