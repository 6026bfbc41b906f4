"""Runs a container's command, and ends after everything that it started: python -I flows/contain.py COMMAND...

A container is killed when its first process ends. So a stop is handed on to all processes below (supervise.py), and they are waited for:
training saves its state, however soon the process that started it has gone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

SUPERVISOR = Path(__file__).with_name("supervise.py")


def become(command: Sequence[str]) -> int:
    """Run the command below the supervisor, in this process's place. Returns never, but as what `main` returns."""
    # the supervisor works until its input ends, which in a container it does at once: this process holds one open itself
    reading, writing = os.pipe()
    os.dup2(reading, 0)
    os.set_inheritable(writing, True)
    # the stages' commands say `python`: this one
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return os.execve(sys.executable, [sys.executable, "-I", str(SUPERVISOR), *command], {**os.environ, "PATH": path})


def main(arguments: list[str]) -> int:
    """Command line."""
    if not arguments:
        print("usage: python -I flows/contain.py COMMAND...", file=sys.stderr)
        return 2
    return become(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
