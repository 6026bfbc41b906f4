"""Small training runs for tests: a project folder with tiny data, and the commands a person would type in it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

from fake_batches import with_boxes_as_mask
from fake_hands import make_crops, make_scenes, write_shards
from ruamel.yaml import YAML

from pipelines.config import load_params
from pipelines.mixtures.description import write_mixture, write_part

ROOT = Path(__file__).parents[1]
MADE = ("models", "logs", "checkpoints")


def make_project(folder: Path, **changes) -> Path:
    """Data with masks, scenes without any hand among them, and params.yaml: the tiny preset with some changes in both stages."""
    for split, seed in (("train", 0), ("eval", 1)):
        write_shards(folder / f"data/ingest/procedural/{split}", [with_boxes_as_mask(s) for s in make_crops(8, seed)])
        write_shards(folder / f"data/scenes/{split}", [with_boxes_as_mask(s) for s in make_scenes(8, seed)])
    small = {"steps": 12, "batch_size": 4, "checkpoint_every": 4, "log_every": 1, "input_px": 64, "validate_every": 0}
    write_params(folder, YAML(typ="safe", pure=True).load((ROOT / "pipelines/presets/tiny.yaml").read_text()))
    change_params(folder, **{**small, **changes})
    describe_mixtures(folder)
    return folder


def describe_mixtures(folder: Path) -> None:
    """What the stages before training leave in data/mixtures."""
    params = load_params(folder / "params.yaml")
    before = Path.cwd()
    os.chdir(folder)
    try:
        for stage in ("crop", "multi"):
            parts = getattr(params.train, stage).data
            for name, part in parts.items():
                write_part(stage, name, part)
            write_mixture(stage, parts)
    finally:
        os.chdir(before)


def write_params(folder: Path, tree: dict) -> None:
    with (folder / "params.yaml").open("w") as stream:
        YAML().dump(tree, stream)


def change_params(folder: Path, **changes) -> None:
    """Change keys of both stages, those of the loss by `loss={...}`."""
    tree = YAML(typ="safe", pure=True).load((folder / "params.yaml").read_text())
    for stage in ("crop", "multi"):
        section = tree["train"][stage]
        section |= {name: {**section[name], **value} if isinstance(value, dict) else value for name, value in changes.items()}
    write_params(folder, tree)


def copy_project(source: Path, folder: Path) -> Path:
    """The project without what training made."""
    shutil.copytree(source, folder, ignore=lambda path, names: [n for n in names if n in MADE and Path(path) == source])
    return folder


def environment(**variables: str) -> dict[str, str]:
    """Of a command: one thread, no loader processes."""
    python_path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    base = {**os.environ, "PYTHONPATH": python_path, "HANDNET_LOADER_WORKERS": "0", "OMP_NUM_THREADS": "1"}
    return {**{name: value for name, value in base.items() if name != "HANDNET_DEVICE_BATCH"}, **variables}


def start(folder: Path, stage: str, **variables: str) -> subprocess.Popen:
    """`python -m pipelines.train STAGE` as the first process of a group of its own."""
    command = [sys.executable, "-m", "pipelines.train", stage]
    out = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment(**variables), start_new_session=True, **out)


def train(folder: Path, stage: str, **variables: str) -> subprocess.CompletedProcess:
    process = start(folder, stage, **variables)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


class Forks:
    """Starts `pipelines.train` again and again at the price of one import; a context."""

    def __enter__(self) -> Forks:
        script = str(Path(__file__).with_name("training_forks.py"))
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._server = subprocess.Popen([sys.executable, script], env=environment(), **pipes)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.communicate(timeout=60)

    def ask(self, **job: object) -> int | None:
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def start(self, folder: Path, stage: str, **variables: str) -> Fork:
        out = folder.with_name(f"{folder.name}-output-{uuid.uuid4().hex}")
        return Fork(self, self.ask(folder=str(folder), stage=stage, environment=variables, out=str(out)), out)

    def start_group(self, folder: Path, stage: str, num: int) -> list[Fork]:
        """One process, or `num` that are told what torchrun would tell them."""
        if num == 1:
            return [self.start(folder, stage)]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            world = {"WORLD_SIZE": num, "LOCAL_WORLD_SIZE": num, "MASTER_PORT": free.getsockname()[1], "MASTER_ADDR": "127.0.0.1"}
        world |= {"TORCHELASTIC_RUN_ID": "test"}
        return [
            self.start(folder, stage, **{name: str(value) for name, value in {**world, "RANK": rank, "LOCAL_RANK": rank}.items()})
            for rank in range(num)
        ]

    def train(self, folder: Path, stage: str, num: int = 1) -> str:
        """To the end, without an error; what was said."""
        forks = self.start_group(folder, stage, num)
        codes = [fork.wait() for fork in forks]
        said = "\n".join(fork.said() for fork in forks)
        assert codes == [0] * num, said
        return said


class Fork:
    """A process that Forks started; `code` is its exit code once it has ended, minus the signal's number if it was killed."""

    def __init__(self, forks: Forks, pid: int, out: Path):
        self.forks, self.pid, self.out = forks, pid, out
        self.code: int | None = None

    def poll(self) -> int | None:
        if self.code is None:
            self.code = self.forks.ask(ended=self.pid)
        return self.code

    def wait(self, timeout_s: float = 300) -> int:
        deadline = time.monotonic() + timeout_s
        while self.poll() is None:
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.01)
        return self.code

    def said(self) -> str:
        return self.out.read_text()


def curve(folder: Path, stage: str, term: str = "loss") -> list[float]:
    rows = (folder / f"logs/{stage}/plots/metrics/train/{term}.tsv").read_text().splitlines()
    place = rows[0].split("\t").index(term)
    return [float(row.split("\t")[place]) for row in rows[1:]]


def without_time(path: Path) -> bytes:
    """A file's bytes, a table without the times it was written at."""
    if path.suffix != ".tsv":
        return path.read_bytes()
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    keep = [i for i, name in enumerate(rows[0]) if name != "timestamp"]
    return "\n".join("\t".join(row[i] for i in keep) for row in rows).encode()
