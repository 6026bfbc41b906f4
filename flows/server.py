"""What `make server` runs: a Prefect server on this machine, its deployments and a worker for them, until Ctrl-C.

Everything it keeps is in .prefect/. Whatever ends it, nothing that it started stays.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import httpx
import typer

from flows.gpus import slots_name
from flows.processes import SUPERVISOR
from flows.workspaces import HOME, shared_lock, try_lock

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.filters import WorkPoolFilter

HOST = "127.0.0.1"
PORT = 4200  # also in pyproject.toml, so that `prefect` in this folder finds it
POOL = "local"
START_WAIT_S = 300.0  # a busy machine takes half a minute
LOOK_EVERY_S = 0.3
RESTART_PAUSE_S = 2.0


def settings(project: Path, port: int) -> dict[str, str]:
    """Prefect's settings of the server, the worker and its runs; what the environment says goes first."""
    home = project / HOME
    ours = {
        "PREFECT_HOME": str(home),
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home}/prefect.db",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        # GPU slots and running deployments are still held after the server was started again
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "PREFECT_CLIENT_MAX_RETRIES": "8",  # a run outlives a server that is away for a minute or two
        "PYTHONPATH": str(project),  # of the worker: flows are imported from here
    }
    return {**ours, **os.environ, "PREFECT_API_URL": f"http://{HOST}:{port}/api", "PYTHONPATH": str(project)}


class Service:
    """A command that runs until it is stopped, with a log file; started again when it ends by itself."""

    def __init__(self, name: str, command: Sequence[str], project: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.command = [sys.executable, "-I", str(SUPERVISOR), sys.executable, "-m", *command]
        self.project = project
        self.environment = dict(environment)
        self.log = project / HOME / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.project,
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C in the terminal ends the services in order, through this process
            )

    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def stop(self) -> None:
        if self.process is not None:
            with suppress(BrokenPipeError):
                self.process.stdin.close()  # type: ignore[union-attr]
            self.process.wait()


def healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://{HOST}:{port}/api/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def wait_until_healthy(server: Service, port: int, stop: threading.Event) -> None:
    """ValueError with the log's last line when the server ends, or does not answer in time."""
    deadline = time.monotonic() + START_WAIT_S
    while not healthy(port) and not stop.is_set():
        if not server.running() or time.monotonic() > deadline:
            lines = server.log.read_text(errors="replace").splitlines()
            raise ValueError(f"the Prefect server did not start ({server.log}): {lines[-1] if lines else 'it said nothing'}")
        stop.wait(LOOK_EVERY_S)


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def close_lost_runs() -> int:
    """Mark runs whose processes ended with an earlier worker as crashed, and free what they held; how many there were.

    To be called while no worker of the pool runs. A run that was being cancelled is then cancelled. ValueError where the server refuses.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, WorkPoolFilter
    from prefect.exceptions import ObjectNotFound, PrefectException
    from prefect.states import Cancelled, Crashed, State, StateType

    lost = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
    runs = FlowRunFilter.model_validate({"state": {"type": {"any_": lost}}})
    pool = WorkPoolFilter.model_validate({"name": {"any_": [POOL]}})
    count = 0
    try:
        with get_client(sync_client=True) as client:
            while found := client.read_flow_runs(flow_run_filter=runs, work_pool_filter=pool):  # a page of them at a time
                for run in found:
                    cancelled = run.state_type == StateType.CANCELLING
                    state: State[Any] = Cancelled() if cancelled else Crashed(message="its worker ended; the same command goes on")
                    with suppress(ObjectNotFound):  # somebody deleted it
                        client.set_flow_run_state(run.id, state, force=True)
                    count += 1
            free_slots(client, pool)
    except (httpx.HTTPError, PrefectException) as error:
        raise ValueError(f"the Prefect server does not close the runs of an earlier worker: {str(error).splitlines()[0]}") from None
    return count


def free_slots(client: SyncPrefectClient, pool: WorkPoolFilter) -> None:
    """GPU slots of this machine and places of the pool's deployments: a server whose disk was full may have forgotten who holds them."""
    from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
    from prefect.exceptions import ObjectNotFound

    limits = [deployment.global_concurrency_limit for deployment in client.read_deployments(work_pool_filter=pool)]
    for name in [slots_name(), *(limit.name for limit in limits if limit is not None)]:
        with suppress(ObjectNotFound):  # the first time
            client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(active_slots=0))


def start_again(service: Service, stop: threading.Event) -> None:
    print(f"the {service.name} ended by itself ({service.log}); starting it again", flush=True)
    stop.wait(RESTART_PAUSE_S)
    service.start()


def watch(server: Service, worker: Service, port: int, stop: threading.Event) -> None:
    """Start again what ends by itself, until `stop` is set."""
    while not stop.wait(LOOK_EVERY_S):
        if not server.running():
            start_again(server, stop)
        if worker.running() or not healthy(port):
            continue
        try:  # before there is a worker again: for ever they would hold the places of their deployments
            close_lost_runs()
        except ValueError as error:
            print(f"the worker ended by itself ({worker.log}) and waits: {error}", flush=True)
            stop.wait(RESTART_PAUSE_S)
            continue
        start_again(worker, stop)


def serve(project: Path, port: int, deploy: Sequence[str], stop: threading.Event) -> None:
    """Run server and worker until `stop` is set. ValueError says what keeps them from running."""
    environment = settings(project, port)
    (project / HOME).mkdir(exist_ok=True)
    lock: IO[str] | None = try_lock(shared_lock(project, "server"))
    if lock is None:
        raise ValueError(f"another `make server` runs in {project}")
    if not port_is_free(port):
        raise ValueError(f"port {port} of {HOST} is taken; give another one: make server PORT=4201")
    server = Service("server", ["prefect", "server", "start", "--host", HOST, "--port", str(port)], project, environment)
    worker = Service("worker", ["prefect", "worker", "start", "--pool", POOL, "--type", "process"], project, environment)
    with lock:
        try:
            print(f"starting the Prefect server (log: {server.log})", flush=True)
            server.start()
            wait_until_healthy(server, port, stop)
            if stop.is_set():
                return
            os.environ.update(environment)
            if lost := close_lost_runs():
                print(f"{lost} run(s) had ended with an earlier worker: marked as crashed")
            deployed = subprocess.run([sys.executable, "-m", "flows.deploy", POOL, *deploy], cwd=project, env=environment)
            if stop.is_set():  # a Ctrl-C reached it too
                return
            deployed.check_returncode()
            worker.start()
            print(f"Prefect's pages: http://{HOST}:{port}\nworker's log: {worker.log}\nanother folder's shell needs:")
            print(f"  export PREFECT_API_URL=http://{HOST}:{port}/api\nthen, say: prefect deployment run train-multi/local", flush=True)
            watch(server, worker, port, stop)
        finally:
            print("stopping: stages save their state", flush=True)
            worker.stop()
            server.stop()


def main(
    port: Annotated[int, typer.Option(help="port of 127.0.0.1")] = PORT,
    gpus: Annotated[int | None, typer.Option(help="GPU slots; by default the GPUs there are")] = None,
) -> None:
    """Prefect server, deployments and worker for this project, until Ctrl-C."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    try:
        serve(Path.cwd(), port, [] if gpus is None else ["--gpus", str(gpus)], stop)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"error: the deployments could not be made (exit code {error.returncode})") from None


if __name__ == "__main__":
    typer.run(main)
