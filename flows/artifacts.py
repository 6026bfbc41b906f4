"""What a run shows in Prefect's UI beside its logs: figures beside the former run's, overlays, where the report lies."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from prefect.artifacts import create_image_artifact, create_link_artifact, create_markdown_artifact

from flows.naming import artifact_key
from handnet.json_object import parse_object
from pipelines.summary import METRICS, REPORT, ROWS, Row

OVERLAYS = "logs/*/validation.jpg"  # the latest predictions of each training stage
OVERLAY_PX = 900  # the picture goes into the server's database
JPEG_QUALITY = 80

Figures = Mapping[str, Mapping[str, Any]]  # by evaluation: its metrics file


def read_figures(folder: Path) -> dict[str, dict[str, Any]]:
    """The metrics files there are, by evaluation. ValueError names one that is no JSON object."""
    found = {}
    for path in sorted((folder / METRICS).glob("*.json")):
        try:
            found[path.stem] = parse_object(path.read_bytes(), path)
        except FileNotFoundError:  # another run makes it anew
            continue
    return found


def figures_table(figures: Figures, former: Figures) -> str:
    """Markdown: a row per figure and evaluation, ours beside the former run's and the mean hand's."""
    lines = ["| evaluation | figure | this run | former run | change | mean hand |", "| --- | --- | ---: | ---: | ---: | ---: |"]
    for evaluation, values in figures.items():
        ours, before = values.get("ours", {}), former.get(evaluation, {}).get("ours", {})
        mean_hand = values.get("mean_hand", {})
        for row in ROWS:
            if ours.get(row.name) is None:
                continue
            new, old, mean = ours[row.name], before.get(row.name), mean_hand.get(row.name)
            texts = [row.pattern.format(value) if value is not None else "" for value in (new, old, mean)]
            change = "" if old is None else _change(row, new, old)
            arrow = "↑" if row.more_is_better else "↓"
            lines.append(f"| {evaluation} | {row.label} {arrow} | {texts[0]} | {texts[1]} | {change} | {texts[2]} |")
    return "\n".join(lines)


def _change(row: Row, new: float, old: float) -> str:
    """Such as `-7.4% better`; no word where the shown share is zero, no share of zero."""
    share = f"{(new - old) / abs(old):+.1%}" if old else ""
    if new == old or share in ("+0.0%", "-0.0%"):
        return "none"
    return f"{share} {row.verdict(new, old)}".strip()


def show_figures(run: str, figures: Figures, former: Figures) -> None:
    """The table of a run that has figures."""
    if figures:
        create_markdown_artifact(f"## {run}\n\n{figures_table(figures, former)}\n", key=artifact_key("metrics"), description=run)


def show_overlays(run: str, folder: Path) -> None:
    """The training stages' latest predictions, as pictures inside the artifact: they show wherever the server runs."""
    for path in sorted(folder.glob(OVERLAYS)):
        create_image_artifact(
            image_url=embedded(path), key=artifact_key("overlays", path.parent.name), description=f"{run}: {path.relative_to(folder)}"
        )


def embedded(path: Path) -> str:
    """A picture as a data URL, no larger than a page needs it."""
    with Image.open(path) as picture:
        small = picture.convert("RGB")
        small.thumbnail((OVERLAY_PX, OVERLAY_PX))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()


def show_report(run: str, folder: Path) -> None:
    """Where the report lies."""
    page = folder / REPORT
    if page.is_file():
        create_link_artifact(page.resolve().as_uri(), link_text=str(page), key=artifact_key("report"), description=f"{run}: {page}")
