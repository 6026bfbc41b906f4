"""Stage entry point: python -m pipelines.report.

Writes reports/index.html, one self-contained page, and reports/README.md with the same as files under reports/assets/.
"""

from __future__ import annotations

import sys

from pydantic_core import to_jsonable_python

from pipelines.config import ParamsError, load_params
from pipelines.reporting.page import build_report


def main(arguments: list[str]) -> int:
    """Command line; a mistake is one line on stderr."""
    if arguments:
        print("usage: python -m pipelines.report", file=sys.stderr)
        return 2
    try:
        params = load_params()
        # the page shows every parameter, and its table of stages is dvc.yaml filled in with them
        sections = {
            "preset": params.preset,
            "ingest": params.ingest,
            "compose": params.compose,
            "train": params.train,
            "evaluate": params.evaluate,
            "submit": params.submit,
            "report": params.report,
        }
        path = build_report(to_jsonable_python(sections), params.report, params.evaluate, params.submit)
    except ParamsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; no report was written, run it again", file=sys.stderr)
        return 130
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
