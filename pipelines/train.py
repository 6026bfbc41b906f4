"""Stage entry point: python -m pipelines.train crop|multi, on one device or several; torchrun may start it too.

Exit codes: 0 done; 1 data, weights or a loss that cannot be used; 2 a wrong call or params.yaml; 75 stopped by SIGTERM with the state
saved, to be run again; 130 stopped by Ctrl-C with the state saved.
"""

from __future__ import annotations

import os
import sys

from pipelines.config import ParamsError, load_params

MODULE = "pipelines.train"


def main(arguments: list[str]) -> int:
    """Command line; a mistake is one line on stderr."""
    if len(arguments) != 1 or arguments[0] not in ("crop", "multi"):
        print(f"usage: python -m {MODULE} crop|multi", file=sys.stderr)
        return 2
    try:
        params = load_params()
    except ParamsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    # imported here, which takes seconds, so that a mistake in params.yaml is told at once
    from pipelines.training.launching import launch, needs_launch
    from pipelines.training.stage import train_stage
    from pipelines.training.stopping import EXIT_INTERRUPTED, Stopped

    try:
        if needs_launch():
            return launch(MODULE, arguments)
        folder = train_stage("crop" if arguments[0] == "crop" else "multi", params.train)
    except (ValueError, OSError) as error:
        print(f"{who()}error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ParamsError) else 1
    except Stopped as stop:
        if not who():
            print(stop, file=sys.stderr)
        return stop.exit_code
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return EXIT_INTERRUPTED
    if not who():
        print(f"wrote {folder}")
    return 0


def who() -> str:
    """How a process that is not the first of a group introduces itself."""
    rank = os.environ.get("RANK", "0")
    return "" if rank == "0" else f"process {rank}: "


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
