"""Run as a script by tests: forks processes that each run `pipelines.train`'s command, without the seconds that importing takes.

This process has imported everything and computed nothing. It reads one JSON object a line: {"folder", "stage", "environment", "out"} starts
a process, in a group of its own and with its output in the file `out`, and answers its id; {"ended": ID} answers the exit code, minus the
signal's number for a process that was killed, or null while it runs.
"""

import importlib
import json
import os
import signal
import sys
import traceback
from typing import Any

from pipelines.train import main

# what a run imports on its way
LATE = ("dvc.repo", "torch._decomp.decompositions", "torch._dynamo", "torch._refs")
for name in (*LATE, "pipelines.training.launching", "pipelines.training.stage"):
    importlib.import_module(name)


def fork(job: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    output = os.open(job["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(job["folder"])
    os.environ.update(job["environment"])
    code = 1
    try:
        code = main([job["stage"]])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(pid: int) -> int | None:
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C of the tests is the tests' to answer
    for line in sys.stdin:
        job = json.loads(line)
        print(json.dumps(ended(job["ended"]) if "ended" in job else fork(job)), flush=True)
