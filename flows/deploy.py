"""The deploy step: python -m flows.deploy local|cluster. Makes what the deployments need on the Prefect server, then deploys them.

Work pool, GPU slots, the automation that tells of failures, deployments with their schedules and triggers. It may be run again
at any time: what is there is brought up to date.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectNotFound
from ruamel.yaml import YAML

from flows import gpus
from flows.notifications import notify_of_failures

ROOT = Path(__file__).parents[1]
PREFECT_FILE = Path("flows/prefect.yaml")
JOB_TEMPLATE = ROOT / "flows/kubernetes/job_template.json"
CLUSTER_SLOTS = "gpus-cluster"  # also in prefect.yaml: pods have no lasting name
IMAGE_VARIABLE = "HANDNET_IMAGE"


class Target(StrEnum):
    """Where runs happen: processes of this machine, or pods of a Kubernetes cluster. Also the name of the work pool."""

    local = "local"
    cluster = "cluster"


def make_pool(client: SyncPrefectClient, target: Target) -> None:
    """The work pool; the Kubernetes one gets the project's job template every time."""
    template: dict[str, Any] | None = json.loads(JOB_TEMPLATE.read_text()) if target is Target.cluster else None
    try:
        pool = client.read_work_pool(target.value)
    except ObjectNotFound:
        kind = "kubernetes" if template else "process"
        client.create_work_pool(WorkPoolCreate(name=target.value, type=kind, base_job_template=template or {}))
        return
    if template and pool.base_job_template != template:
        client.update_work_pool(target.value, WorkPoolUpdate(base_job_template=template))


def make_slots(client: SyncPrefectClient, target: Target, count: int | None) -> tuple[str, int]:
    """The concurrency limit that stages take their GPUs from: (name, slots). Locally its size is that of this machine."""
    if count is not None and count < 1:
        raise ValueError(f"--gpus: expected a number from 1 on, got {count}")
    if target is Target.cluster:
        if count is None:
            raise ValueError("--gpus: how many GPUs the pods of the cluster may hold together must be told")
        name = CLUSTER_SLOTS
    else:
        name = gpus.slots_name()
        count = gpus.num_slots() if count is None else count
    client.upsert_global_concurrency_limit_by_name(name, count)
    return name, count


def deploy(target: Target) -> None:
    """The target's deployments in prefect.yaml. CalledProcessError where Prefect refuses them."""
    entries = YAML(typ="safe", pure=True).load((ROOT / PREFECT_FILE).read_text())["deployments"]
    chosen = [entry for entry in entries if entry["name"] == target]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as own:
        # of its own: `--name */local` deploys every one as often as there are deployments of that name
        YAML(typ="safe", pure=True).dump({"name": "handnet", "deployments": chosen}, own)
        own.flush()
        command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", own.name]
        result = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode != 0:
        print(result.stdout, file=sys.stderr)
        result.check_returncode()


def main(
    target: Annotated[Target, typer.Argument(help="which deployments")],
    gpu_count: Annotated[int | None, typer.Option("--gpus", help="slots; locally those of this machine")] = None,
    notify: Annotated[str | None, typer.Option(help="TYPE/NAME of a block that tells of failures")] = None,
) -> None:
    """Deploy the flows to the server that PREFECT_API_URL names."""
    try:
        if target is Target.cluster and not os.environ.get(IMAGE_VARIABLE):
            raise ValueError(f"{IMAGE_VARIABLE}: expected the image that the cluster pulls, such as registry/handnet:1")
        with get_client(sync_client=True) as client:
            make_pool(client, target)
            name, count = make_slots(client, target, gpu_count)
            told = notify_of_failures(client, notify)
        deploy(target)
    except httpx.HTTPError as error:
        raise SystemExit(f"error: the Prefect server at PREFECT_API_URL does not answer as it should: {error}") from None
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    except subprocess.CalledProcessError as error:
        raise SystemExit(error.returncode) from None
    print(f"work pool {target}; {count} GPU slot(s) as {name}; notifications: {told}")


if __name__ == "__main__":
    typer.run(main)
