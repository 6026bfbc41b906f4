"""MediaPipe's hand landmarks from a process of its own, since its packages cannot be installed beside this project's.

mediapipe 0.10.14 to 0.10.21 want protobuf < 5 and most of them numpy < 2; their wheels carry the models.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from handnet.skeleton import NUM_KEYPOINTS
from pipelines.datasets.pseudo_labels import Detection
from pipelines.datasets.sample import DataError

VARIABLE = "HANDNET_PSEUDO_PYTHON"
ENVIRONMENT = Path(sys.prefix, "pseudo/bin/python")  # where `make pseudo` puts it: within this interpreter's environment
WORKER = Path(__file__).with_name("mediapipe_worker.py")
INSTALL = "install it with `make pseudo`, or name a Python that has it in HANDNET_PSEUDO_PYTHON"


def find_python() -> str | None:
    """The interpreter that has mediapipe: HANDNET_PSEUDO_PYTHON, else the one of `make pseudo`, else this one."""
    if named := os.environ.get(VARIABLE):
        return named
    if ENVIRONMENT.is_file():
        return str(ENVIRONMENT)
    return sys.executable if importlib.util.find_spec("mediapipe") else None


class MediapipeProcess:
    """A Detector. Use it as a context manager: leaving it ends the process."""

    def __init__(self, max_hands: int) -> None:
        """DataError, which says how to install mediapipe, where it is not installed or does not start."""
        python = find_python()
        if python is None:
            raise DataError(f"labeller mediapipe: not installed; {INSTALL}")
        command = [python, "-I", str(WORKER), str(max_hands)]
        environment = {**os.environ, "GLOG_minloglevel": "2", "TF_CPP_MIN_LOG_LEVEL": "2"}
        with ExitStack() as opened:
            self.log = opened.enter_context(tempfile.TemporaryFile())
            try:
                self.process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, env=environment, start_new_session=True
                )
            except OSError as error:
                raise DataError(f"labeller mediapipe: {python}: {error.strerror}; {INSTALL}") from None
            opened.callback(self._end_process)
            started = self._answer()
            if "version" not in started:
                raise DataError(f"labeller mediapipe: {python}: {started.get('error')}; {INSTALL}")
            self.version = f"mediapipe {started['version']}"
            self.opened = opened.pop_all()

    def detect(self, image: NDArray[np.uint8]) -> list[Detection]:
        """The hands of an (H,W,3) RGB image that is not mirrored."""
        assert self.process.stdin is not None
        height, width = image.shape[:2]
        try:
            self.process.stdin.write(height.to_bytes(4, "little") + width.to_bytes(4, "little") + np.ascontiguousarray(image).tobytes())
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None
        hands = [Detection(float(hand["right"]), np.array(hand["keypoints"], np.float64)) for hand in self._answer()]
        return [hand for hand in hands if hand.keypoints_px.shape == (NUM_KEYPOINTS, 2) and np.isfinite(hand.keypoints_px).all()]

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise self._died()
        return json.loads(line)

    def _died(self) -> DataError:
        code = self.process.wait()
        self.log.seek(0)
        last = self.log.read().decode("utf-8", "replace").strip().splitlines()[-1:]
        return DataError(f"labeller mediapipe: its process ended with code {code}{': ' + last[0] if last else ''}")

    def _end_process(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.opened.close()
