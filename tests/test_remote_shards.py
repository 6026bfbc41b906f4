"""Shards behind real URLs on loopback: HTTP with ranges and S3, the cache of this machine, what goes wrong, and training from there."""

import fcntl
import http.server
import json
import multiprocessing
import os
import pickle
import re
import shutil
import threading
import time
from pathlib import Path
from typing import ClassVar

import boto3
import numpy as np
import pytest
from fake_hands import make_crops, mixture_of, write_shards
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import _registry
from moto.server import ThreadedMotoServer
from test_training_mixture import set_data
from training_runs import change_params, copy_project, curve, describe_mixtures, make_project

from pipelines.config import ParamsError, load_params
from pipelines.config_mixture import RemoteConfig
from pipelines.loading import training_loader
from pipelines.mixtures.description import facts_of
from pipelines.remote_shards import storage
from pipelines.remote_shards.reader import RemoteShardReader
from pipelines.shards import ShardError, ShardReader
from pipelines.training.batches import TrainingBatches
from pipelines.training.sequence import ImageSequence
from pipelines.training.stage import train_stage

NUM, PER_SHARD = 40, 7  # 6 shards, the last one smaller


class Files(http.server.SimpleHTTPRequestHandler):
    """A folder over HTTP with byte ranges; counts what is asked for, and fails where it is told to."""

    asked: ClassVar[list[str]] = []
    failing: ClassVar[dict[str, int]] = {}

    def do_GET(self):
        Files.asked.append(self.path)
        if Files.failing.get(self.path):
            Files.failing[self.path] -= 1
            self.send_error(503)
            return
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start, end = (int(found[1]), int(found[2] or len(data) - 1)) if found else (0, len(data) - 1)
        part = data[start : end + 1]
        self.send_response(206 if found else 200)
        self.send_header("Accept-Ranges", "bytes")
        if found:
            self.send_header("Content-Range", f"bytes {start}-{start + len(part) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The folder that is served."""
    return write_shards(tmp_path_factory.mktemp("served") / "hands", make_crops(NUM, seed=2, size_px=64))


@pytest.fixture(scope="module")
def http_url(folder):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *a: Files(*a, directory=str(folder.parent)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hands"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def s3_url(folder):
    with pytest.MonkeyPatch.context() as patch:
        server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        variables = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        for name, value in {**variables, "AWS_DEFAULT_REGION": "us-east-1"}.items():
            patch.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="data")
        for path in folder.iterdir():
            client.upload_file(str(path), "data", f"some/hands/{path.name}")
        yield "s3://data/some/hands"
        server.stop()


@pytest.fixture
def gs_url(folder, monkeypatch) -> str:
    """What gcsfs is to fsspec, with the folder for a bucket."""

    class Bucket(LocalFileSystem):
        protocol = "gs"
        cachable = False

        @classmethod
        def _strip_protocol(cls, path):
            return super()._strip_protocol(str(path).replace("gs://data/some", str(folder.parent)))

    monkeypatch.setitem(_registry, "gs", Bucket)
    return "gs://data/some/hands"


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HANDNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(storage, "FIRST_PAUSE_S", 0.01)
    Files.asked.clear()
    Files.failing.clear()
    return tmp_path / "cache" / "shards"


@pytest.mark.parametrize("kind", ["http", "s3", "gs"])
def test_every_sample_is_that_of_the_folder(folder, kind, request, cache):
    url = request.getfixturevalue(f"{kind}_url")
    local, remote = ShardReader(folder), RemoteShardReader(url)
    assert len(remote) == NUM
    for index in (39, 0, 13, 38):
        a, b = local.read(index, labels_3d=True), remote.read(index, labels_3d=True)
        assert a.key == b.key == remote.key(index)
        assert (a.image == b.image).all()
        np.testing.assert_array_equal(a.hands[0].vertices_m, b.hands[0].vertices_m)
    assert len(list(cache.glob("*.tar"))) == 3  # only the shards that were asked for
    remote.verify()
    assert sorted(path.stem for path in cache.glob("*.tar")) == sorted(entry.sha256 for entry in local.manifest.shards)
    assert not list(cache.glob("*.partial"))
    assert facts_of(url).manifest_sha256 == facts_of(str(folder)).manifest_sha256


def test_a_shard_is_fetched_once_for_all_processes(http_url, cache):
    context = multiprocessing.get_context("fork")
    results = context.Queue()

    def read():
        results.put(RemoteShardReader(http_url).read(3, labels_3d=False).key)

    processes = [context.Process(target=read) for _ in range(4)]
    for process in processes:
        process.start()
    assert len({results.get(timeout=60) for _ in processes}) == 1
    for process in processes:
        process.join()
    (entry, *_) = RemoteShardReader(http_url).manifest.shards
    assert Files.asked.count(f"/hands/{entry.name}") * storage.CHUNK_BYTES < 4 * storage.CHUNK_BYTES


def test_the_cache_keeps_to_its_limit_and_what_is_open_stays_readable(http_url, folder, cache, monkeypatch):
    sizes = [entry.bytes for entry in ShardReader(folder).manifest.shards]
    monkeypatch.setenv("HANDNET_CACHE_GIB", str((sizes[0] * 2.5) / 2**30))
    remote = RemoteShardReader(http_url)
    for index in range(0, NUM, PER_SHARD):
        remote.read(index, labels_3d=False)
        time.sleep(0.01)
    assert sum(path.stat().st_size for path in cache.glob("*.tar")) <= sizes[0] * 2.5
    assert remote.manifest.shards[-1].sha256 in {path.stem for path in cache.glob("*.tar")}  # the last one used stays
    assert remote.read(0, labels_3d=False).key == remote.key(0)  # let go of in the cache, still open here
    before = len(Files.asked)
    assert RemoteShardReader(http_url).read(0, labels_3d=False).key == remote.key(0)  # fetched again
    assert len(Files.asked) > before + 1


def test_a_damaged_shard_is_refused(folder, http_url, cache):
    entry = ShardReader(folder).manifest.shards[1]
    path = folder / entry.name
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:5000] + b"x" + whole[5001:])
        with pytest.raises(ShardError, match=rf"^{http_url}/{entry.name}: expected sha256 {entry.sha256} as manifest\.json says, got "):
            RemoteShardReader(http_url).read(PER_SHARD, labels_3d=False)
        path.write_bytes(whole[:-512])
        with pytest.raises(ShardError, match=rf"{entry.name}: expected {entry.bytes} bytes as manifest\.json says, got "):
            RemoteShardReader(http_url).read(PER_SHARD, labels_3d=False)
        path.unlink()
        with pytest.raises(ShardError, match=rf"^{http_url}/{entry.name}: not found$"):
            RemoteShardReader(http_url).read(PER_SHARD, labels_3d=False)
    finally:
        path.write_bytes(whole)
    assert not list(cache.iterdir()) or not list(cache.glob("*tar*"))  # nothing of it stays
    assert RemoteShardReader(http_url).read(PER_SHARD, labels_3d=False).key == f"{PER_SHARD:06d}"


def test_a_server_that_fails_is_asked_again(folder, http_url, cache):
    name = ShardReader(folder).manifest.shards[0].name
    Files.failing[f"/hands/{name}"] = 1
    assert RemoteShardReader(http_url).read(0, labels_3d=False).key == "000000"
    Files.failing["/hands/manifest.json"] = 100
    with pytest.raises(ShardError, match=r"manifest\.json: cannot be read after 3 attempts: ClientResponseError 503") as error:
        RemoteShardReader(http_url)
    assert "\n" not in str(error.value)


def test_what_is_missing_is_said_in_one_line(http_url, s3_url, cache, monkeypatch):
    for url, message in (
        (http_url.replace("/hands", "/nothing"), r"/nothing/manifest\.json: not found$"),
        ("s3://data/nothing", r"^s3://data/nothing/manifest\.json: not found$"),
        ("s3://nobody/nothing", r"^s3://nobody/nothing/manifest\.json: not found$"),
        ("gs://bucket/hands", r"^gs://bucket/hands/manifest\.json: gs:// needs a package: pip install gcsfs"),
        ("http://127.0.0.1:9/hands", r"cannot be read after 3 attempts: ClientConnectorError"),
    ):
        with pytest.raises(ShardError, match=message) as error:
            RemoteShardReader(url)
        assert "\n" not in str(error.value)
    monkeypatch.setenv("HANDNET_CACHE_GIB", "-1")
    with pytest.raises(ValueError, match="HANDNET_CACHE_GIB: expected a number above 0, got '-1'"):
        RemoteShardReader(http_url)


def test_without_credentials(cache, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (("AWS_EC2_METADATA_DISABLED", "true"), ("AWS_CONFIG_FILE", "none"), ("AWS_SHARED_CREDENTIALS_FILE", "none")):
        monkeypatch.setenv(name, value)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(ShardError, match=r"^s3://data/hands/manifest\.json: no credentials; set AWS_PROFILE, or AWS_ACCESS_KEY_ID"):
        RemoteShardReader("s3://data/hands")
    s3fs.S3FileSystem.clear_instance_cache()


def config_of(url, **changes):
    stage = load_params().train.crop
    return stage.model_copy(update={"data": mixture_of(url), "batch_size": 4, "steps": 30, "input_px": 32, **changes})


def test_shards_are_read_window_by_window_and_fetched_before(http_url, cache):
    config = config_of(http_url, remote=RemoteConfig(streams=1, shuffle_shards=2))
    batches = TrainingBatches(config, 0, whole_image=False)
    order = batches.sequence.parts[0].order
    (first, shards) = order.window_at(0, 0)
    assert first == (0, 0)
    assert len(shards) == 4
    batches[0]
    deadline = time.monotonic() + 30
    while len(list(cache.glob("*.tar"))) < 4:  # this window's and the next one's
        assert time.monotonic() < deadline
        time.sleep(0.01)
    keys = [key for step in range(10) for key in batches[step].keys]
    assert sorted(keys) == sorted(f"{i:06d}" for i in range(NUM))  # an epoch


def test_a_step_is_a_function_of_seed_and_step_alone(http_url, cache):
    config = config_of(http_url, remote=RemoteConfig(streams=2, shuffle_shards=1))
    batches = TrainingBatches(config, 0, whole_image=False)
    expected = {step: batches[step] for step in (0, 7, 25)}
    again = pickle.loads(pickle.dumps(batches))  # as a spawned loader process gets it
    for step in (25, 0, 7):
        assert again[step].keys == expected[step].keys
        assert (again[step].image == expected[step].image).all()
    loaded = list(training_loader(batches, 24, 26, 2))  # in forked processes
    assert loaded[1].keys == expected[25].keys
    halves = [TrainingBatches(config, 0, whole_image=False, rank=rank, world_size=2) for rank in (0, 1)]
    for step, whole in expected.items():
        assert sorted(halves[0][step].keys + halves[1][step].keys) == sorted(whole.keys)


def test_each_process_fetches_its_own_shards_only(http_url, folder, cache, monkeypatch, tmp_path):
    fetched = []
    for rank in (0, 1):
        monkeypatch.setenv("HANDNET_CACHE", str(tmp_path / f"node{rank}"))
        config = config_of(http_url, remote=RemoteConfig(streams=2, shuffle_shards=3), batch_size=2)
        batches = TrainingBatches(config, 0, whole_image=False, rank=rank, world_size=2)
        length = batches.sequence.parts[0].order.length
        monkeypatch.setattr(RemoteShardReader, "prefetch", lambda *_: None)  # of the next epoch's
        for step in range(length):  # an epoch of this stream
            batches[step]
        fetched.append({path.stem for path in (tmp_path / f"node{rank}/shards").glob("*.tar")})
    assert not fetched[0] & fetched[1]
    assert len(fetched[0]) == len(fetched[1]) == 3


def test_too_few_shards_or_streams_are_refused(http_url, cache):
    with pytest.raises(ShardError, match=r"expected at least as many shards as remote\.streams \(8\), each of which reads its own, got 6"):
        ImageSequence(mixture_of(http_url), RemoteConfig(streams=8, shuffle_shards=1), 0)
    with pytest.raises(ValueError, match=r"remote\.streams: expected a multiple of 4 processes, got 2"):
        ImageSequence(mixture_of(http_url), RemoteConfig(streams=2, shuffle_shards=1), 0, world_size=4)


def test_streams_and_batch_size_go_together(tmp_path):
    tree = make_project(tmp_path / "project")
    set_data(tree, "crop", {"far": {"path": "https://host/hands", "weight": 1.0, "labels_3d": 1.0, "masks": 1.0}})
    change_params(tree, remote={"streams": 3})
    with pytest.raises(ParamsError, match=r"remote\.streams: expected a divisor of batch_size \(4\), got 3"):
        load_params(tree / "params.yaml")


def test_a_stage_trains_from_s3_and_resumes_exactly(s3_url, cache, tmp_path, monkeypatch):
    """A mixture of what is here and what is there; stopped in the middle and gone on with an empty cache, it ends with the same bits."""
    project = make_project(tmp_path / "project", steps=4, batch_size=4, input_px=32, checkpoint_every=1)
    part = {"weight": 1.0, "labels_3d": 1.0, "masks": 1.0}
    set_data(project, "crop", {"here": {"path": "data/ingest/procedural/train", **part}, "there": {"path": s3_url, **part}})
    describe_mixtures(project)
    ends = []
    for name in ("whole", "stopped"):
        folder = copy_project(project, tmp_path / name)
        monkeypatch.chdir(folder)
        if name == "stopped":
            with pytest.MonkeyPatch.context() as patch:
                fail_at_step(patch, 3)
                with pytest.raises(KeyboardInterrupt):
                    train_stage("crop", load_params().train)
            shutil.rmtree(cache)
        train_stage("crop", load_params().train)
        assert len(curve(folder, "crop")) == 4
        ends.append([(folder / "models/crop" / file).read_bytes() for file in ("model.safetensors", "model.json")])
    assert ends[0] == ends[1]
    assert json.loads(ends[0][1])["provenance"]["mixture"]["there"]["path"] == s3_url


def fail_at_step(patch: pytest.MonkeyPatch, step: int) -> None:
    from pipelines.training.trainer import Trainer

    real = Trainer.train_step

    def interrupted(self, parts):
        if self.step == step:
            raise KeyboardInterrupt
        return real(self, parts)

    patch.setattr(Trainer, "train_step", interrupted)


def test_locks_do_not_outlive_a_process(http_url, cache):
    """A process that is killed while it fetches leaves nothing that others wait for."""
    reader = RemoteShardReader(http_url)
    entry = reader.manifest.shards[0]
    cache.mkdir(parents=True)
    pid = os.fork()
    if pid == 0:
        lock = (cache / f".{entry.sha256[:2]}.lock").open("wb")
        fcntl.flock(lock, fcntl.LOCK_EX)
        (cache / "ready").touch()
        time.sleep(60)
        os._exit(0)
    while not (cache / "ready").exists():
        time.sleep(0.01)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    assert reader.read(0, labels_3d=False).key == "000000"
