"""A page in headless Chromium, driven over its DevTools protocol: what it logs and requests, how wide it is, what it looks like."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking",
    "--disable-extensions", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--remote-debugging-port=0",
    "--force-color-profile=srgb",
)  # fmt: skip
START_S, ANSWER_S = 60.0, 60.0


class Browser:
    """One tab. `problems`: errors and warnings of the page; `requests`: URLs it asked for, but for data: and blob:."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.number = 0
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.loaded = False
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol; its answer. Events that come first are kept."""
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv(timeout=ANSWER_S))
            if message.get("id") == self.number:
                assert "error" not in message, f"{method}: {message['error']}"
                result: dict[str, Any] = message["result"]
                return result
            self._keep(message)

    def _keep(self, event: dict[str, Any]) -> None:
        method, found = event.get("method"), event.get("params", {})
        if method == "Page.loadEventFired":
            self.loaded = True
        elif method == "Runtime.exceptionThrown":
            self.problems.append(str(found["exceptionDetails"].get("exception", found["exceptionDetails"]).get("description", found)))
        elif method == "Runtime.consoleAPICalled" and found["type"] in ("error", "warning", "assert"):
            self.problems.append(f"console.{found['type']}: {[argument.get('value') for argument in found['args']]}")
        elif method == "Log.entryAdded" and found["entry"]["level"] in ("error", "warning"):
            self.problems.append(found["entry"]["text"])
        elif method == "Network.requestWillBeSent" and not found["request"]["url"].startswith(("data:", "blob:")):
            self.requests.append(found["request"]["url"])

    def open(self, page: Path, width: int, height: int, *, dark: bool, touch: bool = False) -> None:
        """Load a file in a window of that size and colour scheme."""
        self.loaded = False
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=touch)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        self.call("Page.navigate", url=page.resolve().as_uri())
        while not self.loaded:
            self._keep(json.loads(self.socket.recv(timeout=ANSWER_S)))

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives; a promise is waited for."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def painted(self) -> None:
        """Wait until two frames have been drawn."""
        self.value("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")

    def screenshot(self, *, whole: bool = False) -> bytes:
        """PNG of the window, or of the whole page."""
        self.painted()
        return base64.b64decode(self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"])


@contextlib.contextmanager
def browser(folder: Path, *flags: str) -> Iterator[Browser]:
    """A headless Chromium with its profile in `folder`, ended at the end."""
    assert CHROMIUM is not None
    log = folder / "chromium.log"
    environment = {**os.environ, "HOME": str(folder)}
    with log.open("wb") as stream:
        command = [CHROMIUM, *FLAGS, *flags, f"--user-data-dir={folder / 'profile'}", "about:blank"]
        process = subprocess.Popen(command, stdout=stream, stderr=stream, env=environment, start_new_session=True)
    try:
        with connect(_tab(log), max_size=None, open_timeout=START_S) as socket:
            yield Browser(socket)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _tab(log: Path) -> str:
    """The address of the first tab's socket."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if match := re.search(r"DevTools listening on ws://([^/]+)/", log.read_text(errors="replace")):
            import urllib.request

            with urllib.request.urlopen(f"http://{match[1]}/json/list") as answer:
                tabs = [tab for tab in json.load(answer) if tab["type"] == "page"]
            if tabs:
                return str(tabs[0]["webSocketDebuggerUrl"])
        time.sleep(0.1)
    raise AssertionError(f"no Chromium within {START_S} s: {log.read_text(errors='replace')[-2000:]}")
