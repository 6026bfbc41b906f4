"""Stage entry point: python -m pipelines.mixture crop|multi [PART]: what a training stage learns from, a part of it or the mixture.

Reads params section train.STAGE.data and a part's manifest; writes data/mixtures/STAGE/PART.json, or data/mixtures/STAGE.json from those.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pipelines.config import ParamsError, StageConfig, load_params
from pipelines.mixtures.description import Stage, write_mixture, write_part
from pipelines.stage_command import run_stage, usage_error


def main(arguments: list[str]) -> int:
    """Command line; a mistake is one line on stderr."""
    if len(arguments) not in (1, 2) or arguments[0] not in ("crop", "multi"):
        return usage_error("python -m pipelines.mixture crop|multi [PART]")
    stage: Stage = "crop" if arguments[0] == "crop" else "multi"
    return run_stage(lambda: describe(stage, arguments[1:]), interrupted="nothing is left behind")


def describe(stage: Stage, names: list[str]) -> Path:
    """Write the named part, or the mixture of all."""
    section: StageConfig = getattr(load_params().train, stage)
    if not names:
        return write_mixture(stage, section.data)
    if names[0] not in section.data:
        raise ParamsError(f"params.yaml: train.{stage}.data: expected a part of it, one of {sorted(section.data)}, got {names[0]!r}")
    return write_part(stage, names[0], section.data[names[0]])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
