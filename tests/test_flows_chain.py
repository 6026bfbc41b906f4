"""train-multi/local on the project's own stages: the tiny preset through a Prefect server and worker to completion, then again."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from flow_projects import Server, served, wait_for
from repositories import Repository, tiny_clone

from flows.graph import read_graph


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return tiny_clone(tmp_path_factory.mktemp("chain") / "a clone")


@pytest.fixture(scope="module")
def server(project: Repository) -> Iterator[Server]:
    with served(project) as running:
        yield running


def test_the_graph_is_that_of_dvc(project: Repository) -> None:
    """The commands that DVC documents print the same stages, edges and states as the flows read."""
    graph = read_graph(project.folder)
    edges = re.findall(r'^"(.+?)" -> "(.+?)";', project.dvc("dag", "--dot").stdout, flags=re.MULTILINE)
    assert {(needed, stage.name) for stage in graph.values() for needed in stage.needs} == set(edges)
    assert {stage.name for stage in graph.values() if stage.changes} == set(project.json("status"))
    assert graph["train_multi"].gpus == "all"
    assert graph["ingest@procedural"].gpus == 0


def test_the_whole_chain_by_its_deployment(server: Server) -> None:
    project = server.project
    stages = set(read_graph(project.folder))
    done = server.finished(server.start("train-multi/local"), seconds=900)
    assert done.state is not None
    assert done.state.is_completed(), done.state.message
    assert project.json("status") == {}
    assert json.loads((project.folder / "metrics/multi.json").read_text())["ours"]
    assert (project.folder / "reports/index.html").is_file()

    again = server.finished(server.start("train-multi/local"))
    assert again.total_run_time.total_seconds() < 20
    wait_for(lambda: server.states(again) == dict.fromkeys(stages, "Skipped"), 10, lambda: str(server.states(again)))
