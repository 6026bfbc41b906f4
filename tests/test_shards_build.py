"""Building folders of shards: parallel = serial, interrupted + continued = uninterrupted, bit for bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_samples import FakeSource, folder_bytes, make_plan

from pipelines.datasets.sample import DataError
from pipelines.shards import ShardReader
from pipelines.shards.build import build_shards

TESTS = Path(__file__).parent


class FailingSource(FakeSource):
    def sample(self, index):
        if index == 6:
            raise DataError("frame 6: mask: not found")
        return super().sample(index)


def test_parallel_is_serial(tmp_path):
    serial, parallel = make_plan(tmp_path / "a"), make_plan(tmp_path / "b")
    build_shards(serial, num_workers=1, description="serial")
    build_shards(parallel, num_workers=2, description="parallel")
    assert folder_bytes(serial.target) == folder_bytes(parallel.target)


def test_second_run_does_nothing(tmp_path):
    plan = make_plan(tmp_path)
    assert build_shards(plan, num_workers=1, description="first")
    before = {p.name: p.stat().st_mtime_ns for p in plan.target.iterdir()}
    assert not build_shards(plan, num_workers=1, description="second")
    assert {p.name: p.stat().st_mtime_ns for p in plan.target.iterdir()} == before
    assert not plan.work.exists()


@pytest.mark.parametrize("num_workers", [1, 2])
def test_failure_names_the_shard_keeps_the_rest_and_continues(tmp_path, num_workers):
    reference = make_plan(tmp_path / "reference")
    build_shards(reference, num_workers=1, description="reference")

    plan = make_plan(tmp_path)
    failing = make_plan(tmp_path, open_source=FailingSource)
    with pytest.raises(DataError, match="frame 6: mask: not found") as caught:
        build_shards(failing, num_workers=num_workers, description="failing")
    assert caught.value.__notes__ == ["while working on 1"]
    assert not plan.target.exists()
    if num_workers == 1:
        assert [p.name for p in plan.shards_folder.iterdir()] == ["shard-000000.tar"]
        kept = (plan.shards_folder / "shard-000000.tar").stat().st_mtime_ns
    build_shards(plan, num_workers=num_workers, description="again")
    assert folder_bytes(plan.target) == folder_bytes(reference.target)
    if num_workers == 1:
        assert (plan.target / "shard-000000.tar").stat().st_mtime_ns == kept
    assert not plan.work.exists()


def test_another_configuration_or_code_rewrites_unfinished_shards(tmp_path):
    with pytest.raises(DataError):
        build_shards(make_plan(tmp_path, open_source=FailingSource), num_workers=1, description="failing")
    old = (tmp_path / "set.partial/shards/shard-000000.tar").read_bytes()
    changed = make_plan(tmp_path, config={"seed": 1}, open_source=OffsetSource, num_samples=5)
    build_shards(changed, num_workers=1, description="changed")
    assert (changed.target / "shard-000000.tar").read_bytes() != old
    assert len(ShardReader(changed.target)) == 5
    assert len(list(changed.target.glob("*.tar"))) == 2

    with pytest.raises(DataError):
        build_shards(make_plan(tmp_path, config={"seed": 2}, open_source=FailingSource), num_workers=1, description="failing")
    assert len(ShardReader(changed.target)) == 5  # the finished folder stays until its successor is complete
    recoded = make_plan(tmp_path, config={"seed": 2}, open_source=OffsetSource, code="other")
    build_shards(recoded, num_workers=1, description="recoded")
    assert ShardReader(recoded.target).read(1, labels_3d=False).hands[0].source_id == "fake/4-0"


class OffsetSource(FakeSource):
    def __init__(self):
        super().__init__(3)


def test_damaged_unfinished_shard_is_made_anew(tmp_path):
    reference = make_plan(tmp_path / "reference")
    build_shards(reference, num_workers=1, description="reference")
    with pytest.raises(DataError):
        build_shards(make_plan(tmp_path, open_source=FailingSource), num_workers=1, description="failing")
    shard = tmp_path / "set.partial/shards/shard-000000.tar"
    data = bytearray(shard.read_bytes())
    data[5000] ^= 255
    shard.write_bytes(data)
    plan = make_plan(tmp_path)
    build_shards(plan, num_workers=1, description="again")
    assert folder_bytes(plan.target) == folder_bytes(reference.target)


def test_incomplete_finished_folder_is_made_anew(tmp_path):
    plan = make_plan(tmp_path)
    build_shards(plan, num_workers=1, description="first")
    whole = folder_bytes(plan.target)
    (plan.target / "shard-000001.tar").unlink()
    assert build_shards(plan, num_workers=1, description="second")
    assert folder_bytes(plan.target) == whole


SLOW = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from fake_samples import FakeSource, make_plan
from pipelines.shards.build import build_shards

class SlowSource(FakeSource):
    def sample(self, index):
        time.sleep(0.05)
        return super().sample(index)

if __name__ == "__main__":
    build_shards(make_plan(Path({folder!r}), num_samples=40, open_source=SlowSource), num_workers=2, description="slow")
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_run_continues_where_it_was(tmp_path, how):
    reference = make_plan(tmp_path / "reference", num_samples=40)
    build_shards(reference, num_workers=1, description="reference")

    script = tmp_path / "slow.py"
    script.write_text(SLOW.format(tests=str(TESTS), folder=str(tmp_path)))
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
    process = subprocess.Popen([sys.executable, str(script)], env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    plan = make_plan(tmp_path, num_samples=40)
    deadline = time.monotonic() + 300
    while len(list(plan.stats_folder.glob("shard-*.json")) if plan.stats_folder.exists() else []) < 2:
        assert time.monotonic() < deadline, "no shard was finished in time"
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    if how == signal.SIGINT:
        os.killpg(process.pid, how)  # as the terminal does
    else:
        process.kill()
    _, errors = process.communicate(timeout=120)  # workers hold stderr open: this returns only when they are gone too
    if how == signal.SIGINT:
        assert errors.count("Traceback") == 1, errors  # the parent's own, none from workers
        assert "slow: " in errors
        assert "interrupted" in errors
    assert not plan.target.exists()

    finished = {p.stem for p in plan.stats_folder.glob("shard-*.json")}
    assert 2 <= len(finished) < 10
    before = {name: (plan.shards_folder / f"{name}.tar").stat().st_mtime_ns for name in finished}
    build_shards(plan, num_workers=1, description="continued")
    assert {name: (plan.target / f"{name}.tar").stat().st_mtime_ns for name in finished} == before
    assert folder_bytes(plan.target) == folder_bytes(reference.target)
