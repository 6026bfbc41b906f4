"""DVC commands without DVC's start: a process that has imported it, and forks for each one: python -u -I flows/preloaded.py SOCKET.

Every command runs under a supervisor (supervise.py), as it would in a process of its own. This one ends when its socket is closed.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

# what `dvc repro` imports on its way; the rest it imports by itself
MODULES = (
    "dvc.cli.parser",
    "dvc.commands.repro",
    "dvc.repo.reproduce",
    "dvc.repo.artifacts",
    "dvc.repo.datasets",
    "dvc.repo.metrics",
    "dvc.repo.params",
    "dvc.repo.plots",
    "dvc.repo.stage",
    "dvc.cachemgr",
    "dvc.data_cloud",
    "dvc.lock",
    "dvc.rwlock",
    "dvc.scm",
    "dvc.utils.strictyaml",
    "dvc_data.hashfile.db.local",
    "dvc_data.hashfile.status",
    "configobj",
    "dulwich.ignore",
    "dulwich.repo",
    "dulwich.worktree",
    "ruamel.yaml",
    "scmrepo.git",
)
ROOT = Path(__file__).parents[1]
MAX_FILES = 32  # that come with a request


class Forked:
    """A child of this process that was forked rather than started."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.code: int | None = None

    def poll(self) -> int | None:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def wait(self) -> int:
        if self.code is None:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.code


def serve(requests: socket.socket) -> None:
    """Fork for every request until the socket is closed.

    A request is one byte and its files: the request's text, the command's stdin and output, files that it keeps open, and where its
    exit code goes. That one has the highest number: the kernel closes it last, so that who sees it closed finds all others closed.
    """
    from dvc.cli import main as dvc
    from dvc.cli.parser import get_main_parser
    from dvc.parsing.interpolate import get_parser

    get_main_parser()  # both are kept
    get_parser()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()  # memory that the forked processes share stays shared
    while True:
        received, files, _, _ = socket.recv_fds(requests, 1, MAX_FILES)
        if not received:
            return
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits here for supervisors: they tell their codes themselves
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            requests.close()
            run(files, dvc)
        for number in files:
            os.close(number)


def run(files: Sequence[int], dvc: Callable[[list[str]], int]) -> NoReturn:
    """Supervise the command of a request in this process, and end it."""
    text, stdin, output, *_, result = files
    with os.fdopen(text) as handle:
        handle.seek(0)
        request = json.load(handle)
    os.setsid()
    for number, standard in ((stdin, 0), (output, 1), (output, 2)):
        os.dup2(number, standard)
    os.close(stdin)
    os.close(output)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])

    def start() -> Forked:
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)  # one that comes now is for the command too
        pid = os.fork()
        if pid == 0:
            for number in files[3:]:
                os.close(number)
            os.setsid()
            with open(os.devnull) as nothing:
                os.dup2(nothing.fileno(), 0)
            for stop in STOPS:
                signal.signal(stop, signal.default_int_handler if stop == signal.SIGINT else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
        if pid == 0:
            code = dvc(request["arguments"])
            sys.stdout.flush()
            os._exit(code)  # taking modules apart takes a third of a small command's time
        return Forked(pid)

    os.write(result, str(supervise(start)).encode())
    os._exit(0)


if __name__ == "__main__":
    sys.path.append(str(ROOT))  # last: nothing of DVC's is found there
    from flows.supervise import STOPS, supervise
    from flows.whole_files import write_records_whole

    for name in MODULES:
        importlib.import_module(name)
    write_records_whole()
    serve(socket.socket(fileno=int(sys.argv[1])))
