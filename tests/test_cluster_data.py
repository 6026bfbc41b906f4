"""DVC remote of a run: results of one workspace reach another through an S3 endpoint, over HTTP, and no secret shows."""

from __future__ import annotations

import logging
import shutil
import socket
import subprocess
import sys

import boto3
import pytest
from flow_projects import ROOT, processes_in, wait_for
from moto.server import ThreadedMotoServer

from flows.credentials import hidden
from flows.remote_data import NO_REMOTE, RemoteError, owes, pull, push
from flows.workspaces import lock_path, try_lock

SECRET = "s3cr3t-of-the-test-7f19"
PIPELINE = """
stages:
  grow:
    cmd: mkdir -p out && cat in.txt in.txt > out/grown && echo ran >> ran.log
    deps: [in.txt]
    outs: [out/grown]
  shout:
    cmd: tr a-z A-Z < out/grown > out/shouted && echo ran >> ran.log
    deps: [out/grown]
    outs: [out/shouted]
  apart:
    cmd: mkdir -p out && rev in.txt > out/apart && echo ran >> ran.log
    deps: [in.txt]
    outs: [out/apart]
"""


@pytest.fixture(scope="module")
def endpoint():
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(endpoint, monkeypatch):
    """The endpoint's address reaches DVC through the environment; the credentials do not."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "HANDNET_DVC_REMOTE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    credentials = {"AWS_ACCESS_KEY_ID": "key-of-the-test", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_DEFAULT_REGION": "us-east-1"}
    client = boto3.client("s3", endpoint_url=endpoint, aws_access_key_id="key", aws_secret_access_key=SECRET, region_name="us-east-1")
    client.create_bucket(Bucket="handnet")
    return credentials


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    (folder / "dvc.yaml").write_text(PIPELINE)
    (folder / "in.txt").write_text("hands\n")
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    dvc(folder, "init", "--quiet")
    return folder


@pytest.fixture
def workspace(tmp_path, project, monkeypatch):
    """Makes workspaces of one small project, each with a cache of its own."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    return lambda name: shutil.copytree(project, tmp_path / name)


def dvc(folder, *arguments):
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def ran(folder):
    log = folder / "ran.log"
    return len(log.read_text().splitlines()) if log.exists() else 0


def test_results_reach_another_workspace_where_every_stage_is_skipped(s3, workspace, monkeypatch):
    monkeypatch.setenv("HANDNET_DVC_REMOTE", "s3://handnet/all")
    first, second = workspace("first"), workspace("second")
    dvc(first, "repro", "--quiet")
    assert ran(first) == 3
    pushed = push(first, credentials=s3)
    assert pushed.remote == "run"
    assert pushed.num_files == 6  # three outs and three entries of the cache of runs

    # dvc.lock is committed: only the outs of the stages that are asked for come
    (second / "dvc.lock").write_bytes((first / "dvc.lock").read_bytes())
    pulled = pull(second, ["grow", "shout"], credentials=s3)
    assert pulled.num_files == 2
    assert pulled.message == "2 file(s) pulled from remote 'run'"
    assert sorted(path.name for path in (second / "out").iterdir() if path.name != ".gitignore") == ["grown", "shouted"]
    assert owes(second)
    dvc(second, "repro", "--quiet", "shout")
    assert ran(second) == 0
    # what is there already is not sent again, but for the small entries of the cache of runs
    assert push(second, ["grow", "shout"], credentials=s3).num_files <= 3
    assert not owes(second)


def test_without_dvc_lock_the_cache_of_runs_tells_what_stages_make(s3, workspace, monkeypatch):
    monkeypatch.setenv("HANDNET_DVC_REMOTE", "s3://handnet/runs")
    first, second = workspace("first"), workspace("second")
    dvc(first, "repro", "--quiet", "shout")
    push(first, credentials=s3)
    assert pull(second, ["shout"], credentials=s3).num_files == 0
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    dvc(second, "repro", "--quiet", "--pull", "shout")
    assert (second / "out/shouted").read_text() == "HANDS\nHANDS\n"
    assert ran(second) == 0


def test_without_a_remote_nothing_moves_and_that_is_said(workspace, monkeypatch):
    monkeypatch.delenv("HANDNET_DVC_REMOTE", raising=False)
    folder = workspace("alone")
    pulled, pushed = pull(folder), push(folder)
    assert (pulled.remote, pulled.num_files, pulled.message) == (None, 0, f"nothing pulled: {NO_REMOTE}")
    assert (pushed.remote, pushed.num_files, pushed.message) == (None, 0, f"nothing pushed: {NO_REMOTE}")


def test_the_projects_own_remote_and_one_asked_for(workspace, monkeypatch, tmp_path):
    monkeypatch.delenv("HANDNET_DVC_REMOTE", raising=False)
    folder = workspace("own")
    dvc(folder, "remote", "add", "--quiet", "--default", "shelf", str(tmp_path / "shelf"))
    dvc(folder, "repro", "--quiet", "grow")
    assert push(folder, ["grow"]).remote == "shelf"
    assert list((tmp_path / "shelf").rglob("*"))
    assert pull(folder, ["grow"], remote="shelf").num_files == 0  # it is there
    assert pull(folder, ["grow"], remote=str(tmp_path / "other")).remote == "run"
    assert pull(folder, ["grow"]).remote == "shelf"  # the URL was one run's
    with pytest.raises(ValueError, match=r"one of the remotes \['run', 'shelf'\] of .dvc/config, got 'attic'"):
        pull(folder, remote="attic")
    with pytest.raises(ValueError, match="without user and password"):
        pull(folder, remote=f"https://me:{SECRET}@host/path")


def test_a_remote_that_refuses_is_one_line_without_the_secret(s3, workspace, monkeypatch):
    monkeypatch.setenv("HANDNET_DVC_REMOTE", "s3://no-such-bucket/x")
    folder = workspace("refused")
    dvc(folder, "repro", "--quiet", "grow")
    with pytest.raises(RemoteError) as caught:
        push(folder, ["grow"], credentials=s3)
    text = str(caught.value)
    assert "dvc push" in text
    assert "\n" not in text
    assert SECRET not in text


def test_no_transfer_outlives_its_run(workspace, monkeypatch):
    """A run that is killed while the remote keeps it waiting: the transfer ends with it."""
    folder = workspace("killed")
    code = (
        "from pathlib import Path; from flows.remote_data import pull; from flows.workspaces import workspace\n"
        "with workspace(Path.cwd(), None, wait=False, say=print) as space: pull(space.folder, keep_open=(space.lock,))"
    )
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and never answers
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("HANDNET_DVC_REMOTE", "s3://handnet/silent")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, SECRET)
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        caller = subprocess.Popen([sys.executable, "-c", code], cwd=folder)
        silent.settimeout(60)
        connection, _ = silent.accept()
        caller.kill()
        caller.wait()
        wait_for(lambda: not processes_in(folder), 20, lambda: str(processes_in(folder)))
        connection.close()
    assert try_lock(lock_path(folder, None)) is not None


def test_secrets_are_taken_out_of_what_is_shown(monkeypatch):
    monkeypatch.setenv("MY_SERVICE_TOKEN", "token-0123")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "letters")  # no secret, and a common word
    text = hidden(f"a {SECRET} b token-0123 c https://me:pw@host/x d letters", {"K": SECRET, "SHORT": "a"})
    assert text == "a *** b *** c https://***@host/x d letters"


def test_a_secret_of_several_lines_is_taken_out_of_each(monkeypatch):
    """A stage's output comes line by line."""
    monkeypatch.setenv("azure_storage_connection_string", "first-part\nother-part")
    block = {"KEY": "-----BEGIN-----\n  c2VjcmV0IGxpbmU=\n-----END-----"}
    assert [hidden(line, block) for line in ("c2VjcmV0IGxpbmU=", "an other-part")] == ["***", "an ***"]
