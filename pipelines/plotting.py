"""Charts drawn by matplotlib: as SVG that takes its colours from the page it stands in, and as PNG."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import matplotlib as mpl
from matplotlib.figure import Figure

# drawn with these, which suit white paper; in the page each becomes the variable of the reader's colour scheme
OURS, MEAN_HAND, INK, GRID = "#0a66c2", "#c2561b", "#1c2127", "#d5dae0"
_VARIABLES = {OURS: "var(--ours)", MEAN_HAND: "var(--mean)", INK: "currentColor", GRID: "var(--line)"}
PNG_DPI = 160
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "handnet",
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 8.5,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
}
_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One chart: `svg` for the page, `png` for a forge (empty where it is part of a sheet)."""

    name: str
    alt: str
    svg: str
    png: bytes


def chart(name: str, alt: str, draw: Callable[[Figure], None], size_in: tuple[float, float]) -> Chart:
    """What `draw` draws into a figure, in both forms."""
    svg, png = drawn(draw, size_in, lambda figure: (as_svg(figure, name), as_png(figure)))
    return Chart(name=name, alt=alt, svg=svg, png=png)


def drawn(
    draw: Callable[[Figure], None],
    size_in: tuple[float, float],
    save: Callable[[Figure], T],
    layout: Literal["constrained"] | None = "constrained",
) -> T:
    """What `save` makes of a figure of `size_in` inches, in the project's style."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=size_in, layout=layout)
        draw(figure)
        return save(figure)


def as_png(figure: Figure) -> bytes:
    """The figure on white paper."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=PNG_DPI, facecolor="white", metadata={"Software": None})
    return stream.getvalue()


def as_svg(figure: Figure, name: str) -> str:
    """The figure as an <svg> element that can stand in a page beside others: own ids, the page's colours and font."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True, metadata=_METADATA)
    text = stream.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r"<svg [^>]*>", lambda tag: re.sub(r' (width|height)="[^"]*"', "", tag[0]), text, count=1)
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(url\(|href=")#', rf"\1#{name}-", text)
    for color, variable in _VARIABLES.items():
        text = text.replace(color, variable)
    return text
