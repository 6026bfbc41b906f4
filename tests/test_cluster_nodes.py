"""Several nodes train one model through the stage's plain command: two of them on this machine, and what is said to a wrong set-up."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from training_runs import ROOT, curve, environment, make_project, start

from flows.checkout import checkout
from flows.workspaces import git, lock_path, locked
from pipelines.training.nodes import Nodes, nodes, wait_for_first

STEPS = 3
GRAPH = """
stages:
  train:
    cmd: echo node $HANDNET_NODE_RANK trains > made
    outs: [made]
  long:
    cmd: trap 'echo saved > state; exit 75' TERM; echo begun > state; while true; do sleep 0.1; done
    outs: [never]
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("nodes") / "project"
    return make_project(folder, steps=STEPS, batch_size=4, input_px=32, loss={"render_images": 2})


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def as_node(rank: int, port: int, count: int = 2) -> dict[str, str]:
    return {"HANDNET_NODES": str(count), "HANDNET_NODE_RANK": str(rank), "HANDNET_RENDEZVOUS": f"127.0.0.1:{port}"}


def test_two_nodes_train_one_model(project):
    """That two processes train what one does, test_training_parts.py holds."""
    port = free_port()
    second = start(project, "crop", HANDNET_DEVICES="1", **as_node(1, port))  # it waits for the first
    first = start(project, "crop", HANDNET_DEVICES="1", **as_node(0, port))
    out, err = first.communicate(timeout=240)
    out_of_second, err_of_second = second.communicate(timeout=60)
    assert first.returncode == 0, err
    assert second.returncode == 0, err_of_second
    assert "wrote models/crop" in out
    assert "wrote" not in out_of_second  # it had a part of every batch, and writes nothing
    assert len(curve(project, "crop")) == STEPS
    assert (project / "models/crop/model.safetensors").exists()


def test_a_node_that_waits_in_vain_can_be_stopped():
    here = f"Nodes(2, 1, '127.0.0.1:{free_port()}')"
    code = f"from pipelines.training.nodes import *; print('waits', flush=True); wait_for_first({here}, 900)"
    process = subprocess.Popen([sys.executable, "-c", code], env=environment(), stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "waits\n"
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == -signal.SIGTERM


def test_waiting_ends_with_a_reason():
    port = free_port()
    with pytest.raises(TimeoutError, match=rf"HANDNET_RENDEZVOUS: node 0 does not listen at 127\.0\.0\.1:{port}"):
        wait_for_first(Nodes(2, 1, f"127.0.0.1:{port}"), 0)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"HANDNET_NODES": "two"}, "HANDNET_NODES: expected a whole number from 1 on, got 'two'"),
        ({"HANDNET_NODES": "2"}, "HANDNET_NODE_RANK: expected beside HANDNET_NODES=2, got nothing"),
        ({"HANDNET_NODES": "2", "HANDNET_NODE_RANK": "0"}, "HANDNET_RENDEZVOUS: expected beside HANDNET_NODES=2, got nothing"),
        (
            {"HANDNET_NODES": "2", "HANDNET_NODE_RANK": "2", "HANDNET_RENDEZVOUS": "a:1"},
            "HANDNET_NODE_RANK: expected a number below HANDNET_NODES=2, got 2",
        ),
        (
            {"HANDNET_NODES": "2", "HANDNET_NODE_RANK": "1", "HANDNET_RENDEZVOUS": "host"},
            "HANDNET_RENDEZVOUS: expected HOST:PORT of node 0, got 'host'",
        ),
    ],
)
def test_a_wrong_environment_is_named(monkeypatch, settings, text):
    for name in ("HANDNET_NODES", "HANDNET_NODE_RANK", "HANDNET_RENDEZVOUS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=text):
        nodes()


def test_one_node_needs_nothing_said(monkeypatch):
    monkeypatch.delenv("HANDNET_NODES", raising=False)
    assert nodes() == Nodes(1, 0, "")


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """A DVC project with one stage, whose command says which node it is, and its folder after two commits."""
    folder = tmp_path_factory.mktemp("workspace") / "project"
    folder.mkdir()
    (folder / "dvc.yaml").write_text(GRAPH)
    git(folder, "init", "--quiet", "--initial-branch=main")
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], cwd=folder, check=True)
    commit(folder, "start")
    return folder


def commit(folder: Path, message: str, what: str = "--all") -> None:
    git(folder, "add", what)
    git(folder, "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "--quiet", "--message", message)


def on_node(folder: Path, rank: int, stage: str = "train") -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "flows.node", stage]
    with Path("/dev/null").open() as nothing:  # as a pod's input is
        variables = environment(**as_node(rank, 1))
        return subprocess.run(command, cwd=folder, env=variables, stdin=nothing, capture_output=True, text=True, timeout=120)


def test_a_stage_goes_through_dvc_on_the_first_node_only(repository):
    result = on_node(repository, 1)
    assert result.returncode == 0, result.stderr
    assert (repository / "made").read_text() == "node 1 trains\n"
    assert not (repository / "dvc.lock").exists()
    result = on_node(repository, 0)
    assert result.returncode == 0, result.stderr
    assert (repository / "made").read_text() == "node 0 trains\n"
    assert "train:" in (repository / "dvc.lock").read_text()
    again = on_node(repository, 0)
    assert "Stage 'train' didn't change, skipping" in again.stdout


@pytest.mark.parametrize("rank", [0, 1])
def test_a_node_that_is_stopped_saves_its_state(repository, rank):
    """As a pod is stopped: a signal to the one process that the container knows."""
    command = [sys.executable, "-m", "flows.node", "long"]
    state = repository / "state"
    state.unlink(missing_ok=True)
    with Path("/dev/null").open() as nothing:
        process = subprocess.Popen(command, cwd=repository, env=environment(**as_node(rank, 1)), stdin=nothing, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (state.exists() and state.read_text() == "begun\n"):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) != 0
    assert state.read_text() == "saved\n"


def test_a_container_ends_after_all_that_its_command_started(tmp_path):
    """The command itself ends at the first signal; what it left running has a state to save."""
    slow = "trap 'sleep 1; echo saved > state; exit 75' TERM; echo begun > state; while true; do sleep 0.1; done"
    command = [sys.executable, "-I", str(ROOT / "flows/contain.py"), "sh", "-c", f'sh -c "{slow}" & sleep 100']
    with Path("/dev/null").open() as nothing:
        process = subprocess.Popen(command, cwd=tmp_path, stdin=nothing)
    deadline = time.monotonic() + 60
    while not ((tmp_path / "state").exists() and (tmp_path / "state").read_text() == "begun\n"):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)
    assert (tmp_path / "state").read_text() == "saved\n"
    with Path("/dev/null").open() as nothing:  # and a command's exit code is the container's
        assert subprocess.run([*command[:3], "sh", "-c", "sleep 0.3; exit 7"], stdin=nothing).returncode == 7


def test_the_first_node_does_not_share_the_workspace(repository):
    with locked(lock_path(repository, None), wait=False, say=print):
        result = on_node(repository, 0)
    assert result.returncode == 2
    assert result.stderr == f"error: another run holds {repository}\n"
    assert "expected one stage of dvc.yaml, got 'walk'" in on_node(repository, 1, "walk").stderr


def test_the_project_on_a_volume_follows_the_image(repository, tmp_path):
    image, volume = tmp_path / "image", tmp_path / "volume/project"
    git(repository, "clone", "--quiet", "--depth", "1", repository.as_uri(), str(image))
    first = checkout(image, volume)
    assert git(volume, "rev-parse", "HEAD").strip() == first
    (volume / "dvc.lock").write_text("of a run\n")
    (volume / ".dvc/cache").mkdir()
    (volume / "dvc.yaml").write_text("edited\n")
    assert checkout(image, volume) == first
    assert (volume / "dvc.yaml").read_text() == "edited\n"  # the same commit: nothing to do

    (repository / "params.yaml").write_text("x: 1\n")
    commit(repository, "new params", "params.yaml")
    newer = tmp_path / "newer image"
    git(repository, "clone", "--quiet", "--depth", "1", repository.as_uri(), str(newer))
    with ThreadPoolExecutor() as pool:
        with locked(lock_path(volume, None), wait=False, say=print):  # as long as a run works there
            waiting = pool.submit(checkout, newer, volume)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=1)
            assert git(volume, "rev-parse", "HEAD").strip() == first
        second = waiting.result(timeout=60)
    assert second != first
    assert (volume / "params.yaml").read_text() == "x: 1\n"
    assert (volume / "dvc.lock").read_text() == "of a run\n"
    assert (volume / ".dvc/cache").exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").touch()
    with pytest.raises(ValueError, match="expected a clone of the project, or no such folder, got one with other files"):
        checkout(newer, other)
