"""One stage on several machines: python -m flows.node STAGE, on each of them, in a workspace that they share.

Node 0 runs the stage through DVC, which records it; the others run the stage's own command, which joins in (HANDNET_NODES,
HANDNET_NODE_RANK, HANDNET_RENDEZVOUS: docs/training.md). Where DVC finds the stage up to date nobody comes for the others:
whoever started the nodes ends them when node 0 has ended, as the manifests in flows/kubernetes and flows/slurm do.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from flows.contain import become
from flows.graph import repository
from flows.workspaces import BusyError, lock_path, try_lock
from pipelines.training.nodes import nodes


def command(stage: str, folder: Path, rank: int) -> list[str]:
    """What a node executes. ValueError where dvc.yaml has no such stage."""
    from dvc.exceptions import DvcException

    with repository(folder) as repo:
        try:
            (found,) = repo.stage.collect(stage)
        except (DvcException, ValueError) as error:
            raise ValueError(f"expected one stage of dvc.yaml, got {stage!r}: {error}") from None
        if rank == 0:
            return [sys.executable, "-m", "dvc", "repro", "--single-item", stage]
        if not isinstance(found.cmd, str):
            raise ValueError(f"dvc.yaml: {stage}: expected one command, got {found.cmd!r}")
        return ["/bin/sh", "-c", found.cmd]


def hold(folder: Path) -> None:
    """Lock the workspace against flow runs for as long as this process is there, whatever it becomes. BusyError if one has it."""
    handle = try_lock(lock_path(folder, None))
    if handle is None:
        raise BusyError(f"another run holds {folder}")
    os.set_inheritable(os.dup(handle.fileno()), True)


def main(arguments: list[str]) -> int:
    """Command line; becomes the stage's process."""
    if len(arguments) != 1:
        print("usage: python -m flows.node STAGE", file=sys.stderr)
        return 2
    try:
        here = nodes()
        found = command(arguments[0], Path.cwd(), here.rank)
        if here.rank == 0:
            hold(Path.cwd())
    except (ValueError, BusyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"node {here.rank} of {here.count}: {' '.join(found)}", flush=True)
    return become(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
