"""The command line of a stage: what it answers, and how a mistake or Ctrl-C ends it, in one line and with an exit code.

0: done. 1: data or models that cannot be used. 2: a wrong call, or something wrong in params.yaml. 130: interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from pipelines.config import ParamsError

FINISHED_SHARDS_STAY = "finished shards are kept, run it again to go on"
EXIT_DATA, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


def usage_error(text: str) -> int:
    """Say how the stage is called; its exit code."""
    print(f"usage: {text}", file=sys.stderr)
    return EXIT_USAGE


def run_stage(work: Callable[[], object], *, interrupted: str) -> int:
    """Do the stage's work and print what it wrote; its exit code. `interrupted`: what Ctrl-C leaves behind, for people."""
    try:
        written = work()
    except ParamsError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except (ValueError, OSError) as error:
        print("error: " + "; ".join([str(error), *getattr(error, "__notes__", [])]), file=sys.stderr)
        return EXIT_DATA
    except KeyboardInterrupt:
        print(f"interrupted; {interrupted}", file=sys.stderr)
        return EXIT_INTERRUPTED
    if written is not None:
        print(f"wrote {written}")
    return 0
