"""A progress bar on stderr for people, or a plain line now and then for log files."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

_LINE_EVERY_S = 10.0


class Progress:
    """Context manager: `advance(steps)` up to `total`; draws a bar on a terminal and prints lines elsewhere."""

    def __init__(self, description: str, total: int, unit: str = "") -> None:
        self.description = description
        self.total = total
        self.unit = f" {unit}" if unit else ""
        self.done = 0
        self.console = Console(stderr=True)
        self.bar: RichProgress | None = None
        self.text = ""

    def __enter__(self) -> Progress:
        self.started_at = self.printed_at = time.monotonic()
        if self.console.is_terminal:
            counts = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
            columns = (*counts, TextColumn("{task.fields[note]}"))
            self.bar = RichProgress(*columns, console=self.console)
            self.task = self.bar.add_task(self.description, total=self.total, note="")
            self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bar is not None:
            self.bar.stop()
        else:
            self._line("interrupted" if kind is not None and issubclass(kind, KeyboardInterrupt) else "failed" if kind else "done")

    def advance(self, steps: int = 1) -> None:
        self.done += steps
        if self.bar is not None:
            self.bar.advance(self.task, steps)
        elif time.monotonic() - self.printed_at > _LINE_EVERY_S:
            self._line("")

    def note(self, text: str) -> None:
        """A short text shown beside the count, such as the current loss."""
        self.text = text
        if self.bar is not None:
            self.bar.update(self.task, note=text)

    def _line(self, state: str) -> None:
        self.printed_at = time.monotonic()
        seconds = self.printed_at - self.started_at
        text = f"{self.description}: {self.done}/{self.total}{self.unit}, {seconds:.0f} s{', ' + self.text if self.text else ''}"
        print(f"{text}, {state}" if state else text, file=sys.stderr, flush=True)
