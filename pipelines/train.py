"""Stage entry point: python -m pipelines.train crop|multi."""

from __future__ import annotations

import sys

from pipelines.config import ParamsError, load_params


def main(arguments: list[str]) -> int:
    """Command line; a mistake is one line on stderr."""
    if len(arguments) != 1 or arguments[0] not in ("crop", "multi"):
        print("usage: python -m pipelines.train crop|multi", file=sys.stderr)
        return 2
    try:
        params = load_params()
    except ParamsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    # imported here, which takes seconds, so that a mistake in params.yaml is told at once
    from pipelines.training import EXIT_INTERRUPTED, Interrupted, train_stage

    try:
        folder = train_stage("crop" if arguments[0] == "crop" else "multi", params.train)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ParamsError) else 1
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return EXIT_INTERRUPTED
    print(f"wrote {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
