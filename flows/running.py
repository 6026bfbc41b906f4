"""One DVC stage as a process: its output line by line, how it ended, and that nothing of it outlives its caller."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakSet

from flows.credentials import hidden
from pipelines.stage_command import EXIT_USAGE

SUPERVISOR = Path(__file__).with_name("supervise.py")
SECRETS = ("PREFECT_API_KEY", "PREFECT_API_AUTH_STRING")  # stages talk to no server
TAIL_LINES = 30
LOCK_TRIES = 40
LOCK_PAUSE_S = 1.0

_COMMAND_FAILED = re.compile(r"failed to run: .*, exited with (-?\d+)")
_LOCKED = re.compile(r"Unable to acquire lock|is busy, it is being blocked by")
_UNCHANGED = re.compile(r"^Stage '.*' didn't change, skipping|^Data and pipelines are up to date")
_FROM_CACHE = re.compile(r"^Stage '.*' is cached - skipping run")


class StageError(RuntimeError):
    """A stage that failed, with its command's exit code where it got to run, and whether another try may help."""

    def __init__(self, stage: str, exit_code: int | None, tail: Sequence[str], stopped: bool = False) -> None:
        how = "was stopped" if stopped else f"ended with exit code {exit_code}" if exit_code is not None else "could not be run by DVC"
        said = next((line for line in reversed(tail) if line.strip() and not line.startswith("ERROR: failed to reproduce")), "")
        super().__init__(f"stage {stage} {how}" + (f": {said.strip()}" if said else ""))
        self.exit_code = exit_code
        # a wrong call or something wrong in params.yaml stays so
        self.again = not stopped and exit_code != EXIT_USAGE


# a signal reaches the main thread only, and flows inside flows run in others
_EVERY: WeakSet[Processes] = WeakSet()


def stop_every_stage() -> None:
    """End the stages of all runs of this process."""
    for processes in list(_EVERY):
        processes.stop()


@dataclass(frozen=True)
class Outcome:
    """How a stage ended well: `ran`, `cached` (its outs came from DVC's run cache) or `unchanged`."""

    kind: str
    seconds: float


class Processes:
    """The stages that run in this process's name; `stop` ends them all and starts no others."""

    def __init__(self) -> None:
        self.guard = threading.Lock()
        self.running: set[subprocess.Popen[str]] = set()
        self.stopping = False
        _EVERY.add(self)

    def start(
        self, command: Sequence[str], folder: Path, environment: Mapping[str, str], keep_open: Sequence[int]
    ) -> subprocess.Popen[str]:
        with self.guard:
            if self.stopping:
                raise StageError(command[-1], None, (), stopped=True)
            process = subprocess.Popen(
                [sys.executable, "-I", str(SUPERVISOR), *command],
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
                pass_fds=keep_open,  # a workspace stays locked until the last process in it has ended
            )
            self.running.add(process)
        return process

    def end(self, process: subprocess.Popen[str]) -> None:
        """Tell a supervisor to stop what it runs, and wait until it has."""
        with suppress(BrokenPipeError):
            process.stdin.close()  # type: ignore[union-attr]
        process.wait()
        with self.guard:
            self.running.discard(process)

    def stop(self) -> None:
        with self.guard:
            self.stopping = True
            running = list(self.running)
        for process in running:
            with suppress(BrokenPipeError):
                process.stdin.close()  # type: ignore[union-attr]
        for process in running:
            process.wait()


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

    While another DVC process holds a file of the stage it is tried again, for LOCK_TRIES seconds or so. StageError otherwise.
    """
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", *(["--pull"] if pull else []), stage]
    variables = stage_environment(folder, {**(environment or {}), **(credentials or {})})
    started = time.monotonic()
    for left in reversed(range(LOCK_TRIES)):
        lines, code = follow(command, folder, processes, say, variables, keep_open, credentials)
        if code == 0:
            return Outcome(_kind(lines), time.monotonic() - started)
        locked = any(_LOCKED.search(line) for line in lines)
        if not (locked and left) or processes.stopping:
            break
        say(f"another DVC process holds what {stage} needs; trying again in {LOCK_PAUSE_S:.0f} s")
        time.sleep(LOCK_PAUSE_S)
    exits = [int(match[1]) for line in lines if (match := _COMMAND_FAILED.search(line))]
    raise StageError(stage, exits[-1] if exits else None, list(lines), stopped=processes.stopping)


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
    process = processes.start(command, folder, environment, keep_open)
    lines: deque[str] = deque(maxlen=TAIL_LINES)
    try:
        for line in process.stdout:  # type: ignore[union-attr]
            text = line.rstrip()
            if text:
                lines.append(hidden(text, credentials))
                say(lines[-1])
        process.wait()
    finally:
        processes.end(process)
    return lines, process.returncode


def _kind(lines: Sequence[str]) -> str:
    if any(_FROM_CACHE.search(line) for line in lines):
        return "cached"
    return "unchanged" if any(_UNCHANGED.search(line) for line in lines) else "ran"
