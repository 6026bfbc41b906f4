"""Where a run works, so that two of them do not collide: the project's own folder, locked, or a git worktree of its own.

A worktree holds the project's files as they are, uncommitted edits too, shares DVC's cache and run cache with the project, and is
kept under its name: the same run, started again, goes on in it. docs/orchestration.md tells when a run gets which.
"""

from __future__ import annotations

import fcntl
import filecmp
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from flows.credentials import hidden
from flows.graph import repository
from flows.processes import Processes
from flows.running import follow

HOME = Path(".prefect")  # everything that orchestration keeps, inside the project
PROJECT = "project"  # the name under which the project's own folder is locked
LOOK_EVERY_S = 0.5
# the first that the file system offers; with links a workspace costs no second copy of the data
LINKS = "reflink,hardlink,symlink,copy"


class BusyError(RuntimeError):
    """Another run holds the workspace, and this one was told not to wait."""


@dataclass(frozen=True)
class Workspace:
    """A folder that belongs to one run: `name` is None for the project's own. `lock` is held as long as its file is open."""

    folder: Path
    name: str | None
    lock: int


def lock_path(project: Path, name: str | None) -> Path:
    """The lock of the workspace of that name, whatever the name is; None: of the project's own folder."""
    return project / HOME / "locks/workspaces" / f"{name}.lock" if name else shared_lock(project, PROJECT)


def shared_lock(project: Path, what: str) -> Path:
    """The lock of something that a project has once."""
    return project / HOME / "locks" / f"{what}.lock"


def try_lock(path: Path) -> IO[str] | None:
    """The open lock file, or None while another process has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = path.open("a")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        return None
    return handle


@contextmanager
def locked(path: Path, *, wait: bool, say: Callable[[str], None]) -> Iterator[IO[str]]:
    """Hold a lock file; it is free again when every process that it was passed to has ended. BusyError without `wait`."""
    handle = try_lock(path)
    if handle is None:
        if not wait:
            raise BusyError(f"another run holds {path.stem}; give it another experiment name, or queue it")
        say(f"waiting: another run holds {path.stem}")
    while handle is None:
        time.sleep(LOOK_EVERY_S)
        handle = try_lock(path)
    with handle:
        yield handle


@contextmanager
def workspace(project: Path, name: str | None, *, wait: bool, say: Callable[[str], None]) -> Iterator[Workspace]:
    """The workspace of that name, for this run alone and in the project's present state; None: the project's own folder.

    ValueError where git cannot make it. BusyError when another run has it and `wait` is false.
    """
    with locked(lock_path(project, name), wait=wait, say=say) as handle:
        folder = project
        if name is not None:
            folder = project / HOME / "workspaces" / name
            # git's own worktree commands are not made for several at a time
            with locked(shared_lock(project, "worktrees"), wait=True, say=lambda text: None):
                make_worktree(project, folder)
            cache, records = cache_and_records(project)
            copy_files(project, folder, keep=records if (folder / "dvc.lock").exists() else frozenset())
            share_cache(project, folder, cache)
            link_outs(folder)
        yield Workspace(folder, name, handle.fileno())


def git(folder: Path, *arguments: str) -> str:
    """What git prints. ValueError with its message when it fails."""
    # a hook or a test may have set which repository git means
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_DIR") and name != "GIT_WORK_TREE"}
    result = subprocess.run(["git", *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    if result.returncode != 0:
        raise ValueError(hidden(f"git {arguments[0]} in {folder}: {result.stderr.strip() or f'exit code {result.returncode}'}"))
    return result.stdout


def make_worktree(project: Path, folder: Path) -> None:
    """A worktree at the project's commit; one that is there stays, with what unfinished stages left in it."""
    commit = git(project, "rev-parse", "--verify", "HEAD^{commit}").strip()
    if (folder / ".git").exists():
        git(folder, "reset", "--quiet", "--soft", commit)
        return
    if folder.exists():
        shutil.rmtree(folder)  # git was interrupted before it wrote .git
    git(project, "worktree", "prune")
    git(project, "worktree", "add", "--quiet", "--detach", str(folder), commit)


def project_files(folder: Path) -> set[str]:
    """Files that git tracks, or would: what makes up the project's state."""
    names = git(folder, "ls-files", "-coz", "--exclude-standard").split("\0")
    return {name for name in names if name and (folder / name).is_file()}


def cache_and_records(project: Path) -> tuple[str, frozenset[str]]:
    """The project's cache folder, and the files in which DVC keeps what was made: its lock file and outs that are not cached."""
    with repository(project) as repo:
        outs = {out.fs_path for out in repo.index.outs if not out.use_cache and out.is_in_repo}
        names = {Path(path).relative_to(repo.root_dir).as_posix() for path in outs}
        return repo.cache.local_cache_dir, frozenset({"dvc.lock", *names})


def copy_files(project: Path, folder: Path, *, keep: Collection[str]) -> None:
    """Make the workspace's files those of the project, but for `keep`: an earlier run's records, with which it goes on.

    A run in the project's folder may take outs away meanwhile, to make them anew: what is gone when its turn comes is left out.
    """
    ours = project_files(project) - set(keep)
    for name in sorted(project_files(folder) - ours - set(keep)):
        (folder / name).unlink()
    for name in sorted(ours):
        source, target = project / name, folder / name
        try:
            _copy(source, target)
        except FileNotFoundError:
            if source.exists():
                raise
            target.unlink(missing_ok=True)


def _copy(source: Path, target: Path) -> None:
    if target.is_file() and filecmp.cmp(source, target, shallow=False):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    shutil.copy2(source, partial)
    os.replace(partial, target)


def share_cache(project: Path, folder: Path, cache: str) -> None:
    """The workspace uses the project's DVC cache, run cache and remotes."""
    local = project / ".dvc/config.local"
    if local.exists():
        shutil.copy2(local, folder / ".dvc/config.local")
    from dvc.config import Config

    with Config(dvc_dir=str(folder / ".dvc")).edit("local") as config:
        config.setdefault("cache", {}).update({"dir": cache, "type": LINKS})


def link_outs(folder: Path) -> None:
    """Bring in the outs that dvc.lock names and the cache holds; what is missing there is made by its stage."""
    with repository(folder) as repo:
        repo.checkout(force=True, allow_missing=True)


def set_params(folder: Path, overrides: Sequence[str]) -> None:
    """Apply `-S` overrides to params.yaml as `dvc exp run` does. ValueError for one that is none, or names no param."""
    from dvc.exceptions import DvcException
    from dvc.utils.cli_parse import to_path_overrides
    from dvc.utils.hydra import apply_overrides

    for path, values in to_path_overrides(overrides).items():
        try:
            apply_overrides(folder / path, values)
        except DvcException as error:
            raise ValueError(f"overrides: {values}: {error.__cause__ or error}") from None


def save_experiment(project: Path, space: Workspace, name: str, message: str) -> None:
    """Record a finished worktree as a DVC experiment; the project's `dvc exp show` lists it. An older one of that name goes."""
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "exp", "save", "--force", "--name", name, "--message", message]
    # what the run made is part of the experiment, also where git does not know it yet
    records = sorted(name for name in cache_and_records(space.folder)[1] if (space.folder / name).is_file())
    command += [part for record in records for part in ("--include-untracked", record)]
    # DVC goes through the stash and refs that all worktrees share: two at a time would take each other's
    with locked(shared_lock(project, "experiments"), wait=True, say=lambda text: None) as handle:
        files = (space.lock, handle.fileno())
        said, code = follow(command, space.folder, Processes(), lambda line: None, {**os.environ, "DVC_NO_ANALYTICS": "1"}, files)
    if code != 0:
        raise ValueError(f"dvc exp save in {space.folder}: {'; '.join(said) or f'exit code {code}'}")
