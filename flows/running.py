"""One DVC stage as a process: its output line by line, how it ended, and that nothing of it outlives its caller."""

from __future__ import annotations

import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.credentials import hidden
from flows.processes import FAILED_TRANSFER, Processes, StageError, Supervised, UnkeptError

SECRETS = ("PREFECT_API_KEY", "PREFECT_API_AUTH_STRING")  # stages talk to no server
TAIL_LINES = 30
LOCK_TRIES = 40
LOCK_PAUSE_S = 1.0

_COMMAND_FAILED = re.compile(r"failed to run: .*, exited with (-?\d+)")
_LOCKED = re.compile(r"Unable to acquire lock|is busy, it is being blocked by")
_UNCHANGED = re.compile(r"^Stage '.*' didn't change, skipping|^Data and pipelines are up to date")
_FROM_CACHE = re.compile(r"^Stage '.*' is cached - skipping run")


@dataclass(frozen=True)
class Outcome:
    """How a stage ended well: `ran`, `cached` (its outs came from DVC's run cache) or `unchanged`."""

    kind: str
    seconds: float


def stage_environment(folder: Path, more: Mapping[str, str]) -> dict[str, str]:
    """What a stage sees: this environment without secrets, this interpreter as `python`, the workspace's own code."""
    inherited = {name: value for name, value in os.environ.items() if name not in SECRETS}
    path = f"{Path(sys.executable).parent}{os.pathsep}{inherited.get('PATH', os.defpath)}"
    return {**inherited, "PATH": path, "PYTHONPATH": str(folder), "PYTHONUNBUFFERED": "1", "DVC_NO_ANALYTICS": "1", **more}


def reproduce(
    stage: str,
    folder: Path,
    *,
    processes: Processes,
    say: Callable[[str], None],
    environment: Mapping[str, str] | None = None,
    keep_open: Sequence[int] = (),
    credentials: Mapping[str, str] | None = None,
    pull: bool = False,
) -> Outcome:
    """`dvc repro --single-item STAGE` in `folder`; its output goes to `say` line by line, without secrets.

    pull: outs that earlier runs made elsewhere come from the workspace's remote. credentials: variables for it, and for the stage.

    While another DVC process holds a file of the stage it is tried again, for LOCK_TRIES seconds or so. StageError otherwise; UnkeptError
    where only the cache could not be written: `keep` comes before another try.
    """
    arguments = ["--wait-for-lock", "repro", "--single-item", *(["--pull"] if pull else []), stage]
    variables = stage_environment(folder, {**(environment or {}), **(credentials or {})})
    started = time.monotonic()
    for left in reversed(range(LOCK_TRIES)):
        lines, code = _told(processes.start_dvc(arguments, folder, variables, keep_open), processes, say, credentials)
        if code == 0 and any(line.startswith(FAILED_TRANSFER) for line in lines):
            raise UnkeptError(stage, list(lines))
        if code == 0:
            return Outcome(_kind(lines), time.monotonic() - started)
        locked = any(_LOCKED.search(line) for line in lines)
        if not (locked and left) or processes.stopping:
            break
        say(f"another DVC process holds what {stage} needs; trying again in {LOCK_PAUSE_S:.0f} s")
        time.sleep(LOCK_PAUSE_S)
    exits = [int(match[1]) for line in lines if (match := _COMMAND_FAILED.search(line))]
    raise StageError(stage, exits[-1] if exits else None, list(lines), stopped=processes.stopping)


def keep(stage: str, folder: Path, *, processes: Processes, say: Callable[[str], None], keep_open: Sequence[int] = ()) -> None:
    """`dvc commit STAGE`: outs that are there as dvc.lock records them go into DVC's cache. UnkeptError where they do not yet."""
    command = processes.start_dvc(["--wait-for-lock", "commit", stage], folder, stage_environment(folder, {}), keep_open)
    lines, code = _told(command, processes, say, None)
    if any(line.startswith(FAILED_TRANSFER) for line in lines):
        raise UnkeptError(stage, list(lines))
    if code != 0:
        raise StageError(stage, None, list(lines), stopped=processes.stopping)


def follow(
    command: Sequence[str],
    folder: Path,
    processes: Processes,
    say: Callable[[str], None],
    environment: Mapping[str, str],
    keep_open: Sequence[int],
    credentials: Mapping[str, str] | None = None,
) -> tuple[deque[str], int]:
    """Run a command to its end; its last lines and its exit code. Whatever happens here, none of its processes stays."""
    return _told(processes.start(command, folder, environment, keep_open), processes, say, credentials)


def _told(
    process: Supervised, processes: Processes, say: Callable[[str], None], credentials: Mapping[str, str] | None
) -> tuple[deque[str], int]:
    lines: deque[str] = deque(maxlen=TAIL_LINES)
    try:
        for line in process.output:
            text = line.rstrip()
            if text:
                lines.append(hidden(text, credentials))
                say(lines[-1])
        process.wait()
    finally:
        code = processes.end(process)
    return lines, code


def _kind(lines: Sequence[str]) -> str:
    if any(_FROM_CACHE.search(line) for line in lines):
        return "cached"
    return "unchanged" if any(_UNCHANGED.search(line) for line in lines) else "ran"
