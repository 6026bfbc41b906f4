"""What orchestration costs: a flow with nothing to do beside `dvc status`, and a fan-out on two workers beside plain `dvc repro`."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
REPEATS = 5
# a stage waits for a second, as for a disk or another machine, and writes a line: on one core as on two the work is done side by side
WIDTH, STAGE_SECONDS, FAN_OUT_REPEATS = 8, 1.0, 3

GRAPH = """
stages:
  part:
    foreach: [{numbers}]
    do:
      cmd: sleep {seconds} && echo ${{item}} > part-${{item}}
      outs: ["part-${{item}}"]
  train_multi:
    cmd: cat {parts} > whole
    deps: [{listed}]
    outs: [whole]
"""

# Run in a process of its own, as a worker runs a flow; it says how long each call took.
CALLS = """
import sys, time
sys.path.insert(0, ".")
from flows.train_multi import train_multi
for line in sys.stdin:
    started = time.perf_counter()
    assert train_multi(return_state=True).is_completed()
    print("TOOK", time.perf_counter() - started, flush=True)
"""


def surroundings() -> dict[str, str]:
    """The environment without settings of a Prefect server or of runs, such as those of the flow that this script may run in."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "HANDNET_"))}


def command(folder: Path, *arguments: str) -> float:
    """Seconds that a command takes."""
    started = time.perf_counter()
    subprocess.run(arguments, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def fan_out(folder: Path) -> Path:
    """A project of eight stages that wait for a second each and write a line, and one that reads them."""
    folder.mkdir()
    parts = [f"part-{number}" for number in range(WIDTH)]
    numbers = ", ".join(str(number) for number in range(WIDTH))
    (folder / "dvc.yaml").write_text(GRAPH.format(numbers=numbers, seconds=STAGE_SECONDS, parts=" ".join(parts), listed=", ".join(parts)))
    shutil.copytree(ROOT / "flows", folder / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".dvcignore", folder)
    shutil.copy(ROOT / ".gitignore", folder)
    for words in (("git", "init", "--quiet"), (sys.executable, "-m", "dvc", "init", "--quiet")):
        command(folder, *words)
    return folder


def whole_graph(folder: Path) -> Path:
    """This project with every stage recorded as up to date: its outs are small files, so that what is measured is the graph."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    shutil.copytree(ROOT / "flows", folder / "flows", dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    from dvc.repo import Repo

    with Repo(str(folder)) as repo:
        # some deps are folders within an out
        for path in [Path(entry.fs_path) for entry in (*repo.index.outs, *repo.index.deps) if "pipelines" not in entry.fs_path]:
            if path.exists() or path.name == "params.yaml":
                continue
            if path.suffix == ".json":
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("{}")
            else:
                path.mkdir(parents=True, exist_ok=True)
                (path / "file").write_text(path.name)
    recorded = subprocess.run([sys.executable, "-m", "dvc", "commit", "--force"], cwd=folder, capture_output=True, text=True)
    if recorded.returncode != 0:
        raise SystemExit(f"error: dvc commit: {recorded.stderr.strip()}")
    return folder


@contextmanager
def server(home: Path) -> Iterator[str]:
    """The address of a Prefect server of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**surroundings(), "PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    words = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(words, cwd=home, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        import httpx

        while True:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/api/health", timeout=5).status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/api"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


class Flow:
    """A process that calls train-multi in a folder whenever it is told to."""

    def __init__(self, folder: Path, address: str) -> None:
        environment = {**surroundings(), "PREFECT_API_URL": address, "HANDNET_STAGE_JOBS": "2"}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            [sys.executable, "-c", CALLS], cwd=folder, env=environment, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
        )

    def call(self) -> float:
        """Seconds of one call."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("TOOK"):
                return float(line.split()[1])
        raise SystemExit("the flow failed")

    def end(self) -> None:
        self.process.communicate()


def main() -> None:
    with tempfile.TemporaryDirectory() as name, server(Path(name)) as address:
        folder = whole_graph(Path(name) / "graph")
        flow = Flow(folder, address)
        flow.call()  # imports, and the first connection
        status, nothing = [], []
        for _ in range(REPEATS):
            status.append(command(folder, sys.executable, "-m", "dvc", "status", "--json"))
            nothing.append(flow.call())
        flow.end()
        print(f"dvc status {min(status):.2f} s, flow with nothing to do {min(nothing):.2f} s: {min(nothing) / min(status):.2f} times")

        folder = fan_out(Path(name) / "fan-out")
        repro, fanned = [], []
        flow = Flow(folder, address)
        for _ in range(FAN_OUT_REPEATS):
            repro.append(command(folder, sys.executable, "-m", "dvc", "repro", "--force"))
            for path in [folder / "dvc.lock", *folder.glob("part-*"), folder / ".dvc/cache/runs"]:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            fanned.append(flow.call())
        flow.end()
        ratio = min(repro) / min(fanned)
        print(
            f"{WIDTH} stages that wait for {STAGE_SECONDS:.0f} s: dvc repro {min(repro):.1f} s, flow on two workers {min(fanned):.1f} s",
            end=": ",
        )
        print(f"{ratio:.2f} times as fast")


if __name__ == "__main__":
    main()
