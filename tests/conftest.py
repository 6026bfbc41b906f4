"""Shared set-up: array shapes in annotations are checked under pytest, and nothing a test runs calls out or opens a window."""

from __future__ import annotations

import os
import signal
import threading

import pytest
from jaxtyping import install_import_hook

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.update(DVC_NO_ANALYTICS="1", DO_NOT_TRACK="1")
# A shell gives what it starts in the background SIGINT ignored, and Python keeps that; tests of Ctrl-C need it answered.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Several test processes share the cores: a second thread of each would mostly wait, and spin while it does.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def _forget_prefect_services() -> None:
    """In a forked process, such as a loader's: what Prefect does at exit looks for threads of this one, fails, and makes the status 1."""
    calls = threading._threading_atexits  # type: ignore[attr-defined]
    calls[:] = [call for call in calls if not (call.func.__module__ or "").startswith("prefect.")]


os.register_at_fork(after_in_child=_forget_prefect_services)

# Files that start servers, clusters or whole chains, longest first: they mostly wait, so the many short ones run beside them.
LONG = (
    "test_flows_chain",
    "test_experiments_e2e",
    "test_flows",
    "test_cluster_server",
    "test_pipeline_e2e",
    "test_training",
    "test_cluster_nodes",
    "test_datasets_e2e",
    "test_pipeline_e2e_datasets",
    "test_training_parts",
    "test_experiments_ablate",
    "test_flows_full_disk",
    "test_report",
    "test_report_browser",
    "test_executors_cluster",
)

# Modules whose shapes are checked at every call; the others check their arguments themselves, with a ValueError, or are compiled by numba.
# This must come before anything imports handnet.
CHECKED = ["handnet.losses", "handnet.network", "handnet.centers", "handnet.task", "handnet.camera"]
install_import_hook(CHECKED, "beartype.beartype")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files first; within a file the order stays."""
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


@pytest.fixture
def no_mano(monkeypatch, tmp_path):
    """A cache and a current folder of the test's own, and no MANO set."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("HANDNET_MANO", raising=False)
