"""A small DVC project with the stages that the flows expect, made of scripts that take no time, and a Prefect server for it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, TaskRun
from repositories import Repository

ROOT = Path(__file__).parents[1]
STAGES = ["ingest@a", "ingest@b", "train_multi", "evaluate@multi", "report"]
PARAMS = {
    "ingest": {"a": {"rows": 3}, "b": {"rows": 4}},
    "train": {"steps": 3, "step_seconds": 0.01, "error": 0.2, "seed": 0, "crop": {"center": "box"}, "multi": {"center": "box"}},
    "evaluate": {"multi": {"shift": 0.0}},
}

GRAPH = """
stages:
  ingest:
    foreach: ${ingest}
    do:
      cmd: python ingest.py ${key}
      deps: [ingest.py]
      params: ["ingest.${key}"]
      outs: ["data/${key}"]
  train_multi:
    cmd: python train.py
    meta: {gpus: all}
    deps: [train.py, data/a, data/b]
    params: [train]
    outs: [models/multi, logs/multi]
  evaluate:
    foreach: ${evaluate}
    do:
      cmd: python evaluate.py ${key}
      meta: {gpus: 1}
      deps: [evaluate.py, data/b, "models/${key}"]
      params: ["evaluate.${key}"]
      metrics:
        - metrics/${key}.json:
            cache: false
  report:
    cmd: python report.py
    deps: [report.py, metrics/multi.json]
    outs: [reports]
"""

SCRIPTS = {
    "params.py": """
from ruamel.yaml import YAML
params = YAML(typ="safe", pure=True).load(open("params.yaml"))
""",
    "ingest.py": """
import pathlib, sys
from params import params
rows = params["ingest"][sys.argv[1]]["rows"]
folder = pathlib.Path("data", sys.argv[1])
folder.mkdir(parents=True)
(folder / "rows.txt").write_text("row\\n" * rows)
print(f"ingest {sys.argv[1]}: {rows}/{rows} rows, 0 s, done")
""",
    # goes on from its checkpoint; of two files that are no deps `die_at` kills it once, as if the machine had, `hold` keeps it from ending
    "train.py": """
import json, os, pathlib, shutil, signal, sys, time
from params import params
train = params["train"]
here = pathlib.Path("checkpoints", str(train["error"]) + "-" + str(train["steps"]))
here.mkdir(parents=True, exist_ok=True)
done = here / "steps.txt"
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
for step in range(len(done.read_text().split()) if done.exists() else 0, train["steps"]):
    time.sleep(train["step_seconds"])
    with done.open("a") as out:
        out.write(f"{step} ")
    print(f"train multi: {step + 1}/{train['steps']} steps, {step} s, loss {1 / (step + 1):.3f}", flush=True)
    die_at = pathlib.Path("checkpoints/die_at")
    if die_at.exists() and int(die_at.read_text()) == step:
        die_at.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
while pathlib.Path("checkpoints/hold").exists():
    time.sleep(0.1)
for folder in ("models/multi", "logs/multi"):
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
pathlib.Path("models/multi/model.json").write_text(json.dumps({"error": train["error"]}))
pathlib.Path("logs/multi/steps.txt").write_text(done.read_text())
shutil.copy("overlay.jpg", "logs/multi/validation.jpg")
shutil.rmtree(here)
""",
    "evaluate.py": """
import json, pathlib, sys
from params import params
shift = params["evaluate"][sys.argv[1]]["shift"]
error = json.load(open(f"models/{sys.argv[1]}/model.json"))["error"]
pathlib.Path("metrics").mkdir(exist_ok=True)
figures = {"ours": {"error_2d_fraction": error + shift, "recall": 0.9}, "mean_hand": {"error_2d_fraction": 0.5}}
pathlib.Path("metrics", sys.argv[1] + ".json").write_text(json.dumps(figures))
""",
    "report.py": """
import pathlib
pathlib.Path("reports").mkdir()
pathlib.Path("reports/index.html").write_text("<p>" + pathlib.Path("metrics/multi.json").read_text() + "</p>")
""",
}


def make_project(folder: Path) -> Repository:
    """A committed project in `folder`: the stages above, the flows of this repository, nothing run yet."""
    from PIL import Image

    folder.mkdir()
    repository = Repository(folder)
    for name in (".dvcignore", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "flows", folder / "flows", ignore=ignored)
    (folder / ".gitignore").write_text((ROOT / ".gitignore").read_text())
    (folder / "dvc.yaml").write_text(GRAPH)
    (folder / "params.yaml").write_text(json.dumps(PARAMS, indent=1))
    for name, text in SCRIPTS.items():
        (folder / name).write_text(text)
    Image.new("RGB", (64, 32), (10, 120, 200)).save(folder / "overlay.jpg")
    repository.git("init", "--quiet", "--initial-branch=main")
    repository.dvc("init", "--quiet")
    repository.git("add", "--all")
    repository.git("commit", "--quiet", "--message=Start")
    return repository


def set_params(project: Repository, **sections: dict[str, Any]) -> None:
    """Change sections of the project's params.yaml, such as train={"steps": 5}."""
    path = project.folder / "params.yaml"
    params = json.loads(path.read_text())
    for section, values in sections.items():
        params[section].update(values)
    path.write_text(json.dumps(params, indent=1))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(what: Callable[[], Any], seconds: float, told: Callable[[], str] = lambda: "", every_s: float = 0.1) -> Any:
    """Ask until the answer is true, and return it."""
    deadline = time.monotonic() + seconds
    while not (answer := what()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds} s for nothing\n{told()}")
        time.sleep(every_s)
    return answer


class Server:
    """A running `python -m flows.server` of a project, what a person types beside it, and what its pages would show."""

    def __init__(self, project: Repository, process: subprocess.Popen[str], port: int) -> None:
        self.project = project
        self.process = process
        self.environment = {**project.environment, "PREFECT_API_URL": f"http://127.0.0.1:{port}/api", "PYTHONPATH": str(project.folder)}
        self.client = SyncPrefectClient(self.environment["PREFECT_API_URL"])

    def prefect(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "prefect", *arguments]
        result = subprocess.run(command, cwd=self.project.folder, env=self.environment, capture_output=True, text=True, timeout=600)
        if check and result.returncode != 0:
            pytest.fail(f"{arguments}: {result.returncode}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}\n{self.log()[-6000:]}")
        return result

    def start(self, deployment: str, **parameters: Any) -> FlowRun:
        """`prefect deployment run`, without waiting."""
        given = [f"--param={name}={json.dumps(value)}" for name, value in parameters.items()]
        printed = self.prefect("deployment", "run", deployment, *given).stdout
        return self.client.read_flow_run(printed.split("UUID: ")[1].split()[0])

    def finished(self, run: FlowRun, seconds: float = 300) -> FlowRun:
        """The run at its end."""

        def ended() -> FlowRun | None:
            now = self.client.read_flow_run(run.id)
            return now if now.state is not None and now.state.is_final() else None

        return wait_for(ended, seconds, self.log, every_s=0.5)  # each question is work for the server, which the run waits for

    def task_runs(self, run: FlowRun) -> dict[str, TaskRun]:
        """The run's stages by name. The server writes them down a little later than the run's end."""
        found = self.client.read_task_runs(flow_run_filter=FlowRunFilter.model_validate({"id": {"any_": [run.id]}}))
        return {task.name: task for task in found}

    def states(self, run: FlowRun) -> dict[str, str]:
        return {name: task.state_name or "" for name, task in self.task_runs(run).items()}

    def log(self) -> str:
        return (self.project.folder / ".prefect/worker.log").read_text(errors="replace")


@contextmanager
def served(project: Repository) -> Iterator[Server]:
    """A server for a project; when the test is over it ends as Ctrl-C ends it, and leaves no process."""
    port = free_port()
    more = {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_CONCURRENCY_MAXIMUM_CONCURRENCY_SLOT_WAIT_SECONDS": "1",
        "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "2",
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
        "PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "1",
        "HANDNET_GPU_SLOTS": "gpus-test",
        "HANDNET_STOP_SECONDS": "10",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.server", "--port", str(port)],
        cwd=project.folder,
        env={**project.environment, "PYTHONPATH": str(project.folder), **more},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    project.environment.update(more)
    printed = []
    for line in process.stdout:  # type: ignore[union-attr]
        printed.append(line)
        if "prefect deployment run" in line:
            break
    else:
        pytest.fail("".join(printed))
    try:
        yield Server(project, process, port)
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
    assert process.returncode == 0
    wait_for(lambda: not processes_in(project.folder), 10, lambda: str(processes_in(project.folder)))


def processes_in(folder: Path, word: str = "") -> list[list[str]]:
    """Commands of the processes that work in a folder or below, those with `word` in them."""
    found = []
    for process in psutil.process_iter():
        try:
            command, place = process.cmdline(), process.cwd()
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
        inside = Path(place).is_relative_to(folder) or any(str(folder) in part for part in command)
        if inside and process.pid != os.getpid() and any(word in part for part in command):
            found.append(command)
    return found
