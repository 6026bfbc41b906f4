"""Data and results of a run's stages come from the DVC remote before it, and go there after it, with the cache of earlier runs.

The remote is the one asked for, HANDNET_DVC_REMOTE (a URL, or a name in .dvc/config), or the project's default; without one
nothing is moved. Its credentials reach only the commands that need them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from flows.credentials import hidden

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
    workspace: Path, targets: Sequence[str] = (), *, remote: str | None = None, credentials: Mapping[str, str] | None = None
) -> Pulled:
    """Bring the cache of earlier runs and the recorded outs of the stages `targets` (none: of all) into the workspace.

    An out that the remote does not have is left to its stage. What dvc.lock does not record is found by
    `dvc repro --pull` in the cache of runs. RemoteError if the remote does not answer; ValueError for a wrong one.
    """
    name = choose(workspace, remote)
    if name is None:
        return Pulled(remote=None, num_files=0, message=f"nothing pulled: {NO_REMOTE}")
    output = _dvc(workspace, credentials, "pull", "--run-cache", "--allow-missing", "--force", "--remote", name, *targets)
    (workspace / UNSENT).parent.mkdir(parents=True, exist_ok=True)
    (workspace / UNSENT).touch()
    count = _number(r"(\d+) files? fetched", output)
    return Pulled(remote=name, num_files=count, message=f"{count} file(s) pulled from remote {name!r}")


def push(
    workspace: Path, targets: Sequence[str] = (), *, remote: str | None = None, credentials: Mapping[str, str] | None = None
) -> Pushed:
    """Send what the stages `targets` (none: all) made, and the cache of runs, to the remote. Errors as in `pull`."""
    name = choose(workspace, remote)
    if name is None:
        return Pushed(remote=None, num_files=0, message=f"nothing pushed: {NO_REMOTE}")
    count = _number(r"(\d+) files? pushed", _dvc(workspace, credentials, "push", "--run-cache", "--remote", name, *targets))
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
    if not wanted:
        return config["core"].get("remote") or None
    known = sorted(config["remote"])
    if wanted not in known:
        raise ValueError(f"{REMOTE_VARIABLE}: expected a URL, or one of the remotes {known} of .dvc/config, got {wanted!r}")
    _dvc(workspace, None, "config", "--local", "core.remote", wanted)
    return wanted


def _dvc(workspace: Path, credentials: Mapping[str, str] | None, *arguments: str) -> str:
    result = _run(workspace, credentials, *arguments)
    if result.returncode != 0:
        lines = [line for line in result.stderr.splitlines() if line.strip() and "dvc.org/support" not in line]
        text = hidden("; ".join(lines[-3:]) or f"exit code {result.returncode}", credentials)
        raise RemoteError(f"dvc {arguments[0]} in {workspace}: {text}")
    return result.stdout


def _run(workspace: Path, credentials: Mapping[str, str] | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1", **(credentials or {})}
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    return int(found[1]) if found else 0
