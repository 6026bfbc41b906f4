"""`make server`, without a server: lost runs, what the server refuses, Ctrl-C; and Prefect's services in a process that is forked."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from flow_projects import free_port
from prefect._internal.concurrency.services import QueueService
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import server


def test_ctrl_c_while_deploying_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The terminal sends it to the deploying command as well, which fails by it."""
    stop = threading.Event()
    stopped: list[str] = []

    class Stub(server.Service):
        def start(self) -> None:
            pass

        def stop(self) -> None:
            stopped.append(self.name)

    def interrupted(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        stop.set()
        return subprocess.CompletedProcess(command, -signal.SIGINT)

    monkeypatch.setattr(server, "Service", Stub)
    monkeypatch.setattr(server, "healthy", lambda port: True)
    monkeypatch.setattr(server, "close_lost_runs", lambda: 0)
    monkeypatch.setattr(server.subprocess, "run", interrupted)
    monkeypatch.setattr(server.os, "environ", dict(os.environ))
    server.serve(tmp_path, free_port(), [], stop)
    assert stopped == ["worker", "server"]


class Broken(BaseHTTPRequestHandler):
    """A server whose database cannot be written, say."""

    def do_POST(self) -> None:
        self.send_response(500)
        self.end_headers()

    do_GET = do_POST

    def log_message(self, *arguments: object) -> None:
        pass


def test_a_server_that_refuses_to_close_lost_runs() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Broken) as broken:
        threading.Thread(target=broken.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{broken.server_port}/api"
        wanted = r"^the Prefect server does not close the runs of an earlier worker: Server error '500[^\n]*$"
        with temporary_settings({PREFECT_API_URL: url}), pytest.raises(ValueError, match=wanted):
            server.close_lost_runs()
        broken.shutdown()


def test_a_worker_starts_again_once_its_lost_runs_are_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Server and worker have ended together: the worker waits for the server, also for one that answers with errors at first."""
    stop = threading.Event()
    happened: list[str] = []
    answers = iter([False, False, True, True])
    refusals = iter([True, False])

    class Stub(server.Service):
        up = False

        def start(self) -> None:
            self.up = True
            happened.append(self.name)
            if self.name == "worker":
                stop.set()

        def running(self) -> bool:
            return self.up

    def healthy(port: int) -> bool:
        happened.append("asked")
        return next(answers)

    def close_lost_runs() -> int:
        if next(refusals):
            happened.append("refused")
            raise ValueError("the Prefect server does not")
        happened.append("closed")
        return 1

    monkeypatch.setattr(server, "healthy", healthy)
    monkeypatch.setattr(server, "close_lost_runs", close_lost_runs)
    monkeypatch.setattr(server, "RESTART_PAUSE_S", 0.0)
    monkeypatch.setattr(server, "LOOK_EVERY_S", 0.0)
    server.watch(Stub("server", (), tmp_path, {}), Stub("worker", (), tmp_path, {}), 1, stop)
    assert happened == ["server", "asked", "asked", "asked", "refused", "asked", "closed", "worker"]


def test_a_forked_process_of_these_tests_ends_well_beside_prefects_services() -> None:
    """Else a loader's process fails now and then, in whichever test forks one after a flow ran in this process."""

    class Service(QueueService[int]):
        async def _handle(self, item: int) -> None:
            pass

    service = Service.instance()
    service.send(1)
    service.wait_until_empty()
    try:
        child = multiprocessing.get_context("fork").Process(target=int)
        child.start()
        child.join(60)
        assert child.exitcode == 0
    finally:
        service.drain()
