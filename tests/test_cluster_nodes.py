"""Several nodes train one model through the stage's plain command: two of them on this machine, and what is said to a wrong set-up."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from training_runs import curve, environment, make_project, start

from pipelines.training.nodes import Nodes, nodes, wait_for_first

STEPS = 3


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
