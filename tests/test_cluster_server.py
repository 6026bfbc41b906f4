"""Runs that use more than their machine: data in an S3 store, a Dask cluster, GPU slots, notifications, by a real server and worker.

Everything is on loopback, and the project's stages take no time (flow_projects.py).
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
from flow_projects import ROOT, Server, make_project, served, set_params, wait_for
from moto.server import ThreadedMotoServer
from prefect.blocks.system import Secret
from prefect.client.schemas.filters import ArtifactFilter, DeploymentFilter, FlowRunFilter, LogFilter
from prefect.concurrency.sync import concurrency
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelled

from flows import deploy, gpus
from flows.notifications import AUTOMATION, WEBHOOK_BLOCK, notify_of_failures

SECRET = "s3cr3t-of-the-test-55aa"
TOKEN = "t0ken-in-the-webhook-address"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "key-of-the-test", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_DEFAULT_REGION": "us-east-1"}

# hands its rows to the executors as the project's own ingest does, and says aloud what it must not
INGEST = """
import json, os, pathlib, sys, time
from pipelines.executors import run

def row(number):
    time.sleep(0.3)
    return f"row by {os.getppid()}"

if __name__ == "__main__":
    rows = json.load(open("params.yaml"))["ingest"][sys.argv[1]]["rows"]
    found = run(row, list(range(rows)), description="rows")
    folder = pathlib.Path("data", sys.argv[1])
    folder.mkdir(parents=True)
    (folder / "rows.txt").write_text("row\\n" * rows)
    print(f"worked: {len(set(found))} processes by", os.environ.get("HANDNET_DASK_SCHEDULER"), file=sys.stderr)
    print("the key is", os.environ["AWS_SECRET_ACCESS_KEY"])
    with open("ran.log", "a") as log:
        log.write(sys.argv[1] + "\\n")
"""


class Receiver(ThreadingHTTPServer):
    """Keeps what is posted to it: (path, body)."""

    def __init__(self) -> None:
        received: list[tuple[str, dict[str, Any]]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                received.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *arguments: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.received = received


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=SECRET,
    ).create_bucket(Bucket="handnet")
    yield url
    server.stop()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver, endpoint: str) -> Iterator[Server]:
    project = make_project(tmp_path_factory.mktemp("cluster") / "project")
    (project.folder / "ingest.py").write_text(INGEST)
    project.git("commit", "--quiet", "--all", "--message=Ingest on a cluster")
    for name in [name for name in project.environment if name.startswith(("AWS_", "HANDNET_", "PREFECT_"))]:
        del project.environment[name]
    project.environment.update(
        AWS_ENDPOINT_URL=endpoint,
        AWS_EC2_METADATA_DISABLED="true",
        HANDNET_DVC_REMOTE="s3://handnet/flows",
        HANDNET_WEBHOOK_URL=f"http://127.0.0.1:{receiver.server_port}/hook?token={TOKEN}",
    )
    with served(project) as running, temporary_settings({PREFECT_API_URL: running.environment["PREFECT_API_URL"]}):
        Secret(value=CREDENTIALS).save("store-of-the-test")
        yield running


def lines_of(server: Server, run: Any) -> list[str]:
    found = server.client.read_logs(LogFilter.model_validate({"flow_run_id": {"any_": [run.id]}}), limit=200)
    return [log.message for log in found]


def ran(folder: Path) -> list[str]:
    log = folder / "ran.log"
    return sorted(log.read_text().split()) if log.exists() else []


def test_a_run_uses_a_dask_cluster_and_sends_its_results_to_the_remote(server: Server, endpoint: str) -> None:
    done = server.finished(server.start("train-multi/local", target="train_multi", credentials="store-of-the-test", dask_workers=2))
    assert done.state is not None
    assert done.state.name == "Completed", done.state.message
    folder = server.project.folder
    assert ran(folder) == ["a", "b"]
    wait_for(lambda: any(re.search(r"\d+ file\(s\) pushed to remote 'run'", line) for line in lines_of(server, done)), 15)
    lines = lines_of(server, done)
    (address,) = {match[1] for line in lines if (match := re.search(r"started a Dask cluster of 2 workers: (\S+)", line))}
    assert sum(f"worked: 2 processes by {address}" in line for line in lines) == 2
    store = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="k", aws_secret_access_key=SECRET)
    assert store.list_objects_v2(Bucket="handnet", Prefix="flows/files/md5")["KeyCount"] >= 4  # of two data sets, a model and its logs


def test_no_secret_shows(server: Server, receiver: Receiver) -> None:
    """After the run above, whose stages print one: in its logs, parameters, artifacts and files; nor in what the automation says."""
    (run,) = [run for run in server.client.read_flow_runs() if "credentials" in run.parameters]
    lines = lines_of(server, run)
    assert any("the key is ***" in line for line in lines)
    artifacts = server.client.read_artifacts(artifact_filter=ArtifactFilter.model_validate({"flow_run_id": {"any_": [run.id]}}))
    assert artifacts
    automations = server.client.read_automations_by_name(AUTOMATION)
    shown = [*lines, run.model_dump_json(), *(artifact.model_dump_json() for artifact in artifacts), automations[0].model_dump_json()]
    kept = server.project.folder / ".prefect"
    shown += [path.read_text(errors="replace") for path in kept.rglob("*.log")]
    shown += [path.read_text(errors="replace") for path in (server.project.folder / ".dvc").glob("config*")]
    for text in shown:
        assert SECRET not in text
        assert TOKEN not in text


def test_what_is_in_the_remote_is_not_made_again(server: Server) -> None:
    """As on a machine that has nothing: no outs, no cache, no dvc.lock."""
    folder = server.project.folder
    expected = (folder / "models/multi/model.json").read_text()
    for name in ("data", "models", "logs", ".dvc/cache", ".dvc/tmp"):
        shutil.rmtree(folder / name)
    (folder / "dvc.lock").unlink()
    done = server.finished(server.start("train-multi/local", target="train_multi", credentials="store-of-the-test"))
    assert done.state is not None
    assert done.state.name == "Completed", done.state.message
    wanted = dict.fromkeys(["ingest@a", "ingest@b", "train_multi"], "Cached")
    wait_for(lambda: server.states(done) == wanted, 10, lambda: str(server.states(done)))
    assert ran(folder) == ["a", "b"]  # still those of the first run
    assert (folder / "models/multi/model.json").read_text() == expected


def test_a_failed_run_is_told_to_the_webhook(server: Server, receiver: Receiver) -> None:
    folder = server.project.folder
    script = (folder / "ingest.py").read_text()
    (folder / "ingest.py").write_text("raise SystemExit(2)\n")
    try:
        done = server.finished(server.start("train-multi/local", target="ingest@a", credentials="store-of-the-test"))
    finally:
        (folder / "ingest.py").write_text(script)
    assert done.state is not None
    assert done.state.name == "Failed"
    wait_for(lambda: receiver.received, 60)
    ((path, body),) = receiver.received
    assert path == f"/hook?token={TOKEN}"
    assert body["flow"] == "train-multi"
    assert body["state"] == "Failed"
    assert body["flow_run_id"] == str(done.id)
    assert "stage ingest@a ended with exit code 2" in body["message"]
    assert body["text"].startswith(f"train-multi/{done.name}: Failed.")


def test_the_server_keeps_secrets_encrypted(server: Server) -> None:
    """Blocks, runs, events and what the webhook was sent: all that a copy of its database would give away."""
    files = [path for path in (server.project.folder / ".prefect").rglob("*") if path.is_file() and ".db" in path.name]
    assert files
    for path in files:
        content = path.read_bytes()
        assert SECRET.encode() not in content
        assert TOKEN.encode() not in content


def test_new_data_starts_the_retraining(server: Server) -> None:
    deployment = server.client.read_deployment_by_name("retrain/local")
    assert deployment.schedules[0].schedule.cron == "0 3 * * 1"
    only = FlowRunFilter.model_validate({"deployment_id": {"any_": [deployment.id]}, "state": {"type": {"not_any_": ["SCHEDULED"]}}})
    assert server.client.read_flow_runs(flow_run_filter=only) == []
    server.prefect("event", "emit", "handnet.new-data", "--resource-id", "handnet.data.elsewhere")
    set_params(server.project, ingest={"a": {"rows": 5}})
    done = server.finished(server.start("ingest/local", dataset="a", credentials="store-of-the-test"))
    assert done.state is not None
    assert done.state.is_completed(), done.state.message
    (run,) = wait_for(lambda: server.client.read_flow_runs(flow_run_filter=only), 60)
    assert run.created_by is not None
    assert run.created_by.type == "AUTOMATION"
    server.client.set_flow_run_state(run.id, Cancelled(), force=True)  # what it does is tested with the flows


def test_the_deploy_step_makes_the_cluster_s_pool_slots_and_deployments(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HANDNET_IMAGE", raising=False)
    with pytest.raises(SystemExit, match="error: HANDNET_IMAGE: expected the image that the cluster pulls"):
        deploy.main(deploy.Target.cluster, gpu_count=8)
    monkeypatch.setenv("HANDNET_IMAGE", "registry/handnet:7")
    with pytest.raises(SystemExit, match="error: --gpus: how many GPUs the pods of the cluster may hold together must be told"):
        deploy.main(deploy.Target.cluster)
    environment = {**server.environment, "HANDNET_IMAGE": "registry/handnet:7"}
    command = [sys.executable, "-m", "flows.deploy", "cluster", "--gpus", "8"]
    result = subprocess.run(command, cwd=server.project.folder, env=environment, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    assert f"8 GPU slot(s) as gpus-cluster; notifications: failures go to webhook/{WEBHOOK_BLOCK}" in result.stdout
    pool = server.client.read_work_pool("cluster")
    assert pool.type == "kubernetes"
    assert pool.base_job_template == json.loads(deploy.JOB_TEMPLATE.read_text())
    assert server.client.read_global_concurrency_limit_by_name("gpus-cluster").limit == 8
    found = server.client.read_deployments(deployment_filter=DeploymentFilter.model_validate({"name": {"any_": ["cluster"]}}))
    flows = {flow.id: flow.name for flow in server.client.read_flows()}
    assert {flows[deployment.flow_id]: deployment.job_variables["gpus"] for deployment in found} == {
        "train-multi": 1,
        "retrain": 1,
        "ablation": 4,
    }
    for deployment in found:
        assert deployment.job_variables["image"] == "registry/handnet:7"
        assert deployment.job_variables["env"]["HANDNET_DVC_REMOTE"] == "s3://handnet/flows"
        assert not deployment.job_variables["env"]["HANDNET_DASK_SCHEDULER"]
        assert deployment.global_concurrency_limit.limit == 1


def test_the_automation_is_made_once_from_a_block_that_can_tell(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(block: str | None) -> str:
        return notify_of_failures(server.client, block)

    monkeypatch.delenv("HANDNET_WEBHOOK_URL", raising=False)
    assert made(None) == "as deployed before"
    assert made(f"webhook/{WEBHOOK_BLOCK}") == f"failures go to webhook/{WEBHOOK_BLOCK}"
    assert len(server.client.read_automations_by_name(AUTOMATION)) == 1
    with pytest.raises(ValueError, match="expected the TYPE/NAME of a block on the server, such as slack-webhook/team, got"):
        made("slack-webhook/no")
    with pytest.raises(ValueError, match="block 'secret/store-of-the-test': expected one that notifies"):
        made("secret/store-of-the-test")
    monkeypatch.setenv("HANDNET_WEBHOOK_URL", f"ftp://{TOKEN}")
    with pytest.raises(ValueError, match=r"^HANDNET_WEBHOOK_URL: expected an http or https address$"):
        made(None)


def test_stages_hold_gpus_that_nobody_else_has(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "devices", lambda: ["0", "1", "2"])
    monkeypatch.setenv("HANDNET_GPU_LOCKS", str(tmp_path / "locks"))
    monkeypatch.setenv("HANDNET_GPU_SLOTS", "gpus-three")
    with pytest.raises(Exception, match="gpus-three"), gpus.reserved(1):  # strict: it must be there
        pass
    server.client.upsert_global_concurrency_limit_by_name("gpus-three", 3)
    with gpus.reserved(1) as first, gpus.reserved(2) as others:
        assert first == {"CUDA_VISIBLE_DEVICES": "0"}
        assert others == {"CUDA_VISIBLE_DEVICES": "1,2"}
        with pytest.raises(TimeoutError), concurrency("gpus-three", timeout_seconds=1, strict=True):
            pass
    with gpus.reserved("all") as everything, gpus.reserved(0) as nothing:
        assert everything == {"CUDA_VISIBLE_DEVICES": "0,1,2"}
        assert nothing == {}
    with pytest.raises(ValueError, match=r"meta\.gpus: expected at most the 3 device\(s\) of this machine, got 4"), gpus.reserved(4):
        pass
    monkeypatch.setattr(gpus, "devices", lambda: ["0", "1", "2", "3"])
    with pytest.raises(ValueError, match="GPU slots gpus-three: the stage needs 4, got 3"), gpus.reserved("all"):
        pass


CLAIMS = """
import os, sys
from contextlib import suppress
from flows import gpus
os.umask(0o077)
with gpus.claimed(["0", "1"], 1) as held:
    print(*held, flush=True)
    sys.stdin.read()
"""


def test_everybody_on_a_machine_sees_the_same_locks(tmp_path: Path) -> None:
    """Whatever temporary folders a shell or a service has, and whoever it is: the files can be read, and removed by nobody else."""
    locks = tmp_path / "locks"
    started = []
    for name in ("0", "1"):
        own = str(tmp_path / name)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": own, "XDG_RUNTIME_DIR": own, gpus.LOCKS_VARIABLE: str(locks)}
        pipe = subprocess.PIPE
        started.append(subprocess.Popen([sys.executable, "-c", CLAIMS], env=environment, stdin=pipe, stdout=pipe, text=True))
        assert started[-1].stdout.readline() == f"{name}\n"  # type: ignore[union-attr]
    for process in started:
        process.communicate()
    assert locks.stat().st_mode & 0o7777 == 0o1777
    assert {path.name: path.stat().st_mode & 0o777 for path in locks.iterdir()} == {"0.lock": 0o644, "1.lock": 0o644}


def test_locks_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "0.lock").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setenv(gpus.LOCKS_VARIABLE, str(tmp_path))
    wanted = r"0\.lock: expected a lock file that this user may make and read \(HANDNET_GPU_LOCKS\), got: Too many levels"
    with pytest.raises(ValueError, match=wanted), gpus.claimed(["0"], 1):
        pass
    monkeypatch.setenv(gpus.LOCKS_VARIABLE, str(tmp_path / "no/locks"))
    wanted = r"^HANDNET_GPU_LOCKS: expected a folder, or a place for one, got .*/no/locks: No such file"
    with pytest.raises(ValueError, match=wanted), gpus.claimed(["0"], 1):
        pass
