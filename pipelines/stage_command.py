"""The command line of a stage: what it answers, and how a mistake or Ctrl-C ends it, in one line and with an exit code.

0: done. 1: data or models that cannot be used. 2: a wrong call, or something wrong in params.yaml. 130: interrupted.
75: stopped from outside with the state saved, to be run again.
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


class Stopped(KeyboardInterrupt):
    """The work was asked to stop and has saved its state; `exit_code` says by what."""

    def __init__(self, exit_code: int, message: str):
        super().__init__(message)
        self.exit_code = exit_code


def run_stage(work: Callable[[], object], *, interrupted: str, who: str = "") -> int:
    """Do the stage's work and print what it wrote; its exit code.

    work: returns what it wrote, or the exit code of processes that have said themselves how it went. interrupted: what Ctrl-C leaves
    behind, for people. who: stands before errors; a process that has a name says nothing else.
    """
    try:
        written = work()
    except ParamsError as error:
        print(f"{who}error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except (ValueError, OSError) as error:
        print(f"{who}error: " + "; ".join([str(error), *getattr(error, "__notes__", [])]), file=sys.stderr)
        return EXIT_DATA
    except Stopped as stop:
        if not who:
            print(stop, file=sys.stderr)
        return stop.exit_code
    except KeyboardInterrupt:
        print(f"interrupted; {interrupted}", file=sys.stderr)
        return EXIT_INTERRUPTED
    if isinstance(written, int):
        return written
    if written is not None and not who:
        print(f"wrote {written}")
    return 0
