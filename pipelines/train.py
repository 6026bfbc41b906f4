"""Stage entry point: python -m pipelines.train crop|multi, on one device or several; torchrun may start it too.

Exit codes: 0 done; 1 data, weights or a loss that cannot be used; 2 a wrong call or params.yaml; 75 stopped by SIGTERM with the state
saved, to be run again; 130 stopped by Ctrl-C with the state saved.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pipelines.config import load_params
from pipelines.stage_command import run_stage, usage_error
from pipelines.training.stopping import again_after_sigterm

MODULE = "pipelines.train"


def main(arguments: list[str]) -> int:
    """Command line; a mistake is one line on stderr."""
    if len(arguments) != 1 or arguments[0] not in ("crop", "multi"):
        return usage_error(f"python -m {MODULE} crop|multi")
    # processes of a group may wait for each other where Python answers no signal: those end at once, and their launcher says 75
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return run(arguments)
    with again_after_sigterm():
        return run(arguments)


def run(arguments: list[str]) -> int:
    """The stage; its exit code."""
    return run_stage(lambda: train(arguments), interrupted="the same command goes on from the last checkpoint", who=who())


def train(arguments: list[str]) -> Path | int:
    """Train in this process, or start one per device; the model's folder, or the exit code of those."""
    params = load_params()
    # imported here, which takes seconds, so that a mistake in params.yaml is told at once
    from pipelines.training.launching import launch, needs_launch
    from pipelines.training.stage import train_stage

    if needs_launch():
        return launch(MODULE, arguments)
    return train_stage("crop" if arguments[0] == "crop" else "multi", params.train)


def who() -> str:
    """How a process that is not the first of a group introduces itself."""
    rank = os.environ.get("RANK", "0")
    return "" if rank == "0" else f"process {rank}: "


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
