"""Distributions of a scene set as charts, from the histograms that were counted while its shards were written."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from pipelines.plotting import MEAN_HAND, OURS, Chart, chart
from pipelines.shards.manifest import Counts

SIZE_IN = (3.4, 2.3)
BOX_BIN_PX, PERCENT_BIN = 16, 10


def distribution_charts(counts: Counts, canvas_px: int, grid: int) -> list[Chart]:
    """Hands of a scene, sizes, sides, visible keypoints, occlusion, places (`grid` x `grid` cells) and backgrounds."""
    return [
        _hands(counts),
        _sizes(counts, canvas_px),
        _sides(counts),
        _keypoints(counts),
        _occlusion(counts),
        _places(counts, grid),
        _backgrounds(counts),
    ]


def histogram(counts: Counts, name: str, num_bins: int, width: int = 1) -> NDArray[np.int64]:
    """(num_bins,) a histogram whose bins are named by their lower ends, `width` apart, from 0 on."""
    bins = np.zeros(num_bins, np.int64)
    for key, count in counts.get(name, {}).items():
        bins[int(key) // width] += count
    return bins


def largest(counts: Counts, *names: str) -> int:
    """The largest bin that any of the histograms has; 0 if all are empty."""
    return max((int(key) for name in names for key in counts.get(name, {})), default=0)


def mean(counts: Counts, name: str) -> float:
    """Mean of a histogram's bins; 0 if it is empty."""
    bins = counts.get(name, {})
    total = sum(bins.values())
    return sum(int(key) * count for key, count in bins.items()) / total if total else 0.0


def _hands(counts: Counts) -> Chart:
    num = largest(counts, "hands_pasted", "hands_per_image") + 1
    pasted, labelled = histogram(counts, "hands_pasted", num), histogram(counts, "hands_per_image", num)

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.bar(np.arange(num) - 0.2, pasted, 0.4, color=MEAN_HAND, label="pasted")
        axes.bar(np.arange(num) + 0.2, labelled, 0.4, color=OURS, label="labelled")
        axes.set(title="Hands of a scene", xlabel="hands", ylabel="scenes", xticks=range(num))
        axes.legend()

    alt = f"Hands of a scene: {mean(counts, 'hands_pasted'):.2f} pasted and {mean(counts, 'hands_per_image'):.2f} labelled on average"
    return chart("hands", alt, draw, SIZE_IN)


def _sizes(counts: Counts, canvas_px: int) -> Chart:
    bins = histogram(counts, "box_px", largest(counts, "box_px") // BOX_BIN_PX + 1, BOX_BIN_PX)

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        _bars(axes, bins, BOX_BIN_PX)
        axes.set(title="Size of a hand", xlabel=f"longer side of its box, px (canvas {canvas_px})", ylabel="hands")

    return chart("sizes", f"Longer side of a hand's box, {mean(counts, 'box_px') + BOX_BIN_PX / 2:.0f} px on average", draw, SIZE_IN)


def _sides(counts: Counts) -> Chart:
    sides = counts.get("side", {})

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        names = ["left", "right"]
        axes.bar(names, [sides.get(name, 0) for name in names], 0.5, color=OURS)
        axes.set(title="Side", ylabel="hands")
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))

    return chart("sides", f"{sides.get('left', 0)} left and {sides.get('right', 0)} right hands", draw, SIZE_IN)


def _keypoints(counts: Counts) -> Chart:
    bins = histogram(counts, "visible_keypoints", 22)

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.bar(range(22), bins, 0.8, color=OURS)
        axes.set(title="Visible keypoints of a labelled hand", xlabel="keypoints of 21", ylabel="hands, logarithmic")
        axes.set_xticks(range(0, 22, 3))
        axes.set_yscale("symlog", linthresh=1)
        axes.set_ylim(0)

    return chart("keypoints", f"Visible keypoints of a labelled hand, {mean(counts, 'visible_keypoints'):.1f} on average", draw, SIZE_IN)


def _occlusion(counts: Counts) -> Chart:
    bins = histogram(counts, "visible_percent", 100 // PERCENT_BIN + 1, PERCENT_BIN)
    total = max(int(bins.sum()), 1)
    untouched, hidden = bins[-1] / total, bins[:5].sum() / total

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        shares = np.array([*bins[:-2], bins[-2:].sum()]) / total  # what is seen whole beside what nearly is
        axes.bar(np.arange(len(shares)) * PERCENT_BIN + PERCENT_BIN / 2, shares, 0.9 * PERCENT_BIN, color=OURS)
        axes.set(title="What is seen of a pasted hand", xlabel="share of its pixels, %", ylabel="share of hands", xlim=(0, 100))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))

    alt = f"Share of a pasted hand that is seen: {untouched:.0%} of hands are seen whole, {hidden:.0%} less than half"
    return chart("occlusion", alt, draw, SIZE_IN)


def _places(counts: Counts, grid: int) -> Chart:
    cells = np.zeros((grid, grid), np.int64)
    for key, count in counts.get("center_cell", {}).items():
        row, column = (int(part) for part in key.split(","))
        cells[row, column] += count

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.grid(False)
        image = axes.imshow(cells / max(int(cells.sum()), 1), cmap="Blues", vmin=0)
        axes.set(title="Places of hands' centres", xticks=[], yticks=[])
        figure.colorbar(image, ax=axes, format=PercentFormatter(1.0, decimals=1), shrink=0.9)

    used = int(np.count_nonzero(cells))
    return chart("places", f"Places of hands' centres: {used} of {grid * grid} cells of the canvas have some", draw, SIZE_IN)


def _backgrounds(counts: Counts) -> Chart:
    kinds = counts.get("background", {})
    names = sorted(kinds, key=lambda name: kinds[name])

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.barh(names, [kinds[name] for name in names], 0.6, color=OURS)
        axes.set(title="First layer", xlabel="scenes")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))

    return chart("backgrounds", "First layers: " + ", ".join(f"{kinds[name]} {name}" for name in reversed(names)), draw, SIZE_IN)


def _bars(axes: Axes, bins: NDArray[np.int64], width: int) -> None:
    axes.bar(np.arange(len(bins)) * width + width / 2, bins, 0.9 * width, color=OURS)
    axes.set_xlim(0, len(bins) * width)
