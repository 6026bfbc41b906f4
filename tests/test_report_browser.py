"""The report in a browser: no errors, no requests, nothing too wide, and meshes that turn; skipped where there is no Chromium."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, Browser, browser
from fake_run import write_run
from PIL import Image

from pipelines.report import main

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)")
CANVAS = "document.getElementById('viewer-canvas')"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write_run(folder)
    with contextlib.chdir(folder):
        assert main([]) == 0
    return folder / "reports/index.html"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


def luminance(tab: Browser) -> float:
    """Of the page's own background."""
    color = tab.value("getComputedStyle(document.body).backgroundColor")
    return float(np.mean([int(part) for part in color.strip("rgb()").split(",")]))


def canvas_pixels(tab: Browser) -> np.ndarray:
    """(H, W, 3) what the viewer shows."""
    tab.value(f"{CANVAS}.scrollIntoView({{block: 'center'}})")
    box = tab.value(f"(() => {{ const b = {CANVAS}.getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom]; }})()")
    with Image.open(io.BytesIO(tab.screenshot())) as image:
        return np.asarray(image.convert("RGB").crop([round(edge) for edge in box]), int)[3:-3, 3:-3]


def choose(tab: Browser, name: str, value: str) -> None:
    """Change one of the viewer's pickers as a user does."""
    tab.value(f"(() => {{ const e = document.getElementById('{name}'); e.value = '{value}'; e.dispatchEvent(new Event('change')); }})()")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_quiet_and_fits(page: Path, tab: Browser, width: int, dark: bool) -> None:
    tab.problems.clear()
    tab.requests.clear()
    tab.open(page, width, 844, dark=dark, touch=width < 500)
    tab.painted()
    assert tab.problems == []
    assert tab.requests == [page.resolve().as_uri()]
    assert tab.value("document.documentElement.scrollWidth") <= width
    too_wide = "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, .strip, svg, pre, details') && "
    assert tab.value(f"{too_wide} e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))") == []
    assert (luminance(tab) < 60) == dark
    assert tab.value("[...document.images].every(image => image.complete && image.naturalWidth > 0)")


def test_meshes_turn_zoom_and_come_back(page: Path, tab: Browser) -> None:
    """By mouse and by keys; what is drawn is a hand's silhouette, not the whole canvas."""
    tab.problems.clear()
    tab.open(page, 1000, 900, dark=False)
    assert not tab.value("document.getElementById('viewer').hidden")
    assert tab.value("document.getElementById('viewer-message').hidden")
    tab.value("document.getElementById('viewer-behind').click()")
    choose(tab, "viewer-colors", "side")
    choose(tab, "viewer-hand", tab.value("document.getElementById('viewer-hand').options[0].value"))
    first = canvas_pixels(tab)
    ground = first[0, 0]
    covered = (np.abs(first - ground).sum(-1) > 20).mean()
    assert 0.002 < covered < 0.9

    def press(key: str, **more: object) -> None:
        tab.value(f"{CANVAS}.focus()")
        for kind in ("keyDown", "keyUp"):
            tab.call("Input.dispatchKeyEvent", type=kind, key=key, **more)

    for _ in range(4):
        press("ArrowRight")
    turned = canvas_pixels(tab)
    assert (np.abs(turned - first).sum(-1) > 20).mean() > 0.1 * covered
    press("Home")
    np.testing.assert_array_equal(canvas_pixels(tab), first)
    for _ in range(3):
        press("-")
    assert (np.abs(canvas_pixels(tab) - ground).sum(-1) > 20).mean() < 0.8 * covered
    tab.value("document.getElementById('viewer-reset').click()")
    np.testing.assert_array_equal(canvas_pixels(tab), first)
    box = tab.value(f"(() => {{ const b = {CANVAS}.getBoundingClientRect(); return [b.left + b.width / 2, b.top + b.height / 2]; }})()")
    tab.call("Input.dispatchMouseEvent", type="mousePressed", x=box[0], y=box[1], button="left", buttons=1)
    tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=box[0] + 90, y=box[1] + 40, button="left", buttons=1)
    tab.call("Input.dispatchMouseEvent", type="mouseReleased", x=box[0] + 90, y=box[1] + 40, button="left")
    assert (np.abs(canvas_pixels(tab) - first).sum(-1) > 20).mean() > 0.1 * covered
    assert tab.problems == []


def test_two_fingers_zoom(page: Path, tab: Browser) -> None:
    tab.problems.clear()
    tab.call("Emulation.setTouchEmulationEnabled", enabled=True, maxTouchPoints=2)
    tab.open(page, 390, 844, dark=False, touch=True)
    tab.value("document.getElementById('viewer-behind').click()")
    choose(tab, "viewer-colors", "side")
    first = canvas_pixels(tab)
    x, y = tab.value(f"(() => {{ const b = {CANVAS}.getBoundingClientRect(); return [b.left + b.width / 2, b.top + b.height / 2]; }})()")
    scrolled = tab.value("scrollY")
    for kind, apart in (("touchStart", 120), ("touchMove", 90), ("touchMove", 60), ("touchEnd", None)):
        points = [] if apart is None else [{"x": x - apart, "y": y, "id": 0}, {"x": x + apart, "y": y, "id": 1}]
        tab.call("Input.dispatchTouchEvent", type=kind, touchPoints=points)
    ground = first[0, 0]
    before, after = ((np.abs(pixels - ground).sum(-1) > 20).mean() for pixels in (first, canvas_pixels(tab)))
    tab.call("Emulation.setTouchEmulationEnabled", enabled=False)
    assert after < 0.6 * before
    assert tab.value("scrollY") == scrolled  # the page stays where it is
    assert tab.problems == []


def test_every_scene_can_be_chosen(page: Path, tab: Browser) -> None:
    tab.problems.clear()
    tab.open(page, 1000, 900, dark=True)
    names = tab.value("[...document.getElementById('viewer-scene').options].map(option => option.text)")
    assert len(names) == len(set(names)) >= 4
    captions = set()
    for i in range(len(names)):
        choose(tab, "viewer-scene", str(i))
        tab.painted()
        captions.add(tab.value("document.getElementById('viewer-status').textContent"))
        assert tab.value("document.getElementById('viewer-hand').options.length") >= 1
    assert len(captions) == len(names)
    assert tab.problems == []


def test_without_webgl_a_message_takes_its_place(page: Path, tmp_path: Path) -> None:
    with browser(tmp_path, "--disable-gpu", "--disable-3d-apis") as tab:
        tab.open(page, 800, 600, dark=False)
        assert tab.value("document.getElementById('viewer').hidden")
        assert not tab.value("document.getElementById('viewer-message').hidden")
        assert tab.problems == []
