"""The guard against NaN and infinity: a bad step changes no weight, and its loss terms, samples and batch are told and kept.

The optimiser is told on the device, and the host looks at the flags of a GPU one step later, so that it never waits for the step at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from handnet.batch import HandBatch
from pipelines.training.processes import Group

MAX_IN_A_ROW = 20  # skipped steps after which nothing is learnt any more


@dataclass(frozen=True)
class _Seen:
    step: int
    finite: Tensor  # (1 + number of terms,) on the host: the gradient, then the terms of all processes
    own_finite: Tensor  # (number of terms,) of this process
    parts: Sequence[HandBatch]
    event: torch.cuda.Event | None


class FiniteGuard:
    """`watch` every step after its backward pass; `check` finds what was bad."""

    def __init__(self, mode: Literal["stop", "skip"], group: Group, folder: Path, device: torch.device):
        self.mode, self.group, self.folder, self.device = mode, group, folder, device
        self.num_skipped = self.in_a_row = 0
        self._seen: _Seen | None = None

    def watch(
        self,
        step: int,
        terms: Tensor,
        own_terms: Tensor,
        norm: Tensor | None,
        optimizer: torch.optim.Optimizer,
        parts: Sequence[HandBatch],
    ) -> Tensor:
        """terms: of all processes; own_terms: of this one; norm: of the gradient, None where a gradient scaler looks after it.

        Returns whether the step is bad, on the device.
        """
        gradient = terms.new_zeros(()) if norm is None else norm.detach().to(terms)
        finite = torch.cat([gradient[None], terms]).isfinite()
        bad = ~finite.all()
        if norm is not None:
            # read by the fused kernels, as a gradient scaler sets it
            optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
        event = None
        if self.device.type == "cuda":
            event = torch.cuda.Event()
        host = finite.to("cpu", non_blocking=True), own_terms.detach().isfinite().to("cpu", non_blocking=True)
        if event is not None:
            event.record()
        self._seen = _Seen(step, *host, parts, event)
        return bad

    def check(self, names: Sequence[str]) -> str | None:
        """What was bad in the step watched last, as a line, or None; ValueError instead if training is to stop."""
        seen, self._seen = self._seen, None
        if seen is None:
            return None
        if seen.event is not None:
            seen.event.synchronize()
        if bool(seen.finite.all()):
            self.in_a_row = 0
            return None
        bad = [name for name, finite in zip(names, seen.finite[1:].tolist(), strict=True) if not finite and name != "loss"]
        own_bad = not bool(seen.own_finite.all())
        keys = [key for part in seen.parts for key in part.keys]
        saved = self._save(seen) if own_bad or bool(seen.finite[1:].all()) else None
        told = self.group.gather((keys if saved is not None else [], None if saved is None else str(saved)))
        samples = ", ".join(key for keys_of_one, _ in told for key in keys_of_one)
        files = ", ".join(path for _, path in told if path is not None)
        what = ", ".join(bad) if bad else "gradient"
        line = f"step {seen.step}: {what} not finite; samples {samples}; batch saved as {files}"
        self.num_skipped += 1
        self.in_a_row += 1
        if self.mode == "stop":
            raise ValueError(f"training stopped at {line}")
        if self.in_a_row >= MAX_IN_A_ROW:
            raise ValueError(f"training stopped, {self.in_a_row} steps in a row were not finite; last {line}")
        return f"skipped {line}"

    def _save(self, seen: _Seen) -> Path:
        """The process's batch, part by part, as safetensors; the sample ids are in its metadata."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"nonfinite-step-{seen.step:09d}-process-{self.group.rank}.safetensors"
        tensors, metadata = {}, {}
        for number, part in enumerate(seen.parts):
            metadata[f"{number}.keys"] = "\n".join(part.keys)
            metadata[f"{number}.counts"] = " ".join(map(str, part.counts))
            for field in fields(part):
                value = getattr(part, field.name)
                if isinstance(value, Tensor):
                    tensors[f"{number}.{field.name}"] = value.cpu().contiguous()
        partial = path.with_suffix(".partial")
        save_file(tensors, partial, metadata)
        partial.replace(path)
        return path
