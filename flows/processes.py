"""The processes of a run's stages, each under a supervisor, so that none outlives its caller, and how they are stopped together."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO
from weakref import WeakSet

from pipelines.stage_command import EXIT_USAGE

SUPERVISOR = Path(__file__).with_name("supervise.py")
PRELOADED = Path(__file__).with_name("preloaded.py")
FAILED_TRANSFER = "ERROR: failed to transfer '"  # DVC goes on after it, and ends well
KILLED = 137  # what a supervisor that could not tell ended with


class StageError(RuntimeError):
    """A stage that failed, with its command's exit code where it got to run, and whether another try may help."""

    def __init__(self, stage: str, exit_code: int | None, tail: Sequence[str], stopped: bool = False) -> None:
        how = "was stopped" if stopped else f"ended with exit code {exit_code}" if exit_code is not None else "could not be run by DVC"
        told = [line for line in tail if line.strip() and "dvc.org/support" not in line]
        # DVC's last line only repeats the command, unless the stage did not get to run
        own = [line for line in told if exit_code is None or not line.startswith("ERROR: failed to reproduce")]
        super().__init__(f"stage {stage} {how}" + (f": {own[-1].strip()}" if own else ""))
        self.exit_code = exit_code
        # a wrong call or something wrong in params.yaml stays so
        self.again = not stopped and exit_code != EXIT_USAGE


class UnkeptError(StageError):
    """A stage that ran and is recorded, whose outs DVC could not put into its cache: another try now would make them anew."""

    def __init__(self, stage: str, tail: Sequence[str]) -> None:
        super().__init__(stage, None, tail)
        said = next(line for line in tail if FAILED_TRANSFER in line).partition(" - ")[2]
        self.args = (f"stage {stage} ran, but DVC could not put its outs into its cache, which the same command does first: {said}",)
        self.again = False


# a signal reaches the main thread only, and flows inside flows run in others
_EVERY: WeakSet[Processes] = WeakSet()


def stop_every_stage() -> None:
    """End the stages of all runs of this process."""
    for processes in list(_EVERY):
        processes.stop()


class Supervised(ABC):
    """A command under its supervisor, which stops it when `stdin` is closed: its output, and its exit code."""

    def __init__(self, stdin: IO[str], output: IO[str]) -> None:
        self.stdin = stdin
        self.output = output

    def stop(self) -> None:
        """Tell the supervisor to end the command; it takes what time that needs."""
        with suppress(BrokenPipeError):
            self.stdin.close()

    @abstractmethod
    def wait(self) -> int:
        """The exit code, once the command and all below it have ended."""


class Started(Supervised):
    """A command that has a process of its own from its start."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        super().__init__(process.stdin, process.stdout)
        self.process = process

    def wait(self) -> int:
        return self.process.wait()


class Forked(Supervised):
    """A DVC command in a process that was forked with DVC in it."""

    def __init__(self, stdin: IO[str], output: IO[str], result: IO[str]) -> None:
        super().__init__(stdin, output)
        self.result = result
        self.guard = threading.Lock()
        self.code: int | None = None

    def wait(self) -> int:
        with self.guard:
            if self.code is None:
                with self.result:
                    self.code = int(self.result.read() or KILLED)
            return self.code


class Preloaded:
    """The process that has imported DVC (preloaded.py); it ends when this one does, or at `stop`."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.requests, theirs = socket.socketpair()
        number = str(theirs.fileno())
        with theirs:
            self.process = subprocess.Popen(
                # unbuffered: a command's lines are seen as they come
                [sys.executable, "-u", "-I", str(PRELOADED), number],
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=[theirs.fileno()],
            )

    def start(self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], keep_open: Sequence[int]) -> Forked:
        """`dvc ARGUMENTS`. OSError where the process is no more."""
        text = os.memfd_create("request")  # no pipe is large enough for any environment
        request = {"arguments": list(arguments), "folder": str(folder), "environment": dict(environment)}
        os.write(text, json.dumps(request).encode())
        stdin, ours = os.pipe()
        output, its = os.pipe()
        result, code = os.pipe()
        forked = Forked(os.fdopen(ours, "w"), os.fdopen(output, errors="replace"), os.fdopen(result))
        try:
            socket.send_fds(self.requests, [b"."], [text, stdin, its, *keep_open, code])
        except OSError:
            for opened in (forked.stdin, forked.output, forked.result):
                opened.close()
            raise
        finally:
            for number in (text, stdin, its, code):
                os.close(number)
        return forked

    def stop(self) -> None:
        self.requests.close()
        self.process.wait()


class Processes:
    """The stages that run in this process's name; `stop` ends them all and starts no others."""

    def __init__(self) -> None:
        self.guard = threading.Lock()
        self.running: set[Supervised] = set()
        self.preloaded: Preloaded | None = None
        self.stopping = False
        _EVERY.add(self)

    def start(self, command: Sequence[str], folder: Path, environment: Mapping[str, str], keep_open: Sequence[int]) -> Supervised:
        """A command; `keep_open` are files that stay open until its last process has ended, such as a workspace's lock."""
        with self.guard:
            if self.stopping:
                raise StageError(command[-1], None, (), stopped=True)
            process = Started(
                subprocess.Popen(
                    [sys.executable, "-I", str(SUPERVISOR), *command],
                    cwd=folder,
                    env=dict(environment),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    errors="replace",
                    start_new_session=True,
                    pass_fds=keep_open,
                )
            )
            self.running.add(process)
        return process

    def start_dvc(self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], keep_open: Sequence[int]) -> Supervised:
        """`dvc ARGUMENTS`, without the second or so that its start takes, but for the first one of this object."""
        with self.guard:
            if self.stopping:
                raise StageError(arguments[-1], None, (), stopped=True)
            if self.preloaded is not None and self.preloaded.process.poll() is not None:  # somebody killed it
                self.preloaded.stop()
                self.preloaded = None
            if self.preloaded is None:
                self.preloaded = Preloaded(folder, environment)
            process = self.preloaded.start(arguments, folder, environment, keep_open)
            self.running.add(process)
        return process

    def end(self, process: Supervised) -> int:
        """Tell a supervisor to stop what it runs, and wait until it has; the exit code."""
        process.stop()
        code = process.wait()
        process.output.close()
        with self.guard:
            self.running.discard(process)
        return code

    def stop(self) -> None:
        with self.guard:
            self.stopping = True
            running = list(self.running)
            preloaded, self.preloaded = self.preloaded, None
        for process in running:
            process.stop()
        for process in running:
            process.wait()
        if preloaded is not None:
            preloaded.stop()
