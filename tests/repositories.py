"""A temporary clone of this repository, and the commands a person would type in it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


class Repository:
    """A temporary clone, and the commands a person would type in it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = {
            **os.environ,
            # the stage commands say `python`: the interpreter that runs the tests
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(folder.parent / "site-cache"),
            "GIT_AUTHOR_NAME": "test",
            "GIT_AUTHOR_EMAIL": "test@localhost",
            "GIT_COMMITTER_NAME": "test",
            "GIT_COMMITTER_EMAIL": "test@localhost",
            "COLUMNS": "200",
            "OMP_NUM_THREADS": "1",  # the tiny networks are no work for more
        }
        self.environment.pop("PYTHONPATH", None)

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=1800)
        if check and result.returncode != 0:
            pytest.fail(f"{' '.join(command)}: exit code {result.returncode}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}")
        return result

    def git(self, *arguments: str) -> str:
        return self.run("git", *arguments).stdout

    def dvc(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "dvc", *arguments, check=check)

    def json(self, *arguments: str) -> Any:
        return json.loads(self.dvc(*arguments, "--json").stdout)


def stages_run(output: str) -> list[str]:
    return re.findall(r"^Running stage '([^']+)'", output, flags=re.MULTILINE)


def queue_runs(repository: Repository, names: Iterable[str], within_s: float = 900) -> None:
    """`dvc queue start`, until all of these queued experiments are done; fails with their logs if one does not succeed."""
    names = list(names)
    repository.dvc("queue", "start", "--jobs", "1")
    deadline = time.monotonic() + within_s
    while True:
        status = repository.dvc("queue", "status").stdout
        ended = {name: word for name in names for word in re.findall(rf"\b{re.escape(name)}\b.*\b(Success|Failed)\b", status)}
        if len(ended) == len(names):
            break
        assert time.monotonic() < deadline, status
        time.sleep(3)  # asking takes a second of the machine
    if "Failed" in ended.values():
        pytest.fail("".join(repository.dvc("queue", "logs", name, check=False).stdout[-3000:] for name in names))


def tiny_clone(folder: Path, changes: Mapping[str, str] | None = None) -> Repository:
    """A clone on the tiny preset, committed, nothing run. changes: text of params.yaml to replace, wherever it stands."""
    repository = clone(folder)
    repository.run(sys.executable, "-m", "pipelines.preset", "tiny", "--force")
    params = folder / "params.yaml"
    text = params.read_text()
    for old, new in (changes or {}).items():
        assert old in text, old
        text = text.replace(old, new)
    params.write_text(text)
    repository.git("add", "--all")
    repository.git("commit", "--quiet", "--message=Start")
    return repository


def clone(folder: Path) -> Repository:
    """A new repository holding what git would commit here, with nothing committed yet."""
    folder.mkdir()
    listing = subprocess.run(["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listing.split("\0")):
        # the reference run's results are the demo's, not this preset's
        if name == "dvc.lock" or name.startswith("metrics/") or not (ROOT / name).is_file():
            continue
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target)
    # numba's compiled kernels come along, or most of this test's time would be the compiler's
    for kernel in [path for top in ("handnet", "pipelines") for path in (ROOT / top).rglob("__pycache__/*.nb[ic]")]:
        target = folder / kernel.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(kernel, target)
    repository = Repository(folder)
    repository.git("init", "--quiet", "--initial-branch=main")
    return repository
