"""Shared set-up: array shapes in annotations are checked under pytest, and nothing a test runs calls out or opens a window."""

from __future__ import annotations

import os
import signal

import pytest
from jaxtyping import install_import_hook

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.update(DVC_NO_ANALYTICS="1", DO_NOT_TRACK="1")
# A shell gives what it starts in the background SIGINT ignored, and Python keeps that; tests of Ctrl-C need it answered.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Several test processes share the cores: a second thread of each would mostly wait, and spin while it does.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Modules whose shapes are checked at every call; the others check their arguments themselves, with a ValueError, or are compiled by numba.
# This must come before anything imports handnet.
CHECKED = ["handnet.losses", "handnet.network", "handnet.centers", "handnet.task", "handnet.camera"]
install_import_hook(CHECKED, "beartype.beartype")


@pytest.fixture
def no_mano(monkeypatch, tmp_path):
    """A cache and a current folder of the test's own, and no MANO set."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("HANDNET_MANO", raising=False)
