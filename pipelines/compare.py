"""Runs side by side: params that differ, headline figures, and a page with all their curves.

python -m pipelines.compare [REV ...]; also `handnet compare` and `make compare`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pipelines.experiments.compare_page import PAGE, write_page
from pipelines.experiments.comparing import print_comparison
from pipelines.experiments.runs import WORKSPACE, experiment_names, open_revision, read_run
from pipelines.progress import Progress


def compare(revisions: Sequence[str], page: Path = PAGE) -> Path:
    """Print the tables and write the page; without revisions: HEAD, the workspace and HEAD's experiments. ValueError for a bad one."""
    names = list(dict.fromkeys(revisions)) or ["HEAD", WORKSPACE, *experiment_names()]
    opened, runs = {name: open_revision(name) for name in names}, []
    with Progress("compare", len(names), "runs") as progress:
        for name, files in opened.items():
            runs.append(read_run(name, files))
            progress.advance()
    print_comparison(runs)
    return write_page(runs, page)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; a mistake is one line on stderr and exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.compare", description="Runs side by side.")
    revisions = "commits, branches, tags, experiments, or workspace; changes are from the first"
    parser.add_argument("revisions", nargs="*", metavar="REV", help=revisions)
    parser.add_argument("--page", type=Path, default=PAGE, help=f"where the page goes (default: {PAGE})")
    options = parser.parse_args(arguments)
    try:
        print(f"page: {compare(options.revisions, options.page)}")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
