"""What a run tells while it goes: a progress line for people, and rows of numbers that dvclive writes and `dvc plots` shows."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from dvclive import Live

from pipelines.progress import Progress
from pipelines.training.board import Board

Row = dict[str, float]
_SHOWN_TERMS = 3


class Journal:
    """Writes in the first process only; `live` is None in the others. board: TensorBoard's, where it is asked for."""

    def __init__(self, name: str, live: Live | None, device: torch.device, board: Board | None = None):
        self.name, self.live, self.device, self.board = name, live, device, board
        self._progress: Progress | None = None
        self._done = self._total = 0

    @contextmanager
    def progress(self, done: int, total: int) -> Iterator[None]:
        """Inside, the steps done are shown."""
        self._started, self._first, self._done, self._total = time.monotonic(), done, done, total
        self._logged = self._started, done, 0.0
        if self.live is None:
            yield
            return
        with Progress(f"train {self.name}", total, "steps") as self._progress:
            self._progress.advance(done)
            yield
        self._progress = None

    def advance(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress.advance()

    def speed(self, waited_s: float, batch_size: int) -> Row:
        """Images a second, and the share of the time that the loop waited for its batches, since this was asked last."""
        now, done = time.monotonic(), self._done + 1  # the step is logged before it is counted
        then, before, waited_before = self._logged
        self._logged = now, done, waited_s
        elapsed = max(now - then, 1e-9)
        return {"speed/images_per_s": (done - before) * batch_size / elapsed, "speed/waiting": (waited_s - waited_before) / elapsed}

    def log(self, row: Row, epoch: float | None = None) -> None:
        """Write a row, and show what is in it. epoch: how often all images have been seen, on average."""
        if self.live is None:
            return
        self.write([row])
        if self._progress is not None and "train/loss" in row:
            self._progress.note(self._note(row) if epoch is None else f"epoch {epoch:.2f}, {self._note(row)}")

    def replay(self, history: Sequence[Row]) -> None:
        """Write the rows of a run that is resumed again: the curves are those of an uninterrupted one."""
        if self.live is not None and history:
            self.write(history)

    def write(self, rows: Sequence[Row]) -> None:
        assert self.live is not None
        for row in rows:
            self.live.step = int(row["step"])
            for name, value in row.items():
                if name != "step":
                    self.live.log_metric(name, value)
        self.live.make_summary()
        if self.board is not None:
            self.board.write(rows)

    def picture(self, name: str, path: Path, step: int) -> None:
        """A picture that belongs to a step, for a board."""
        if self.board is not None:
            self.board.picture(name, path, step)

    def tell(self, line: str) -> None:
        """A line that stays on the screen."""
        if self._progress is not None:
            self._progress.console.print(line, highlight=False, soft_wrap=True)

    def _note(self, row: Row) -> str:
        terms = {name.removeprefix("train/"): value for name, value in row.items() if name.startswith("train/")}
        largest = sorted((name for name in terms if name not in ("loss", "lr", "skipped")), key=lambda name: -abs(terms[name]))
        shown = [f"{name} {terms[name]:.3g}" for name in ("loss", *largest[:_SHOWN_TERMS])]
        parts = ["  ".join(shown), f"{row['speed/images_per_s']:.0f} img/s", f"waiting {100 * row['speed/waiting']:.0f} %"]
        steps = self._done + 1 - self._first
        left = (time.monotonic() - self._started) / max(steps, 1) * (self._total - self._done - 1)
        parts += [f"{math.ceil(left)} s left", memory(self.device)]
        return ", ".join(parts)


def memory(device: torch.device) -> str:
    """The most memory used so far, of the device or else of this process."""
    used = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return f"{used / 2**30:.1f} GiB"
