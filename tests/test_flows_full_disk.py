"""A disk that is full while DVC records what a stage made: afterwards the same command goes on, and nothing is made twice or lost."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from flow_projects import make_project
from repositories import Repository

from flows.graph import read_graph
from flows.processes import Processes, UnkeptError
from flows.running import keep, reproduce

# in a namespace of its own: a file system with so many free pages, on which a stage is run, then again with room
IN_LITTLE_ROOM = """
import json, os, shutil, subprocess, sys
from pathlib import Path
from flows.graph import read_graph
from flows.processes import Processes, StageError
from flows.running import keep, reproduce

project, place, stage, *rooms = sys.argv[1:]
place, processes = Path(place), Processes()
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", place], check=True)
for pages in map(int, rooms):
    folder, fill = place / f"of-{pages}", place / "fill"
    shutil.copytree(project, folder)
    read_graph(folder)
    fill.write_bytes(b"x" * 4096 * (os.statvfs(place).f_bavail - pages))
    tries = []
    for _ in range(2):
        said = []
        try:
            tries.append(reproduce(stage, folder, processes=processes, say=said.append).kind)
        except StageError as error:
            tries.append(str(error))
        steps = sum(line.startswith("train multi:") for line in said)
        fill.unlink(missing_ok=True)
        for other in read_graph(folder).values():
            if other.unkept:
                keep(other.name, folder, processes=processes, say=said.append)
    changed = sorted(name for name, other in read_graph(folder).items() if other.changes)
    print(json.dumps({"pages": pages, "tries": tries, "steps": steps, "changed": changed}), flush=True)
    shutil.rmtree(folder)
processes.stop()
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return make_project(tmp_path_factory.mktemp("full") / "project")


def in_little_room(project: Repository, tmp_path: Path, stage: str, rooms: list[int]) -> list[dict]:
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*unshare, "mount", "-t", "tmpfs", "none", tmp_path]).returncode != 0:
        pytest.skip("this machine lets nobody mount a small file system of his own")
    environment = {**project.environment, "PYTHONPATH": str(project.folder)}
    command = [*unshare, sys.executable, "-c", IN_LITTLE_ROOM, str(project.folder), str(tmp_path), stage, *map(str, rooms)]
    result = subprocess.run(command, cwd=tmp_path.parent, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]


def test_records_that_cannot_be_written_are_not_emptied(project: Repository, tmp_path: Path) -> None:
    """Both DVC's file of locks and dvc.lock would be, and no command would work any more."""
    found = in_little_room(project, tmp_path, "ingest@a", [1, 2, 3, 4])
    assert len(found) == 4
    for result in found:
        first, second = result["tries"]
        assert "No space left on device" in first, result
        assert second in ("ran", "cached"), result
        assert "ingest@a" not in result["changed"], result


def test_training_that_could_not_be_cached_is_not_repeated(project: Repository, tmp_path: Path) -> None:
    project.dvc("repro", "ingest")
    found = in_little_room(project, tmp_path, "train_multi", [5, 7])
    assert len(found) == 2
    for result in found:
        first, second = result["tries"]
        assert "could not put its outs into its cache" in first, result
        assert (second, result["steps"]) == ("unchanged", 0), result


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    """DVC says so, goes on, and would make the outs again: here they wait for the cache. Nobody can write in /proc."""
    project = make_project(tmp_path / "project")
    text = "row\n" * 3
    folder = f".dvc/cache/files/md5/{hashlib.md5(text.encode()).hexdigest()[:2]}"
    obstacle = project.folder / folder
    obstacle.parent.mkdir(parents=True)
    obstacle.symlink_to("/proc")
    processes, said = Processes(), []
    try:
        with pytest.raises(UnkeptError, match=r"^stage ingest@a ran, but DVC could not put its outs into its cache, .*: \[Errno") as error:
            reproduce("ingest@a", project.folder, processes=processes, say=said.append)
        assert not error.value.again
        graph = read_graph(project.folder)
        assert [name for name, stage in graph.items() if stage.unkept] == ["ingest@a"]
        with pytest.raises(UnkeptError):
            keep("ingest@a", project.folder, processes=processes, say=said.append)
        obstacle.unlink()
        keep("ingest@a", project.folder, processes=processes, say=said.append)
        assert not read_graph(project.folder)["ingest@a"].changes
        assert reproduce("ingest@a", project.folder, processes=processes, say=said.append).kind == "unchanged"
    finally:
        processes.stop()


WRITES = """
import resource, sys
from pathlib import Path
from flows.whole_files import written_whole
path, limit = Path(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
with written_whole(path) as out:
    out.write("new " * 100)
"""


@pytest.mark.parametrize(("limit", "expected"), [(100, "old"), (400, "new " * 100)])
def test_a_file_is_written_whole_or_stays(tmp_path: Path, limit: int, expected: str) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "file").chmod(0o640)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", WRITES, str(tmp_path / "file"), str(limit)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (result.returncode == 0) == (expected != "old"), result.stderr
    assert (tmp_path / "file").read_text() == expected
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
