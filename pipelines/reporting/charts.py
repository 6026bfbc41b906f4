"""Line charts: PCK and training curves."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter
from numpy.typing import NDArray

from pipelines.plotting import MEAN_HAND, OURS, Chart, as_png, as_svg, chart, drawn
from pipelines.reporting.inputs import Columns

NAMES = {"ours": ("ours", OURS, "-"), "mean_hand": ("mean hand", MEAN_HAND, "--")}
LOG_FROM = 30.0  # a curve whose values span more than this factor is drawn on a logarithmic axis


def pck_chart(name: str, title: str, threshold: str, columns: Columns, *, label: str, area: Mapping[str, float]) -> Chart:
    """Shares of points within a threshold, ours and the mean hand's; `area`: AUCs for the legend, by the same names."""
    x = columns[threshold]
    final = []

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for who, (text, color, dashes) in NAMES.items():
            note = f", AUC {area[who]:.3f}" if who in area else ""
            axes.plot(x, columns[who], dashes, color=color, label=text + note)
        axes.set(xlim=(x[0], x[-1]), ylim=(0, 1), title=title, xlabel=label)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.legend(loc="lower right")

    for who, (text, _, _) in NAMES.items():
        middle = len(x) // 2
        final.append(f"{text} {columns[who][middle]:.0%} at {x[middle]:.3g}")
    return chart(name, f"{title}: share of points within a threshold, {label}; {', '.join(final)}", draw, (4.4, 2.8))


def loss_chart(name: str, title: str, curve: Columns) -> Chart:
    """The total loss of one training stage over its steps."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        _draw_curve(axes, curve)
        axes.set(title=title, xlabel="step")

    return chart(name, _curve_alt(title, curve), draw, (4.4, 3.4))


def term_chart(name: str, term: str, curve: Columns) -> Chart:
    """One term of the loss, small."""

    def draw(figure: Figure) -> None:
        # fixed margins instead of fitted ones: side by side, the axes of all terms line up
        axes = figure.add_axes((0.22, 0.17, 0.74, 0.66))
        _draw_curve(axes, curve, num_ticks=3)
        axes.set_title(term, loc="left")

    svg = drawn(draw, (2.1, 1.45), lambda figure: as_svg(figure, name), layout=None)
    return Chart(name=name, alt=_curve_alt(term, curve), svg=svg, png=b"")


def terms_sheet(title: str, curves: Mapping[str, Columns], columns: int = 4) -> bytes:
    """All terms of a stage in one PNG."""

    def draw(figure: Figure) -> None:
        rows = -(-len(curves) // columns)
        for i, (term, curve) in enumerate(curves.items()):
            axes = figure.add_subplot(rows, columns, i + 1)
            _draw_curve(axes, curve, num_ticks=3)
            axes.set_title(term, loc="left")
        figure.suptitle(title, fontsize=10)

    return drawn(draw, (2.4 * columns, 0.4 + 1.55 * -(-len(curves) // columns)), as_png)


def _draw_curve(axes: Axes, curve: Columns, num_ticks: int = 5) -> None:
    step, value = curve["step"], curve["value"]
    few = len(value) < 3
    axes.plot(step, value, color=OURS, alpha=1.0 if few else 0.35, linewidth=0.8, marker="o" if few else "", markersize=3)
    if not few:
        axes.plot(step, running_mean(value), color=OURS)
    axes.set_xlim(0, step[-1])
    axes.xaxis.set_major_locator(MaxNLocator(num_ticks, integer=True))
    if value.min() > 0 and value.max() > LOG_FROM * value.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(numticks=num_ticks + 1))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.set_ylim(min(0.0, float(value.min())), float(value.max()) * 1.05 or 1.0)
        axes.yaxis.set_major_locator(MaxNLocator(num_ticks))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))


def running_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centred mean over a tenth of the curve, over what there is of it at the ends."""
    half = max(1, len(values) // 20)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    mean: NDArray[np.float64] = (sums[high] - sums[low]) / (high - low)
    return mean


def _curve_alt(title: str, curve: Columns) -> str:
    step, value = curve["step"], curve["value"]
    return f"{title} over {step[-1]:.0f} steps: {value[0]:.3g} at step {step[0]:.0f}, {value[-1]:.3g} at the end"
