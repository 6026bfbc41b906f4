"""A real Dask cluster of two workers: the same bytes as one process, progress, Ctrl-C, lost workers and wrong addresses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from distributed import LocalCluster
from fake_samples import folder_bytes, make_plan
from painted_hands import build_painted

from pipelines import compose as stage
from pipelines.config import ComposeConfig, load_params
from pipelines.executors import SCHEDULER_VARIABLE, WorkerDiedError, report_progress, run
from pipelines.executors.cluster import SchedulerError
from pipelines.shards.build import build_shards

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster:
        yield cluster


@pytest.fixture
def scheduler(cluster, monkeypatch) -> str:
    cluster.scale(2)
    monkeypatch.setenv(SCHEDULER_VARIABLE, cluster.scheduler_address)
    return cluster.scheduler_address


def section(num_scenes: int) -> ComposeConfig:
    values = load_params(ROOT / "params.yaml").compose.model_dump()
    for part in values.values():
        part.update(num_scenes=num_scenes, scenes_per_shard=5, canvas_px=128, hand_px=(24, 80), overlap=0.4)
    return ComposeConfig(**values)


def facts(number):
    report_progress()
    time.sleep(0.3)
    return number, os.getpid(), os.getppid(), os.getcwd(), os.environ["OMP_NUM_THREADS"]


def fail_at(bad, number):
    if number == bad:
        raise ValueError(f"cannot do {number}")
    time.sleep(600 if number > bad else 0)


def lose(folder, how, number):
    """Number 1 ends its process, or the Dask worker above it, the first time."""
    marker = folder / "lost"
    if number == 1 and not marker.exists():
        marker.write_text(str(os.getppid()))
        os.kill(os.getppid() if how == "worker" else os.getpid(), signal.SIGKILL)
        time.sleep(600)
    return number * number


def test_results_in_order_by_single_threaded_processes_in_this_folder(scheduler, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    results = run(facts, range(6), description="facts", steps=lambda n: 1, unit="steps")
    assert [number for number, *_ in results] == list(range(6))
    assert {folder for _, _, _, folder, _ in results} == {str(tmp_path)}
    assert {threads for *_, threads in results} == {"1"}
    assert len({pid for _, pid, *_ in results}) == 2  # each worker keeps its process
    assert os.getpid() not in {parent for _, _, parent, *_ in results}
    assert "facts: 6/6 steps, " in capfd.readouterr().err
    for _, pid, *_ in results:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_scenes_and_any_other_shards_are_the_same_bytes(scheduler, tmp_path, monkeypatch):
    for name in ("here", "cluster"):
        build_painted(tmp_path / name, "train")
    one = stage.compose("train", section(30), data=tmp_path / "here", num_workers=1)
    monkeypatch.chdir(tmp_path / "cluster")  # workers find what is relative to the run's folder
    many = stage.compose("train", section(30), data=Path())
    assert folder_bytes(tmp_path / "cluster" / many) == folder_bytes(one)
    plans = [make_plan(tmp_path / name) for name in ("a", "b")]
    build_shards(plans[0], num_workers=1, description="one process")
    build_shards(plans[1], description="cluster")
    assert folder_bytes(plans[0].target) == folder_bytes(plans[1].target)


def test_an_error_is_raised_at_once_with_the_item_named(scheduler):
    started = time.monotonic()
    with pytest.raises(ValueError, match="cannot do 1") as caught:
        run(partial(fail_at, 1), range(4), description="failing")
    assert "while working on 1" in caught.value.__notes__
    assert time.monotonic() - started < 300


def test_the_item_of_a_lost_worker_is_done_by_another(scheduler, tmp_path):
    assert run(partial(lose, tmp_path, "worker"), range(6), description="losing") == [0, 1, 4, 9, 16, 25]
    lost = int((tmp_path / "lost").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(lost, 0)


def test_a_process_that_dies_is_an_error_that_names_the_item(scheduler, tmp_path):
    with pytest.raises(WorkerDiedError, match="ended with exit code -9 on 1"):
        run(partial(lose, tmp_path, "process"), range(6), description="dying")


def test_no_worker_and_no_scheduler(monkeypatch):
    from pipelines.executors import cluster as module

    for address, message in (("nonsense", "expected an address such as tcp://host:8786, got 'nonsense'"), ("tcp://127.0.0.1:9", "no Dask")):
        monkeypatch.setenv(SCHEDULER_VARIABLE, address)
        monkeypatch.setattr(module, "CONNECT_S", 1.0)
        with pytest.raises(SchedulerError, match=message):
            run(str, range(2), description="nowhere")
    monkeypatch.setattr(module, "CONNECT_S", 8.0)
    monkeypatch.setattr(module, "LOOK_EVERY_S", 0.1)
    monkeypatch.setattr(module, "NO_WORKER_S", 0.3)
    with LocalCluster(n_workers=0, dashboard_address=":0", scheduler_port=0) as empty:
        monkeypatch.setenv(SCHEDULER_VARIABLE, empty.scheduler_address)
        with pytest.raises(SchedulerError, match="no worker is connected to the Dask scheduler"):
            run(str, range(2), description="empty")


def test_interrupted_on_the_cluster_and_continued_here(scheduler, tmp_path):
    (tmp_path / "interrupted.py").write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from pipelines import compose\n"
        "from pipelines.stage_command import run_stage\n"
        "from test_executors_cluster import section\n"
        "if __name__ == '__main__':\n"
        "    sys.exit(run_stage(lambda: compose.compose('train', section(250), data=Path('data')), interrupted='kept'))\n"
    )
    build_painted(tmp_path / "data", "train")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    command = [sys.executable, "interrupted.py"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    work = tmp_path / "data/scenes/train.partial"
    deadline = time.monotonic() + 300
    while len(list(work.glob("stats/*.json"))) < 2:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors.splitlines()[-1] == "interrupted; kept"
    assert "Traceback" not in errors
    finished = {path.stem: (work / f"shards/{path.stem}.tar").stat().st_mtime_ns for path in work.glob("stats/*.json")}
    folder = stage.compose("train", section(250), data=tmp_path / "data", num_workers=1)
    assert {name: (folder / f"{name}.tar").stat().st_mtime_ns for name in finished} == finished
    assert not work.exists()
