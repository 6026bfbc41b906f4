"""A stage's progress lines as a Prefect progress artifact, which the UI moves while the stage runs."""

from __future__ import annotations

import re
import time
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectException

from flows.naming import artifact_key

UPDATE_EVERY_S = 2.0
# what pipelines.progress prints: "train crop: 120/800 steps, 10 s, loss 0.5, done"
_LINE = re.compile(r"^(?P<what>[^:]+): (?P<done>\d+)/(?P<total>\d+)(?P<rest>.*)$")


def read_progress(line: str) -> tuple[str, float] | None:
    """(text, percent) of a progress line; None for any other line."""
    match = _LINE.match(line)
    if match is None or int(match["total"]) == 0:
        return None
    # a count may end below its total, such as that of figures there is nothing to draw for
    over = match["rest"].endswith(", done")
    percent = 100.0 if over else min(100.0, 100.0 * int(match["done"]) / int(match["total"]))
    return f"{match['what']}: {match['done']}/{match['total']}{match['rest']}", percent


class ProgressArtifact:
    """Feeds one artifact from a stage's lines. A server that does not answer costs the picture, never the stage."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.artifact: UUID | None = None
        self.updated_at = -UPDATE_EVERY_S

    def see(self, line: str) -> None:
        """Take one line of output; only progress lines do anything, and at most one in UPDATE_EVERY_S."""
        found = read_progress(line)
        if found is None:
            return
        text, percent = found
        now = time.monotonic()
        if percent < 100 and now - self.updated_at < UPDATE_EVERY_S:
            return
        self.updated_at = now
        self._send(f"{self.stage}: {text}", percent)

    def _send(self, text: str, percent: float) -> None:
        try:
            if self.artifact is None:
                made = create_progress_artifact(percent, key=artifact_key("progress", self.stage), description=text)
                assert isinstance(made, UUID)  # outside an event loop it is no coroutine
                self.artifact = made
            else:
                update_progress_artifact(self.artifact, percent, description=text)
        except (httpx.HTTPError, PrefectException):
            self.artifact = None  # the server may be another one when it is back
