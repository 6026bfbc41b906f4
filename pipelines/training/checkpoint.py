"""Checkpoints of a training run, kept outside DVC's outputs in a folder named by what the run is a function of.

A persistent DVC output would let a run with other parameters resume a finished checkpoint and record it as new; a folder per fingerprint
cannot. The folder is removed when the stage has written its model.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipelines.training.settings import checkpoint_root

STATE_NAME = "state.json"
GROUPS = ("network", "average", "optimizer")  # a file of tensors each
_STEP = re.compile(r"step-(\d{9})")
MAX_LISTED = 8


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message is one line that names it."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """tensors: by group, then by name. values: plain numbers, texts, lists and mappings."""

    tensors: dict[str, dict[str, Tensor]]
    values: dict[str, Any]


def fingerprint(parts: dict[str, Any]) -> str:
    """A short digest of everything a run is a function of: configuration, data manifest, initial weights, code."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def weights_digest(state: dict[str, Tensor]) -> str:
    """sha256 over names, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def differences(expected: Any, got: Any, where: str = "") -> list[str]:
    """Every leaf in which two trees differ, as `key: expected ..., got ...`."""
    if isinstance(expected, dict) and isinstance(got, dict):
        found = []
        for key in sorted(expected.keys() | got.keys()):
            found += differences(expected.get(key), got.get(key), f"{where}.{key}" if where else key)
        return found
    return [] if expected == got else [f"{where}: expected {expected!r}, got {got!r}"]


class CheckpointFolder:
    """The checkpoints of one run: step-NNNNNNNNN folders, each complete since it is renamed when written, with those that stay."""

    def __init__(self, stage: str, run: dict[str, Any], keep: int = 1, root: Path | None = None):
        """run: the parts that make the fingerprint; keep: how many of the last ones stay, beside the best.

        root: the folder of all runs' checkpoints, default what the environment says.
        """
        self.run: dict[str, Any] = json.loads(json.dumps(run, default=str))  # as it is read back
        self.stage, self.keep = stage, keep
        self.folder = (root or checkpoint_root()) / f"{stage}-{fingerprint(run)}"

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        matches = (_STEP.fullmatch(path.name) for path in self.folder.glob("step-*"))
        return sorted(int(match[1]) for match in matches if match)

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:09d}"

    def save(self, step: int, checkpoint: Checkpoint, *, best: int | None = None) -> None:
        """Write a checkpoint, then let go of older ones but the one of step `best`. A crash leaves the former ones."""
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f"step-{step:09d}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for group in GROUPS:
            tensors = checkpoint.tensors[group]
            save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, partial / f"{group}.safetensors")
        (partial / STATE_NAME).write_text(json.dumps({"run": self.run, "values": checkpoint.values}))
        for path in partial.iterdir():
            _flush(path)
        if not self.path(step).exists():  # else it is the same: a run is a function of its step
            os.replace(partial, self.path(step))
        self._prune(best)

    def _prune(self, best: int | None) -> None:
        kept = {*self.steps()[-self.keep :], best}
        for path in self.folder.glob("step-*"):
            match = _STEP.fullmatch(path.name)
            if match is None or int(match[1]) not in kept:
                shutil.rmtree(path, ignore_errors=True)

    def load(self, step: int | None = None) -> tuple[int, Checkpoint] | None:
        """The checkpoint of a step, default the last one; None if there is none.

        Raises CheckpointError for one that cannot be read, and for one of another run, with what is different.
        """
        steps = self.steps()
        if not steps:
            return None
        step = steps[-1] if step is None else step
        path = self.path(step)
        again = f"remove {self.folder} to start this run again"
        try:
            state = json.loads((path / STATE_NAME).read_text())
            tensors = {group: load_file(path / f"{group}.safetensors") for group in GROUPS}
            run, values = state["run"], state["values"]
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise CheckpointError(f"{path}: not a readable checkpoint ({' '.join(str(error).split())}); {again}") from error
        found = differences(self.run, run)
        if found:
            more = f" and {len(found) - MAX_LISTED} more" if len(found) > MAX_LISTED else ""
            raise CheckpointError(f"{path}: of another run: {'; '.join(found[:MAX_LISTED])}{more}; {again}")
        return step, Checkpoint(tensors=tensors, values=values)

    def others(self) -> list[str]:
        """Unfinished runs of this stage with another fingerprint, each with how it differs: a line for people."""
        lines = []
        for folder in sorted(self.folder.parent.glob(f"{self.stage}-*")):
            states = sorted(folder.glob(f"step-*/{STATE_NAME}"))
            if folder == self.folder or not states:
                continue
            try:
                run = json.loads(states[-1].read_text())["run"]
            except (OSError, ValueError, KeyError):
                continue
            found = [line.replace("expected", "now", 1).replace(", got", ", there", 1) for line in differences(self.run, run)]
            lines.append(f"{folder} is of another run and is left alone: {'; '.join(found[:MAX_LISTED])}")
        return lines

    def remove(self) -> None:
        """Let go of the checkpoints; batches kept because they were not finite stay."""
        for path in self.folder.glob("step-*"):
            shutil.rmtree(path, ignore_errors=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()


def optimizer_tensors(state: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state dict as flat tensors, `PARAMETER.NAME`, and its plain values."""
    tensors, plain = {}, {}
    for index, entries in state["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value
            else:
                plain[f"{index}.{name}"] = value
    return tensors, {"param_groups": state["param_groups"], "state": plain}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    """The inverse of `optimizer_tensors`. What has a parameter's shape gets its memory layout back, which a file does not keep.

    A fused optimiser goes through memory, not through indices.
    """
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **values["state"]}.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": values["param_groups"]})
    for parameter, entries in optimizer.state.items():
        for name, value in entries.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                entries[name] = torch.empty_like(parameter, requires_grad=False).copy_(value)


def _flush(path: Path) -> None:
    """To the disk, so that the folder's new name never stands for less than its content."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
