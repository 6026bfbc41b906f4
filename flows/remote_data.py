"""Data and results of a run's stages come from the DVC remote before it, and go there after it, with the cache of earlier runs.

The remote is the one asked for, HANDNET_DVC_REMOTE (a URL, or a name in .dvc/config), or the project's default; without one
nothing is moved. Its credentials reach only the commands that need them.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from flows.processes import Processes
from flows.running import follow

REMOTE_VARIABLE = "HANDNET_DVC_REMOTE"
OF_RUN = "run"  # the name of a remote that is given as a URL
UNSENT = Path(".dvc/tmp/handnet-unsent")  # in a workspace whose results have not reached the remote yet
NO_REMOTE = f"no DVC remote is set ({REMOTE_VARIABLE}, or `dvc remote add --default`)"


class RemoteError(OSError):
    """The remote cannot be read or written: DVC's own words, without credentials."""


@dataclass(frozen=True, kw_only=True)
class Moved:
    """What a transfer did: the remote (None: there is none), files that went over the network, and a line that says so."""

    remote: str | None
    num_files: int
    message: str


class Pulled(Moved):
    """What came."""


class Pushed(Moved):
    """What went."""


def pull(
    workspace: Path,
    targets: Sequence[str] = (),
    *,
    remote: str | None = None,
    credentials: Mapping[str, str] | None = None,
    keep_open: Sequence[int] = (),
) -> Pulled:
    """Bring the cache of earlier runs and the recorded outs of the stages `targets` (none: of all) into the workspace.

    keep_open: the workspace's lock. An out that the remote does not have is left to its stage. What dvc.lock does not record is found by
    `dvc repro --pull` in the cache of runs. RemoteError if the remote does not answer; ValueError for a wrong one.
    """
    name = choose(workspace, remote)
    if name is None:
        return Pulled(remote=None, num_files=0, message=f"nothing pulled: {NO_REMOTE}")
    wanted = ("--run-cache", "--allow-missing", "--force", "--remote", name, *targets)
    output = _dvc(workspace, credentials, "pull", *wanted, keep_open=keep_open)
    (workspace / UNSENT).parent.mkdir(parents=True, exist_ok=True)
    (workspace / UNSENT).touch()
    count = _number(r"(\d+) files? fetched", output)
    return Pulled(remote=name, num_files=count, message=f"{count} file(s) pulled from remote {name!r}")


def push(
    workspace: Path,
    targets: Sequence[str] = (),
    *,
    remote: str | None = None,
    credentials: Mapping[str, str] | None = None,
    keep_open: Sequence[int] = (),
) -> Pushed:
    """Send what the stages `targets` (none: all) made, and the cache of runs, to the remote. Errors as in `pull`."""
    name = choose(workspace, remote)
    if name is None:
        return Pushed(remote=None, num_files=0, message=f"nothing pushed: {NO_REMOTE}")
    output = _dvc(workspace, credentials, "push", "--run-cache", "--remote", name, *targets, keep_open=keep_open)
    count = _number(r"(\d+) files? pushed", output)
    (workspace / UNSENT).unlink(missing_ok=True)
    return Pushed(remote=name, num_files=count, message=f"{count} file(s) pushed to remote {name!r}")


def owes(workspace: Path) -> bool:
    """Whether a run has pulled into the workspace and not sent what it made: it was stopped, or the remote did not answer."""
    return (workspace / UNSENT).exists()


def choose(workspace: Path, remote: str | None = None) -> str | None:
    """The name of the run's remote, which becomes the default of the workspace's `dvc repro --pull`; None if there is none."""
    wanted = remote or os.environ.get(REMOTE_VARIABLE, "").strip()
    if "://" in wanted or wanted.startswith("/"):
        if "@" in urlsplit(wanted).netloc:
            raise ValueError(f"{REMOTE_VARIABLE}: expected a URL without user and password, which belong in the environment or a block")
        _dvc(workspace, None, "remote", "add", "--quiet", "--local", "--force", "--default", OF_RUN, wanted)
        return OF_RUN
    from dvc.config import Config

    config = Config(dvc_dir=str(workspace / ".dvc"))
    if not wanted and config.load_one("local").get("core", {}).get("remote") == OF_RUN:  # an earlier run was given a URL, this one is not
        _dvc(workspace, None, "config", "--quiet", "--local", "--unset", "core.remote")
        config = Config(dvc_dir=str(workspace / ".dvc"))
    if not wanted:
        return config["core"].get("remote") or None
    known = sorted(config["remote"])
    if wanted not in known:
        raise ValueError(f"{REMOTE_VARIABLE}: expected a URL, or one of the remotes {known} of .dvc/config, got {wanted!r}")
    _dvc(workspace, None, "config", "--local", "core.remote", wanted)
    return wanted


def _dvc(workspace: Path, credentials: Mapping[str, str] | None, *arguments: str, keep_open: Sequence[int] = ()) -> str:
    """What a DVC command prints. It ends with its caller, as stages do, and writes in no workspace that another run has by then."""
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1", **(credentials or {})}
    lines: list[str] = []
    command = [sys.executable, "-m", "dvc", *arguments]
    _, code = follow(command, workspace, Processes(), lines.append, environment, keep_open, credentials)
    if code != 0:
        told = [line for line in lines if "dvc.org/support" not in line]
        raise RemoteError(f"dvc {arguments[0]} in {workspace}: {'; '.join(told[-3:]) or f'exit code {code}'}")
    return "\n".join(lines)


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    return int(found[1]) if found else 0
