"""Fig. 9 of this run: results/speed.json as a chart of time against the number of hands, and as a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from handnet.json_object import parse_object
from pipelines.plotting import INK, MEAN_HAND, OURS, Chart, chart
from pipelines.reporting.inputs import SPEED

SERIES = {
    "one_pass_ms": ("ours, one pass", OURS, "-"),
    "crop_loop_ms": ("a crop per hand, in turn", MEAN_HAND, "-"),
    "crop_batch_ms": ("a crop per hand, one batch", MEAN_HAND, "--"),
}


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Milliseconds by number of hands, and the machine they were taken on."""

    hands: NDArray[np.int64]
    times_ms: dict[str, NDArray[np.float64]]
    machine: str
    models: str
    chart: Chart

    @property
    def rows(self) -> list[tuple[str, list[str]]]:
        """(name, milliseconds for each number of hands) of every series."""
        return [(SERIES[name][0], [f"{value:.1f}" for value in times]) for name, times in self.times_ms.items()]

    @property
    def finding(self) -> str:
        """What the figures say, computed from them."""
        first, last = self.hands[0], self.hands[-1]
        growth = {name: times[-1] / times[0] for name, times in self.times_ms.items()}
        ratio = self.times_ms["crop_loop_ms"][-1] / self.times_ms["one_pass_ms"][-1]
        return (
            f"From {first} to {last} hands, one pass takes {growth['one_pass_ms']:.2f} times as long, crops in turn "
            f"{growth['crop_loop_ms']:.2f} times; at {last} hands the crops take {ratio:.2f} times as long as one pass."
        )


def read_speed() -> Speed:
    """The speed stage's file, drawn. ValueError names what is wrong with it."""
    tree = parse_object(SPEED.read_bytes(), SPEED)
    try:
        hands = np.array(tree["hands"], np.int64)
        times = {name: np.array(tree[name], np.float64) for name in SERIES}
        machine, models = _machine(tree["machine"]), _models(tree["models"])
        repeats = int(tree["repeats"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{SPEED}: expected machine, models, repeats, hands and times: {type(error).__name__} {error}") from None
    if not len(hands) or any(len(values) != len(hands) for values in times.values()):
        raise ValueError(
            f"{SPEED}: expected one time per number of hands, got {len(hands)} and {[len(values) for values in times.values()]}"
        )
    return Speed(hands=hands, times_ms=times, machine=f"{machine}; least of {repeats}", models=models, chart=_chart(hands, times, machine))


def _machine(tree: dict[str, Any]) -> str:
    threads = f"{tree['threads']} thread{'' if tree['threads'] == 1 else 's'}"
    device = "" if tree["device"] == "cpu" else f"{tree['device']}, "
    return f"{device}{tree['cpu']}, {threads} of {tree['cpus']} CPUs, torch {tree['torch']}"


def _models(tree: dict[str, Any]) -> str:
    multi, crop = tree["multi"], tree["crop"]
    return f"{multi['backbone']}; the whole image at {multi['input_px']} px, crops at {crop['input_px']} px"


def _chart(hands: NDArray[np.int64], times: dict[str, NDArray[np.float64]], machine: str) -> Chart:
    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for name, (label, color, dashes) in SERIES.items():
            axes.plot(hands, times[name], dashes, color=color, label=label, marker="o", markersize=3.5)
        axes.set(title="Time against the number of hands", xlabel="hands in the image", ylabel="ms per image")
        axes.set_ylim(0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="upper left", labelcolor=INK)

    ends = "{} {:.1f} ms for {}, {:.1f} ms for {}"
    words = "; ".join(ends.format(SERIES[name][0], times[name][0], hands[0], times[name][-1], hands[-1]) for name in SERIES)
    return chart("speed", f"Time against the number of hands on {machine}: {words}", draw, (5.2, 3.0))
