"""What a cluster is given: the image's recipe, the pool's jobs as Prefect would send them, manifests and batch scripts."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import kubernetes_validate
import pytest
from prefect.client.schemas.objects import FlowRun
from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration
from ruamel.yaml import YAML

from flows.deploy import CLUSTER_SLOTS, JOB_TEMPLATE, PREFECT_FILE, ROOT
from flows.notifications import TAG

MANIFESTS = sorted((ROOT / "flows/kubernetes").glob("*.yaml"))
VERSIONS = ("1.31", kubernetes_validate.latest_version())  # the first with successPolicy on by default, and the newest known
# what Prefect demands of a template in a place where Kubernetes knows no such fields; its servers drop them
DEMANDED = {"parallelism", "completions"}


def load(path: Path) -> list[dict]:
    return [document for document in YAML(typ="safe", pure=True).load_all(path.read_text()) if document]


def deployments(pool: str) -> list[dict]:
    (document,) = load(ROOT / PREFECT_FILE)
    return [entry for entry in document["deployments"] if entry["work_pool"]["name"] == pool]


async def rendered(variables: dict) -> dict:
    template = json.loads(JOB_TEMPLATE.read_text())
    job = await KubernetesWorkerJobConfiguration.from_template_and_values(template, {"image": "registry/handnet:1", **variables})
    job.prepare_for_flow_run(FlowRun(id=uuid.uuid4(), flow_id=uuid.uuid4(), name="brave-hand", state=None))
    return job.job_manifest


def strictly(manifest: dict) -> None:
    for version in VERSIONS:
        kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("number", range(len(deployments("cluster"))))
def test_a_deployment_s_job_is_one_that_kubernetes_takes(number):
    deployment = deployments("cluster")[number]
    variables = {**deployment["work_pool"]["job_variables"], "image": "registry/handnet:1"}
    job = asyncio.run(rendered(variables))
    pod = job["spec"]["template"]["spec"]
    for name in DEMANDED:
        assert pod.pop(name) == 1
    strictly(job)
    (container,) = pod["containers"]
    assert container["image"] == "registry/handnet:1"
    assert container["args"] == ["prefect", "flow-run", "execute"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == (4 if deployment["entrypoint"].endswith(":ablation") else 1)
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/var/lib/handnet", "/dev/shm"}
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == "handnet"
    assert pod["securityContext"]["runAsNonRoot"] is True
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    assert environment["HANDNET_GPU_SLOTS"] == CLUSTER_SLOTS
    # a pod that is evicted hands its run back to Prefect, and has the time to save its state
    assert environment["PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"] == "reschedule"
    assert float(environment["HANDNET_STOP_SECONDS"]) < pod["terminationGracePeriodSeconds"]


def test_a_deployment_changes_what_the_template_lets_it():
    changed = {"gpus": 8, "memory": "200Gi", "claim": "mine", "secret": "other", "node_selector": {"gpu": "a100"}, "namespace": "ml"}
    job = asyncio.run(rendered(changed))
    pod = job["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 8, "memory": "200Gi"}
    assert container["envFrom"] == [{"secretRef": {"name": "other", "optional": True}}]
    assert pod["nodeSelector"] == {"gpu": "a100"}
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == "mine"
    assert job["metadata"]["namespace"] == "ml"
    for name in DEMANDED:
        del pod[name]
    strictly(job)


def test_a_wrong_manifest_is_refused():
    """The schema is really looked at."""
    (job,) = [document for document in load(ROOT / "flows/kubernetes/multi_node.yaml") if document["kind"] == "Job"]
    job["spec"]["template"]["spec"]["containers"][0]["resources"]["limit"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        strictly(job)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_are_ones_that_kubernetes_takes(path):
    for document in load(path):
        strictly(document)


def containers() -> list[dict]:
    pods = [document["spec"]["template"]["spec"] for path in MANIFESTS for document in load(path) if "template" in document.get("spec", {})]
    return [container for pod in pods for container in pod["containers"]]


def test_manifests_fit_together():
    assert {container["image"] for container in containers()} == {"handnet"}  # what docs/cluster.md's command replaces
    named = {(document["kind"], document["metadata"]["name"]) for path in MANIFESTS for document in load(path)}
    template = json.loads(JOB_TEMPLATE.read_text())["variables"]["properties"]
    assert ("PersistentVolumeClaim", template["claim"]["default"]) in named
    assert ("ServiceAccount", template["service_account_name"]["default"]) in named
    assert ("Namespace", template["namespace"]["default"]) in named
    (job,) = [document for document in load(ROOT / "flows/kubernetes/multi_node.yaml") if document["kind"] == "Job"]
    container = job["spec"]["template"]["spec"]["containers"][0]
    environment = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert int(environment["HANDNET_NODES"]) == job["spec"]["completions"] == job["spec"]["parallelism"]
    host, port = environment["HANDNET_RENDEZVOUS"].split(":")
    assert host == f"{job['metadata']['name']}-0.{job['spec']['template']['spec']['subdomain']}"
    assert int(port) == container["ports"][0]["containerPort"]
    assert ("Service", job["spec"]["template"]["spec"]["subdomain"]) in named


def test_no_secret_is_written_down():
    texts = [path.read_text() for path in (ROOT / "flows").rglob("*") if path.suffix in {".yaml", ".json", ".sbatch"}]
    texts += [(ROOT / "Dockerfile").read_text()]
    for text in texts:
        assert not re.search(r"kind: Secret\b|AKIA[0-9A-Z]{16}|https?://[^\s/]+@", text)
        # variables with secrets are filled in from a Kubernetes secret
        assert not re.search(r"(SECRET|TOKEN|PASSWORD|AUTH_STRING|ACCESS_KEY)\w*[\"']?\s*[=:]\s*[\"']?\w", text)


def test_every_deployment_can_be_told_of():
    """The automation of failures goes by the tag; weekly runs and one at a time are what deployments are for."""
    for pool in ("local", "cluster"):
        found = deployments(pool)
        names = {Path(entry["entrypoint"].split(":")[0]).stem: entry for entry in found}
        assert {"train_multi", "retrain"} <= set(names)
        assert all(TAG in entry["tags"] for entry in found)
        assert all(names[name]["concurrency_limit"]["limit"] == 1 for name in ("train_multi", "retrain"))
        assert names["retrain"]["schedules"][0]["cron"] == "0 3 * * 1"
        assert names["retrain"]["triggers"][0]["match"] == {"prefect.resource.id": f"handnet.data.{pool}"}


def test_the_dockerfile_passes_its_linter():
    lint = Path(sys.executable).with_name("hadolint")
    result = subprocess.run([lint, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    wrong = subprocess.run([lint, "-"], input="FROM python\nRUN cd /x && pip install y\n", capture_output=True, text=True)
    assert wrong.returncode != 0


def test_the_image_has_the_environment_that_make_setup_makes():
    recipe, makefile = (ROOT / "Dockerfile").read_text(), (ROOT / "Makefile").read_text()
    assert re.search(r"ARG UV_VERSION=(\S+)", recipe)[1] == re.search(r"UV_VERSION := (\S+)", makefile)[1]
    assert "uv pip install --python .venv/bin/python -r requirements.lock" in recipe
    assert "-r requirements.lock" in makefile
    users = re.findall(r"^USER (\S+)", recipe, flags=re.MULTILINE)
    assert users == ["1000:1000"]
    template = json.loads(JOB_TEMPLATE.read_text())["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    assert template["securityContext"]["runAsUser"] == 1000


def test_only_what_is_committed_gets_into_the_image(tmp_path):
    """The build's own command on what .dockerignore leaves of this repository."""
    kept = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert kept[0] == "*"
    assert {line for line in kept if line.startswith("!")} == {"!.git", "!requirements.lock"}
    project, context, image = tmp_path / "project", tmp_path / "context", tmp_path / "image"
    project.mkdir()
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run([*git, "init", "--quiet"], cwd=project, check=True)
    (project / "code.py").write_text("1\n")
    subprocess.run([*git, "add", "code.py"], cwd=project, check=True)
    subprocess.run([*git, "commit", "--quiet", "--message", "code"], cwd=project, check=True)
    subprocess.run([*git, "remote", "add", "origin", "https://me:s3cr3t@host/x"], cwd=project, check=True)
    (project / "code.py").write_text("edited\n")
    (project / ".env").write_text("s3cr3t\n")
    left_out = [Path(line) for line in kept if line.startswith(".git/")]
    context.mkdir()

    def ignored(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if (Path(folder) / name).relative_to(project) in left_out]

    shutil.copytree(project / ".git", context / ".git", ignore=ignored)
    (clone,) = re.findall(r"^RUN (git clone .*)$", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    command = clone.replace("file:///source", context.as_uri()).replace("/opt/handnet", shlex.quote(str(image)))
    subprocess.run(["bash", "-euc", command], check=True)
    assert (image / "code.py").read_text() == "1\n"
    assert not (image / ".env").exists()
    texts = [path.read_text(errors="replace") for path in image.rglob("*") if path.is_file()]
    assert not any("s3cr3t" in text for text in texts)


@pytest.mark.parametrize("path", sorted((ROOT / "flows/slurm").glob("*.sbatch")), ids=lambda path: path.name)
def test_batch_scripts_can_be_read(path):
    assert subprocess.run(["bash", "-n", path]).returncode == 0
    text = path.read_text()
    assert text.startswith("#!/bin/bash\n")
    directives = re.findall(r"^#SBATCH (.*)$", text, flags=re.MULTILINE)
    assert directives
    # below the first command Slurm reads no directives
    assert text.index("set -euo pipefail") > text.rindex("#SBATCH")
