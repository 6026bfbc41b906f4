"""Stage entry point: python -m pipelines.report.

Writes reports/index.html, one self-contained page, and reports/README.md with the same as files under reports/assets/.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pydantic_core import to_jsonable_python

from pipelines.config import load_params
from pipelines.reporting.page import build_report
from pipelines.stage_command import run_stage, usage_error


def report() -> Path:
    """Write the page; its path. ValueError for results that cannot be read."""
    params = load_params()
    # the page shows every parameter, and its table of stages is dvc.yaml filled in with them
    sections = {
        "preset": params.preset,
        "ingest": params.ingest,
        "compose": params.compose,
        "train": params.train,
        "evaluate": params.evaluate,
        "submit": params.submit,
        "speed": params.speed,
        "report": params.report,
    }
    return build_report(to_jsonable_python(sections), params.report, params.evaluate, params.submit)


def main(arguments: list[str]) -> int:
    """Command line; a mistake is one line on stderr."""
    if arguments:
        return usage_error("python -m pipelines.report")
    return run_stage(report, interrupted="no report was written, run it again")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
