"""A Dask cluster that lives as long as a run, of the class that the environment names, and what is said to wrong settings.

test_cluster_server.py has one that a flow starts, whose workers do the work of a stage.
"""

from __future__ import annotations

import os

import pytest
from distributed import Client

from flows.dask_cluster import dask_cluster


@pytest.fixture(autouse=True)
def _nothing_named(monkeypatch):
    for name in ("HANDNET_DASK_SCHEDULER", "HANDNET_DASK_CLUSTER", "HANDNET_DASK_CLUSTER_OPTIONS"):
        monkeypatch.delenv(name, raising=False)


def test_a_cluster_of_the_class_that_is_named(monkeypatch):
    monkeypatch.setenv("HANDNET_DASK_CLUSTER", "distributed.LocalCluster")
    options = '{"n_workers": 0, "threads_per_worker": 1, "processes": false, "protocol": "tcp://", "dashboard_address": null}'
    monkeypatch.setenv("HANDNET_DASK_CLUSTER_OPTIONS", options)
    said: list[str] = []
    with dask_cluster(2, said.append) as variables:
        address = variables["HANDNET_DASK_SCHEDULER"]
        assert said == [f"started a Dask cluster of 2 workers: {address}"]
        with Client(address, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=30)
            assert client.submit(os.getpid).result() == os.getpid()  # `processes: false` came through
    with pytest.raises(OSError, match="Timed out"):
        Client(address, timeout=1, set_as_default=False)


def test_none_is_started_where_none_is_asked_for_or_one_is_there(monkeypatch):
    said: list[str] = []
    with dask_cluster(None, said.append) as variables:
        assert variables == {}
    assert said == []
    monkeypatch.setenv("HANDNET_DASK_SCHEDULER", "tcp://there:8786")
    with dask_cluster(2, said.append) as variables:
        assert variables == {}
    assert said == ["HANDNET_DASK_SCHEDULER names a Dask cluster: tcp://there:8786; none is started"]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"HANDNET_DASK_CLUSTER": "LocalCluster"}, "HANDNET_DASK_CLUSTER: expected the dotted name of a class of Dask clusters, got"),
        ({"HANDNET_DASK_CLUSTER": "distributed.NoCluster"}, "HANDNET_DASK_CLUSTER: expected the dotted name"),
        ({"HANDNET_DASK_CLUSTER_OPTIONS": "{"}, "HANDNET_DASK_CLUSTER_OPTIONS: expected a JSON object, got text that is none"),
        ({"HANDNET_DASK_CLUSTER_OPTIONS": "[]"}, "HANDNET_DASK_CLUSTER_OPTIONS: expected a JSON object, got list"),
    ],
)
def test_wrong_settings_are_named(monkeypatch, settings, text):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=text), dask_cluster(1, print):
        pass


def test_no_cluster_has_no_workers():
    with pytest.raises(ValueError, match="dask_workers: expected a number from 1 on, got 0"), dask_cluster(0, print):
        pass
