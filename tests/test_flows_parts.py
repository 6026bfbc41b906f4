"""What the flows are made of, without a server: graph and plan, stages as processes, workspaces."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from flow_projects import STAGES, make_project, processes_in, set_params, wait_for
from hypothesis import given
from hypothesis import strategies as st
from repositories import Repository

from flows import stages, workspaces
from flows.artifacts import read_figures
from flows.graph import Stage, dependents, make_plan, matching, needed, read_graph
from flows.processes import SUPERVISOR, Processes, StageError
from flows.running import follow, reproduce
from flows.runs import Request
from flows.workspaces import BusyError, git, lock_path, locked, shared_lock, workspace
from flows.workspaces import set_params as override


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """The small project after a run of it."""
    made = make_project(tmp_path_factory.mktemp("parts") / "project")
    made.dvc("repro")
    return made


STAGES_RUN = Processes()


@pytest.fixture(scope="module", autouse=True)
def _stop() -> Iterator[None]:
    yield
    STAGES_RUN.stop()


def run(project: Repository, stage: str, folder: Path | None = None) -> tuple[str, list[str]]:
    said: list[str] = []
    outcome = reproduce(stage, folder or project.folder, processes=STAGES_RUN, say=said.append, environment={"HANDNET_STOP_SECONDS": "5"})
    return outcome.kind, said


# the graph


def test_the_graph_and_what_is_outdated(project: Repository) -> None:
    graph = read_graph(project.folder)
    assert sorted(graph) == sorted(STAGES)
    assert graph["evaluate@multi"].needs == ("ingest@b", "train_multi")
    assert graph["train_multi"].gpus == "all"
    assert make_plan(graph, graph).outdated == frozenset()
    (project.folder / "report.py").touch()
    before = (project.folder / "params.yaml").read_text()
    set_params(project, ingest={"a": {"rows": 9}})
    try:
        plan = make_plan(read_graph(project.folder), ["train_multi"])
        assert plan.outdated == {"ingest@a", "train_multi"}
        assert [stage.name for stage in plan.stages][-1] == "train_multi"
        assert "ingest.a" in " ".join(read_graph(project.folder)["ingest@a"].changes)
    finally:
        (project.folder / "params.yaml").write_text(before)


def test_targets(project: Repository) -> None:
    graph = read_graph(project.folder)
    assert matching(graph, "ingest") == ["ingest@a", "ingest@b"]
    with pytest.raises(ValueError, match=r"target: expected a stage of dvc.yaml, one of .*'train_multi'.*, got 'trian'"):
        matching(graph, "trian")


def test_a_wrong_need_of_gpus_is_named(tmp_path: Path) -> None:
    project = make_project(tmp_path / "project")
    path = project.folder / "dvc.yaml"
    path.write_text(path.read_text().replace("{gpus: all}", "{gpus: some}"))
    with pytest.raises(ValueError, match=r"dvc.yaml: train_multi: meta.gpus: expected a number from 0 on, or all, got 'some'"):
        read_graph(project.folder)


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, Stage]:
    """Any graph without cycles, every stage after those it needs."""
    names = [f"s{number}" for number in range(draw(st.integers(1, 7)))]
    found = {}
    for number, name in enumerate(names):
        needs = draw(st.sets(st.sampled_from(names[:number]))) if number else set()
        found[name] = Stage(name, tuple(sorted(needs)), 0, ("changed",) if draw(st.booleans()) else ())
    return found


@given(graphs(), st.data())
def test_a_plan_is_what_following_the_edges_gives(graph: dict[str, Stage], data: st.DataObject) -> None:
    target = data.draw(st.sampled_from(sorted(graph)))

    def reaches(name: str, other: str) -> bool:
        return name == other or any(reaches(below, other) for below in graph[name].needs)

    assert needed(graph, [target]) == {name for name in graph if reaches(target, name)}
    assert dependents(graph, [target]) == {name for name in graph if reaches(name, target)}
    plan = make_plan(graph, [target])
    assert {stage.name for stage in plan.stages} == needed(graph, [target])
    wrong = {name for name in needed(graph, [target]) if any(graph[other].changes for other in graph if reaches(name, other))}
    assert plan.outdated == wrong


# stages as processes


def test_how_a_stage_ends(project: Repository) -> None:
    assert run(project, "report")[0] == "unchanged"
    set_params(project, train={"steps": 2})
    kind, said = run(project, "train_multi")
    assert kind == "ran"
    assert any(line.startswith("train multi: 2/2 steps") for line in said)
    set_params(project, train={"steps": 3})
    assert run(project, "train_multi")[0] == "cached"
    assert read_graph(project.folder)["train_multi"].changes == ()


def test_a_full_disk_leaves_a_state_from_which_the_same_command_goes_on(tmp_path: Path) -> None:
    """/dev/full answers every write as a full disk does."""
    project = make_project(tmp_path / "project")
    script = project.folder / "train.py"
    text = script.read_text()
    script.write_text(text.replace('for folder in ("models', 'open("checkpoints/room", "w").write("x" * 9999)\nfor folder in ("models'))
    run(project, "ingest@a")
    run(project, "ingest@b")
    (project.folder / "checkpoints").mkdir()
    (project.folder / "checkpoints/room").symlink_to("/dev/full")
    with pytest.raises(StageError, match=r"train_multi ended with exit code 1: OSError: \[Errno 28\] No space left") as error:
        run(project, "train_multi")
    assert error.value.again
    (project.folder / "checkpoints/room").unlink()
    _, said = run(project, "train_multi")
    assert not any(line.startswith("train multi:") for line in said)  # all steps were in its checkpoint
    assert (project.folder / "logs/multi/steps.txt").read_text() == "0 1 2 "
    assert read_graph(project.folder)["train_multi"].changes == ()


def test_a_stage_that_cannot_work_is_not_tried_again(tmp_path: Path) -> None:
    project = make_project(tmp_path / "project")
    (project.folder / "ingest.py").write_text("import sys\nprint('error: params.yaml: rows')\nsys.exit(2)")
    with pytest.raises(StageError, match="stage ingest@a ended with exit code 2") as error:
        run(project, "ingest@a")
    assert not error.value.again


def test_siblings_share_a_folder(tmp_path: Path) -> None:
    """DVC's lock is waited for: four DVC commands at once in one folder."""
    project = make_project(tmp_path / "project")
    stages = ["ingest@a", "ingest@b", "ingest@a", "ingest@b"]
    with ThreadPoolExecutor() as pool:
        kinds = sorted(kind for kind, _ in pool.map(lambda stage: run(project, stage), stages))
    assert kinds == ["ran", "ran", "unchanged", "unchanged"]
    graph = read_graph(project.folder)
    assert graph["ingest@a"].changes == graph["ingest@b"].changes == ()


SLEEPER = (
    "import subprocess, sys, time\n"
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'], start_new_session=True)\n"
    "time.sleep(300)"
)


def test_nothing_outlives_its_caller(tmp_path: Path) -> None:
    """Neither a child in a session of its own nor one that ignores SIGTERM, even where the caller is killed."""
    stubborn = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SLEEPER
    caller = (
        "import subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, '-I', {str(SUPERVISOR)!r}, sys.executable, '-c', {stubborn!r}], stdin=subprocess.PIPE)\n"
        "time.sleep(300)"
    )
    process = subprocess.Popen([sys.executable, "-c", caller], cwd=tmp_path, env={**os.environ, "HANDNET_STOP_SECONDS": "0.5"})
    wait_for(lambda: len(processes_in(tmp_path)) == 4, 30)
    process.kill()
    process.wait()
    wait_for(lambda: not processes_in(tmp_path), 20, lambda: str(processes_in(tmp_path)))


STUBBORN = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('sleeping', flush=True)\n" + SLEEPER


def test_no_stage_outlives_its_run_however_that_ends(tmp_path: Path) -> None:
    """The run is killed in a stage: DVC, the stage and its children end, and with them the workspace's lock."""
    project = make_project(tmp_path / "project")
    (project.folder / "ingest.py").write_text(STUBBORN)
    code = (
        "from pathlib import Path; from flows.processes import Processes; from flows.running import reproduce\n"
        "from flows.workspaces import workspace\n"
        "with workspace(Path.cwd(), None, wait=False, say=print) as space:\n"
        "    reproduce('ingest@a', space.folder, processes=Processes(), say=lambda line: print(line, flush=True), keep_open=(space.lock,))"
    )
    environment = {**project.environment, "PYTHONPATH": str(project.folder), "HANDNET_STOP_SECONDS": "1"}
    caller = subprocess.Popen([sys.executable, "-c", code], cwd=project.folder, env=environment, stdout=subprocess.PIPE, text=True)
    with caller:
        assert any(line == "sleeping\n" for line in caller.stdout)  # type: ignore[union-attr]
        wait_for(lambda: processes_in(project.folder, "time.sleep(300)"), 20)
        caller.kill()
        caller.wait()
        with pytest.raises(BusyError), workspace(project.folder, None, wait=False, say=print):
            pass
    with workspace(project.folder, None, wait=True, say=print):  # once the last of them has ended
        assert not processes_in(project.folder, "ingest.py")
        assert not processes_in(project.folder, "time.sleep(300)")
    wait_for(lambda: not processes_in(project.folder), 10, lambda: str(processes_in(project.folder)))


def test_stages_go_on_where_the_process_is_killed_that_forks_them(project: Repository) -> None:
    processes, said = Processes(), []
    try:
        for _ in range(2):
            assert reproduce("report", project.folder, processes=processes, say=said.append).kind == "unchanged"
            assert processes.preloaded is not None
            processes.preloaded.process.kill()
            processes.preloaded.process.wait()
    finally:
        processes.stop()


@pytest.mark.parametrize("value", ["soon", "-1", "nan"])
def test_a_time_to_stop_that_is_none_is_named(value: str) -> None:
    environment = {**os.environ, "HANDNET_STOP_SECONDS": value}
    command = [sys.executable, "-I", str(SUPERVISOR), "echo", "never"]
    result = subprocess.run(command, env=environment, stdin=subprocess.PIPE, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"error: HANDNET_STOP_SECONDS: expected seconds from 0 on, got {value!r}\n"


def test_stopping_gives_a_stage_time_to_save(project: Repository, tmp_path: Path) -> None:
    said: list[str] = []
    processes = Processes()
    code = (
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), pathlib.Path('saved').touch(), sys.exit(75)))\n"
        "print('ready', flush=True)\ntime.sleep(300)"
    )

    ended: list[int] = []
    arguments = ([sys.executable, "-c", code], tmp_path, processes, said.append, dict(os.environ), ())
    thread = threading.Thread(target=lambda: ended.append(follow(*arguments)[1]))
    thread.start()
    wait_for(lambda: said == ["ready"], 20)
    processes.stop()
    thread.join()
    assert ended == [75]
    assert (tmp_path / "saved").exists()
    with pytest.raises(StageError, match="was stopped"):  # and starts no other
        follow(*arguments)


# workspaces


def test_a_workspace_is_the_projects_state(project: Repository) -> None:
    folder = project.folder
    (folder / "note.txt").write_text("not committed")
    said: list[str] = []
    with workspace(folder, "mine", wait=False, say=said.append) as space:
        assert (space.folder / "note.txt").read_text() == "not committed"
        assert (space.folder / "params.yaml").read_text() == (folder / "params.yaml").read_text()
        assert make_plan(read_graph(space.folder), STAGES).outdated == frozenset()  # outs came from the cache
        with pytest.raises(BusyError, match="another run holds mine"), workspace(folder, "mine", wait=False, say=said.append):
            pass
        override(space.folder, ["train.error=0.7"])
        with pytest.raises(ValueError, match=r"overrides: .*train.eror"):
            override(space.folder, ["train.eror=0.7"])
        assert "0.7" not in (folder / "params.yaml").read_text()
        assert make_plan(read_graph(space.folder), STAGES).outdated == {"train_multi", "evaluate@multi", "report"}
        run(project, "train_multi", space.folder)
    (folder / "note.txt").unlink()
    with workspace(folder, "mine", wait=False, say=said.append) as space:
        assert not (space.folder / "note.txt").exists()
        override(space.folder, ["train.error=0.7"])
        assert "train_multi" not in {name for name, stage in read_graph(space.folder).items() if stage.changes}
    assert json.loads((folder / "models/multi/model.json").read_text())["error"] == 0.2
    assert git(folder, "status", "--porcelain", ".prefect") == ""


def test_workspaces_of_any_name_have_locks_of_their_own(project: Repository) -> None:
    """Not those by which a run keeps the project's folder, git's worktrees or DVC's experiments to itself."""
    with workspace(project.folder, None, wait=False, say=print), locked(shared_lock(project.folder, "server"), wait=False, say=print):
        for name in ("project", "server", "worktrees", "experiments"):
            assert lock_path(project.folder, name) != shared_lock(project.folder, name)
            with locked(lock_path(project.folder, name), wait=False, say=print):
                pass
        with workspace(project.folder, "project", wait=False, say=print) as space:
            assert space.folder == project.folder / ".prefect/workspaces/project"


def test_what_a_run_in_the_projects_folder_takes_away_is_not_copied(
    project: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the listing of files and their copying, as DVC removes outs before it runs their stage."""
    listed = workspaces.project_files(project.folder) | {"metrics/gone.json"}
    monkeypatch.setattr(workspaces, "project_files", lambda folder: listed if folder == project.folder else set())
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics/gone.json").write_text("of an earlier run")
    workspaces.copy_files(project.folder, tmp_path, keep=())
    assert not (tmp_path / "metrics/gone.json").exists()
    assert (tmp_path / "train.py").read_text() == (project.folder / "train.py").read_text()
    (project.folder / "metrics/gone.json").symlink_to("nowhere")
    try:
        assert list(read_figures(project.folder)) == ["multi"]
    finally:
        (project.folder / "metrics/gone.json").unlink()


def test_the_record_of_an_experiment_ends_with_its_run(tmp_path: Path) -> None:
    """Else DVC would go on in a workspace that is free for the next run. DVC's command is one that does not end."""
    project = make_project(tmp_path / "project")
    (tmp_path / "slow/dvc").mkdir(parents=True)
    (tmp_path / "slow/dvc/__init__.py").touch()
    (tmp_path / "slow/dvc/__main__.py").write_text("import time; time.sleep(300)")
    code = (
        "import os; from pathlib import Path; from flows.workspaces import save_experiment, workspace\n"
        "with workspace(Path.cwd(), 'mine', wait=False, say=print) as space:\n"
        f"    os.environ['PYTHONPATH'] = {str(tmp_path / 'slow')!r}\n"
        "    save_experiment(Path.cwd(), space, 'mine', 'message')"
    )
    environment = {**project.environment, "PYTHONPATH": str(project.folder)}
    caller = subprocess.Popen([sys.executable, "-c", code], cwd=project.folder, env=environment)
    wait_for(lambda: processes_in(project.folder, "--force"), 60)
    caller.kill()
    caller.wait()
    wait_for(lambda: not processes_in(project.folder, "--force"), 20, lambda: str(processes_in(project.folder)))


def test_stages_of_a_process_share_their_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that start at the same time."""
    monkeypatch.setattr(stages, "num_jobs", lambda: time.sleep(0.1) or 1)
    stages._job_slots.cache_clear()
    try:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: stages.job_slots(), range(8)))
        assert all(slots is found[0] for slots in found)
    finally:
        stages._job_slots.cache_clear()


def test_a_request_for_no_gpu_at_all() -> None:
    with pytest.raises(ValueError, match="max_gpus: expected a number from 1 on, got 0"):
        Request(max_gpus=0)


def test_a_lock_lasts_until_the_last_process_has_ended(project: Repository) -> None:
    with workspace(project.folder, None, wait=False, say=print) as space:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], pass_fds=[space.lock])
    try:
        with pytest.raises(BusyError), workspace(project.folder, None, wait=False, say=print):
            pass
    finally:
        child.kill()
        child.wait()
    with workspace(project.folder, None, wait=False, say=print) as space:
        assert space.folder == project.folder


def test_processes_in_finds_this_test() -> None:
    """The checks above would see a process that stayed."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], cwd="/tmp", start_new_session=True)
    try:
        time.sleep(0.2)
        assert any("time.sleep(60)" in " ".join(command) for command in processes_in(Path("/tmp")))
        assert psutil.pid_exists(child.pid)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
