"""A Prefect server with its worker and the deployments, as `make server` starts them, on a project whose stages take no time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from flow_projects import ROOT, STAGES, Server, make_project, processes_in, served, set_params, wait_for
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.client.schemas.filters import ArtifactFilter, DeploymentFilter, FlowRunFilter, LogFilter
from prefect.client.schemas.objects import FlowRun
from ruamel.yaml import YAML

from flows.ablation import ablation
from flows.benchmark import benchmark
from pipelines.experiments.ablations import ABLATIONS


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    project = make_project(tmp_path_factory.mktemp("flows") / "a project")
    (project.folder / "benchmarks").mkdir()
    (project.folder / "benchmarks/quick.py").write_text("print('adding: 2 times as fast')\n")
    project.git("add", "--all")
    project.git("commit", "--quiet", "--message=A benchmark")
    with served(project) as running:
        yield running


def test_a_deployment_runs_the_graph(server: Server) -> None:
    done = server.finished(server.start("train-multi/local"))
    assert done.state is not None
    assert done.state.name == "Completed", done.state.message
    wait_for(lambda: sorted(server.states(done)) == sorted(STAGES), 10, lambda: str(server.states(done)))
    assert set(server.states(done).values()) == {"Completed"}
    folder = server.project.folder
    assert json.loads((folder / "metrics/multi.json").read_text())["ours"]["error_2d_fraction"] == 0.2
    assert "0.2" in (folder / "reports/index.html").read_text()
    assert server.project.json("status") == {}
    ran = server.task_runs(done)
    assert ran["train_multi"].start_time >= max(ran["ingest@a"].end_time, ran["ingest@b"].end_time)  # type: ignore[type-var, operator]

    def lines() -> list[str]:
        return [log.message for log in server.client.read_logs(LogFilter.model_validate({"flow_run_id": {"any_": [done.id]}}), limit=200)]

    wait_for(lambda: any("train multi: 3/3 steps" in line for line in lines()), 15)
    found = server.client.read_artifacts(artifact_filter=ArtifactFilter.model_validate({"flow_run_id": {"any_": [done.id]}}))
    artifacts = {artifact.key: artifact for artifact in found}
    assert {"metrics", "overlays-multi", "report", "progress-train-multi"} <= set(artifacts)
    assert "| multi | 2D error, share of hand size ↓ | 20.0% |" in str(artifacts["metrics"].data)
    assert artifacts["overlays-multi"].data.startswith("data:image/jpeg;base64,")  # type: ignore[union-attr]
    assert str(folder / "reports/index.html") in str(artifacts["report"].data)
    assert artifacts["progress-train-multi"].data == 100.0


def test_a_second_run_skips_everything(server: Server) -> None:
    done = server.finished(server.start("train-multi/local"))
    assert done.total_run_time.total_seconds() < 20
    wait_for(lambda: server.states(done) == dict.fromkeys(STAGES, "Skipped"), 10, lambda: str(server.states(done)))


def test_a_killed_stage_is_tried_again_from_its_checkpoint(server: Server) -> None:
    folder = server.project.folder
    set_params(server.project, train={"steps": 4})
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "checkpoints/die_at").write_text("1")
    done = server.finished(server.start("train-multi/local"))
    assert done.state is not None
    assert done.state.is_completed(), done.state.message
    assert (folder / "logs/multi/steps.txt").read_text() == "0 1 2 3 "  # every step once
    wait_for(lambda: set(server.states(done)) == set(STAGES), 10)
    assert server.task_runs(done)["train_multi"].run_count == 2
    assert server.states(done)["ingest@a"] == "Skipped"


def test_a_cancelled_run_leaves_no_process_and_the_next_goes_on(server: Server) -> None:
    """Meanwhile the deployment's second run waits: it may run once at a time."""
    folder = server.project.folder
    set_params(server.project, train={"steps": 80, "step_seconds": 1.0})
    steps = folder / "checkpoints/0.2-80/steps.txt"
    first = server.start("train-multi/local")
    wait_for(lambda: steps.exists() and len(steps.read_text().split()) >= 3, 120, server.log)
    second = server.start("train-multi/local")
    set_params(server.project, train={"step_seconds": 0.01})  # for the second one
    server.prefect("flow-run", "cancel", str(first.id))
    assert server.finished(first).state_name == "Cancelled"
    wait_for(lambda: not processes_in(folder, "train.py") or second_runs(server, second), 20)
    made = len(steps.read_text().split())
    assert 3 <= made < 80
    done = server.finished(second)
    assert done.state is not None
    assert done.state.is_completed(), done.state.message
    assert (folder / "logs/multi/steps.txt").read_text().split() == [str(step) for step in range(80)]
    assert done.start_time >= server.client.read_flow_run(first.id).end_time  # type: ignore[operator]


def second_runs(server: Server, run) -> bool:
    return server.client.read_flow_run(run.id).state_name == "Running"


def test_a_schedule_starts_a_run(server: Server) -> None:
    server.prefect("deployment", "schedule", "create", "train-multi/local", "--interval", "10")
    mine = DeploymentFilter.model_validate({"name": {"any_": ["local"]}})

    def scheduled() -> list:
        runs = server.client.read_flow_runs(
            flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": ["COMPLETED"]}}}), deployment_filter=mine
        )
        return [run for run in runs if run.auto_scheduled]

    try:
        wait_for(scheduled, 180, server.log)
    finally:
        server.prefect("deployment", "schedule", "clear", "train-multi/local", "--accept-yes")


def python(server: Server, code: str) -> subprocess.Popen[str]:
    """A flow called in a process of its own, as the worker would, in the project."""
    command = [sys.executable, "-c", code]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=server.project.folder, env=server.environment, stdout=pipe, stderr=subprocess.STDOUT, text=True)


def test_two_runs_at_once_do_not_disturb_each_other(server: Server) -> None:
    """Each has a workspace of its own, both share the cache, and the project's folder stays as it is."""
    folder = server.project.folder
    before = {name: (folder / name).read_text() for name in ("params.yaml", "dvc.lock", "metrics/multi.json")}
    code = (
        "import sys; sys.path.insert(0, '.'); from flows.train_multi import train_multi;"
        "train_multi(overrides=['train.error={e}', 'train.steps=5', 'train.step_seconds=0.3', 'ingest.b.rows={r}'], experiment='{n}')"
    )
    runs = {name: python(server, code.format(e=error, r=rows, n=name)) for name, error, rows in [("one", 0.31, 7), ("two", 0.32, 8)]}
    for name, process in runs.items():
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, f"{name}:\n{output[-4000:]}"
    for name, error, rows in [("one", 0.31, 7), ("two", 0.32, 8)]:
        space = folder / ".prefect/workspaces" / name
        assert json.loads((space / "metrics/multi.json").read_text())["ours"]["error_2d_fraction"] == error
        assert (space / "data/b/rows.txt").read_text().count("row") == rows
        status = subprocess.run([sys.executable, "-m", "dvc", "status", "--json"], cwd=space, capture_output=True, text=True)
        assert json.loads(status.stdout) == {}
        shown = server.project.git("show", f"{experiment_commit(server, name)}:metrics/multi.json")
        assert json.loads(shown)["ours"]["error_2d_fraction"] == error
    assert {name: (folder / name).read_text() for name in before} == before
    assert server.project.json("status") == {}


def experiment_commit(server: Server, name: str) -> str:
    refs = server.project.git("for-each-ref", "--format=%(objectname) %(refname)", "refs/exps").splitlines()
    return next(line.split()[0] for line in refs if line.endswith(f"/{name}"))


def test_an_ablation_is_a_run_for_each_of_its_variants(server: Server) -> None:
    done = server.finished(server.start("ablation/local", names=["centers"], target="train_multi"))
    assert done.state is not None
    assert done.state.is_completed(), done.state.message
    runs = {run.name: run for run in ABLATIONS["centers"].runs([0])}
    assert len(runs) == 3
    assert done.state.message == "3 runs; `dvc exp show` has them side by side"
    for name, run in runs.items():
        params = YAML(typ="safe", pure=True).load(server.project.git("show", f"{experiment_commit(server, name)}:params.yaml"))
        assert f"train.multi.center={params['train']['multi']['center']}" in run.overrides
        assert (server.project.folder / ".prefect/workspaces" / name / "models/multi/model.json").exists()
    assert set(server.states(done)) >= set(runs)


def test_benchmarks_show_what_they_print(server: Server) -> None:
    done = server.finished(server.start("benchmark/local", names=["quick"]))
    assert done.state is not None
    assert done.state.is_completed(), done.state.message
    found = server.client.read_artifacts(artifact_filter=ArtifactFilter.model_validate({"key": {"any_": ["benchmark-quick"]}}))
    assert [artifact.data for artifact in found] == ["```\nadding: 2 times as fast\n```"]


def test_names_that_are_no_ablation_or_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(ValueError, match=r"names: expected some of \['augmentation', 'centers', .*\], got \['centres'\]"):
        ablation.fn(names=["centres"])
    with pytest.raises(ValueError, match=r"names: expected some of \[.*'flows'.*\], got \['slow'\]"):
        benchmark.fn(names=["slow"])


def test_retrain_promotes_the_better_model_only(server: Server) -> None:
    """0.2 is promoted, 0.25 refused, 0.1 promoted; then the evaluation changes, and the promoted model is measured again."""
    done = server.finished(server.start("retrain/local"))
    assert done.state is not None
    assert done.state.message == "promoted: no model was promoted before"
    store = server.project.folder / "promoted"
    assert json.loads((store / "current/model.json").read_text())["error"] == 0.2
    short = ["train.steps=2", "train.step_seconds=0.01"]
    runs = [["train.error=0.25"], ["train.error=0.199"], ["train.error=0.1"], ["train.error=0.15", "evaluate.multi.shift=0.3"]]
    code = (
        "import sys; sys.path.insert(0, '.')\nfrom flows.retrain import retrain\n"
        f"for overrides in {[run + short for run in runs]}:\n"
        "    print('SAID', retrain(overrides=overrides, return_state=True).message)"
    )
    process = python(server, code)
    output, _ = process.communicate(timeout=400)
    said = [line.removeprefix("SAID ") for line in output.splitlines() if line.startswith("SAID ")]
    assert len(said) == 4, output[-4000:]
    assert said[0].startswith("kept the promoted model: error_2d_fraction 0.25, promoted 0.2: -25.00%")
    assert said[1].startswith("kept the promoted model: error_2d_fraction 0.199, promoted 0.2: +0.50%")
    assert said[2].startswith("promoted: error_2d_fraction 0.1, promoted 0.2: +50.00%")
    assert said[3].startswith("kept the promoted model: error_2d_fraction 0.45, promoted 0.4: -12.50%")
    assert json.loads((store / "current/model.json").read_text())["error"] == 0.1
    assert json.loads((store / "former/model.json").read_text())["error"] == 0.2
    assert json.loads((store / "current/promotion.json").read_text())["figures"]["error_2d_fraction"] == 0.1
    assert not [path for path in store.iterdir() if "partial" in path.name]


def test_runs_of_several_deployments_at_once(server: Server) -> None:
    """Through one worker: train-multi and ingest take turns in the project's folder, retrain works beside them in its own."""
    folder, space = server.project.folder, server.project.folder / ".prefect/workspaces/retrain"
    hold, steps = folder / "checkpoints/hold", folder / "checkpoints/0.2-7/steps.txt"
    set_params(server.project, train={"steps": 7, "step_seconds": 0.01}, ingest={"a": {"rows": 5}})
    hold.parent.mkdir(exist_ok=True)
    hold.touch()
    training = start_quickly(server, "train-multi/local")
    wait_for(lambda: steps.exists() and len(steps.read_text().split()) == 7, 120, server.log)
    ingesting = start_quickly(server, "ingest/local")
    retraining = start_quickly(server, "retrain/local", overrides=["train.error=0.05"])
    filters = LogFilter.model_validate({"flow_run_id": {"any_": [ingesting.id]}})
    wait_for(lambda: any(log.message == "waiting: another run holds project" for log in server.client.read_logs(filters)), 180, server.log)
    wait_for(lambda: (space / "data/a/rows.txt").exists() and (space / "data/a/rows.txt").read_text() == "row\n" * 5, 180, server.log)
    hold.unlink()
    done = [server.finished(run) for run in (training, ingesting, retraining)]
    assert [run.state_name for run in done] == ["Completed"] * 3, [run.state and run.state.message for run in done]
    assert done[0].start_time < done[2].start_time < done[0].end_time  # type: ignore[operator]
    wait_for(lambda: server.states(ingesting) == {"ingest@a": "Skipped", "ingest@b": "Skipped"}, 10, lambda: str(server.states(ingesting)))
    assert min(task.start_time for task in server.task_runs(ingesting).values()) >= server.task_runs(training)["report"].end_time  # type: ignore[type-var]
    wait_for(lambda: server.states(retraining).get("ingest@a") in ("Cached", "Skipped"), 10)  # made once for both
    for place, error in ((folder, 0.2), (space, 0.05)):
        assert (place / "logs/multi/steps.txt").read_text() == "0 1 2 3 4 5 6 "
        assert json.loads((place / "metrics/multi.json").read_text())["ours"]["error_2d_fraction"] == error
        status = subprocess.run([sys.executable, "-m", "dvc", "status", "--json"], cwd=place, capture_output=True, text=True)
        assert json.loads(status.stdout) == {}
    assert json.loads((folder / "promoted/current/model.json").read_text())["error"] == 0.05


def start_quickly(server: Server, deployment: str, **parameters: object) -> FlowRun:
    """As `prefect deployment run` does, without the seconds that the command takes."""
    return server.client.create_flow_run_from_deployment(server.client.read_deployment_by_name(deployment).id, parameters=parameters)


def test_a_killed_server_and_a_killed_worker(server: Server) -> None:
    """The run goes on while the server is away. A worker that is killed takes its run along; the next one gets what it held."""
    folder = server.project.folder
    # four minutes of steps: not done before the server is back and the worker killed, however busy the machine is
    set_params(server.project, train={"steps": 600, "step_seconds": 0.4})
    steps = folder / "checkpoints/0.2-600/steps.txt"
    run = server.start("train-multi/local")
    wait_for(lambda: steps.exists() and len(steps.read_text().split()) >= 2, 120, server.log)
    kill(folder, "server", "start")
    before = len(steps.read_text().split())
    wait_for(lambda: len(steps.read_text().split()) > before + 2, 20)
    wait_for(lambda: answers(server), 120)
    # one more than is held, as a server keeps it that could not write down who let go
    server.client.update_global_concurrency_limit("gpus-test", GlobalConcurrencyLimitUpdate(active_slots=2))
    kill(folder, "worker", "start")
    wait_for(lambda: not processes_in(folder, "train.py"), 30)
    wait_for(lambda: server.client.read_flow_run(run.id).state_name == "Crashed", 60, server.log)
    made = len(steps.read_text().split())
    set_params(server.project, train={"step_seconds": 0.01})
    done = server.finished(server.start("train-multi/local"))
    assert done.state is not None
    assert done.state.is_completed(), done.state.message
    assert made >= before + 2
    assert (folder / "logs/multi/steps.txt").read_text().split() == [str(step) for step in range(600)]


def answers(server: Server) -> bool:
    try:
        return server.client.api_healthcheck() is None
    except OSError:
        return False


def kill(folder: Path, *words: str) -> None:
    """SIGKILL to the `prefect WORDS` process of a project."""
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
            if process.cwd() == str(folder) and command[1:3] == ["-m", "prefect"] and command[3 : 3 + len(words)] == list(words):
                os.kill(process.pid, signal.SIGKILL)
                return
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    pytest.fail(f"no process: prefect {' '.join(words)}")
