"""Charts of several runs on one axis, each run in its own colour, and of an ablation's seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from pipelines.plotting import GRID, MEAN_HAND, OURS, Chart, as_svg, chart, drawn
from pipelines.reporting.charts import LOG_FROM, running_mean
from pipelines.reporting.inputs import Columns

# seen on white and on near-black; the first two change with the reader's colour scheme. After these, dashes.
COLORS = (OURS, MEAN_HAND, "#2a9d5c", "#a25ddc", "#b8860b", "#d6336c", "#1098ad", "#868e96")
DASHES = ("-", "--", ":", "-.")


def run_style(index: int) -> tuple[str, str]:
    """Colour and dashes of the index-th run, the same in every chart."""
    return COLORS[index % len(COLORS)], DASHES[index // len(COLORS) % len(DASHES)]


def curves_chart(name: str, title: str, curves: Mapping[int, Columns], names: Sequence[str]) -> Chart:
    """One logged value over the steps; `curves` by the run's index in `names`. Thin as logged, thick its running mean."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for index, curve in curves.items():
            color, dashes = run_style(index)
            step, value = curve["step"], curve["value"]
            few = len(value) < 12
            axes.plot(step, value, dashes, color=color, alpha=1.0 if few else 0.25, linewidth=1.4 if few else 0.7)
            axes.plot(step[-1:], value[-1:], "o", color=color, markersize=2.5 if few else 0)
            if not few:
                axes.plot(step, running_mean(value), dashes, color=color)
        values = [value for curve in curves.values() for value in (curve["value"].min(), curve["value"].max())]
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if min(values) > 0 and max(values) > LOG_FROM * min(values):
            axes.set_yscale("log")
        else:
            axes.set_ylim(min(0.0, min(values)), max(values) * 1.05 or 1.0)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
        axes.set(title=title, xlabel="step")

    ends = [f"{names[index]} {curve['value'][-1]:.3g} at step {curve['step'][-1]:.0f}" for index, curve in curves.items()]
    svg = drawn(draw, (4.4, 2.8), lambda figure: as_svg(figure, name))
    return Chart(name=name, alt=f"{title}: {', '.join(ends)}", svg=svg, png=b"")


def pck_chart(name: str, title: str, threshold: str, curves: Mapping[int, Columns], names: Sequence[str]) -> Chart:
    """Shares of points within a threshold, of several runs."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for index, columns in curves.items():
            color, dashes = run_style(index)
            axes.plot(columns[threshold], columns["ours"], dashes, color=color)
        axes.set(xlim=(0, max(columns[threshold][-1] for columns in curves.values())), ylim=(0, 1), title=title)
        axes.set_xlabel("threshold, mm" if threshold.endswith("_mm") else "threshold, share of hand size")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))

    middle = [f"{names[i]} {c['ours'][len(c['ours']) // 2]:.0%} at {c[threshold][len(c['ours']) // 2]:.3g}" for i, c in curves.items()]
    svg = drawn(draw, (4.4, 2.8), lambda figure: as_svg(figure, name))
    return Chart(name=name, alt=f"{title}: {', '.join(middle)}", svg=svg, png=b"")


def seeds_chart(name: str, title: str, rows: Sequence[tuple[str, Sequence[float]]]) -> Chart:
    """A line for each variant: a dot for every seed, a bar at their mean."""

    def draw(figure: Figure) -> None:
        axes: Axes = figure.add_subplot()
        for place, (_, values) in enumerate(rows):
            if values:
                axes.plot(values, [place] * len(values), "o", color=OURS, markersize=4, alpha=0.6)
                axes.plot([sum(values) / len(values)], [place], "|", color=OURS, markersize=14, markeredgewidth=2)
        axes.set_yticks(range(len(rows)), [label for label, _ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_color(GRID)
        axes.set_xlabel(title)

    means = [f"{label} {sum(values) / len(values):.3g}" for label, values in rows if values]
    return chart(name, f"{title}, mean over seeds: {', '.join(means)}", draw, (5.6, 0.8 + 0.28 * len(rows)))
