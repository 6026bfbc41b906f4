"""The project on a lasting volume, at the commit that the image holds: python -m flows.checkout SOURCE FOLDER.

Pods come and go, and with them what the image's own folder holds. In FOLDER stay DVC's cache, workspaces and checkpoints.
"""

from __future__ import annotations

import fcntl
import shutil
import sys
from pathlib import Path

from flows.workspaces import git, lock_path, locked


def checkout(source: Path, folder: Path) -> str:
    """Make `folder` a clone of the repository `source` at its commit, or bring it there; returns that commit.

    What git does not track stays: .dvc/cache, dvc.lock unless it is committed, workspaces. Pods that start together wait for
    each other, and another commit waits for the run that works in `folder`: its code stays as it began. ValueError with git's
    message where it fails, or where `folder` is something else.
    """
    source, folder = source.resolve(), folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        commit = git(source, "rev-parse", "HEAD").strip()
        if not (folder / ".git").exists():
            _make(source, folder)
        elif git(folder, "rev-parse", "HEAD").strip() != commit:
            with locked(lock_path(folder, None), wait=True, say=lambda text: print(text, flush=True)):
                git(folder, "fetch", "--quiet", "--update-shallow", source.as_uri(), commit)
                git(folder, "checkout", "--quiet", "--force", "--detach", commit)
    return commit


def _make(source: Path, folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder}: expected a clone of the project, or no such folder, got one with other files")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a pod that was stopped
    git(source, "clone", "--quiet", source.as_uri(), str(partial))
    git(partial, "checkout", "--quiet", "--detach", "HEAD")
    partial.replace(folder)


def main(arguments: list[str]) -> int:
    """Command line; a mistake is one line on stderr."""
    if len(arguments) != 2:
        print("usage: python -m flows.checkout SOURCE FOLDER", file=sys.stderr)
        return 2
    try:
        commit = checkout(Path(arguments[0]), Path(arguments[1]))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{arguments[1]} is at commit {commit[:12]}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
