"""Writes a scene set's page, self-contained, with the same charts and the sheet of scenes as files beside it."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import orjson
from markupsafe import Markup

from pipelines.datasets.sample import HandSample
from pipelines.drawing import Image, blend_mask, draw_boxes, draw_skeleton, grid
from pipelines.pages import page_environment
from pipelines.plotting import Chart
from pipelines.scene_report.charts import distribution_charts, mean
from pipelines.shards import ShardReader
from pipelines.shards.build import STATISTICS
from pipelines.shards.manifest import write_atomic
from pipelines.shards.schema import encode_jpeg

PAGE, SHEET = "index.html", "scenes.jpg"
NUM_SCENES = 12
CELL_PX, COLUMNS = 320, 4
JPEG_QUALITY = 85
_TEMPLATES = Path(__file__).parent


def write_scene_report(scenes: Path, target: Path, grid_cells: int) -> Path:
    """The report of the finished shards in `scenes`, into the folder `target`; the page. A pure function of the shards."""
    reader = ShardReader(scenes)
    counts = orjson.loads((scenes / STATISTICS).read_bytes())
    config = reader.manifest.config
    charts = distribution_charts(counts, int(config["canvas_px"]), grid_cells)
    indices = [(2 * i + 1) * len(reader) // (2 * NUM_SCENES) for i in range(NUM_SCENES)] if len(reader) > NUM_SCENES else range(len(reader))
    scenes_shown = [reader.read(index, labels_3d=False) for index in indices]
    sheet = encode_jpeg(contact_sheet(scenes_shown), JPEG_QUALITY)
    pairs = [(pair_uri(scene), f"Scene {scene.key} beside its labels, {len(scene.hands)} labelled hands") for scene in scenes_shown]
    manifest = reader.manifest
    summary = (
        f"{manifest.num_samples:,} scenes of {config['canvas_px']} px from {', '.join(manifest.sources)}: {manifest.num_hands:,} labelled "
        f"hands of {manifest.num_source_ids:,} source frames, {mean(counts, 'hands_per_image'):.2f} a scene."
    )
    files = {
        **{f"{chart.name}.png": chart.png for chart in charts},
        SHEET: sheet,
        PAGE: _render(f"Composed scenes: {manifest.split}", summary, charts, pairs, config).encode(),
    }
    target.mkdir(parents=True, exist_ok=True)
    for path in target.iterdir():
        if path.name not in files:
            path.unlink()
    for name, data in files.items():
        write_atomic(target / name, data)
    return target / PAGE


def contact_sheet(samples: list[HandSample]) -> Image:
    """Scenes, each beside its labels drawn."""
    return grid([image for sample in samples for image in (_fitted(sample.image), labelled(sample))], COLUMNS)


def pair_uri(scene: HandSample) -> str:
    """A scene and its labels side by side as a data: URI, so that the page can lay scenes out as its width allows."""
    return (
        "data:image/jpeg;base64,"
        + base64.b64encode(encode_jpeg(grid([_fitted(scene.image), labelled(scene)], 2, 0), JPEG_QUALITY)).decode()
    )


def labelled(sample: HandSample) -> Image:
    """A scene at the sheet's size, with masks, boxes, bones and keypoints."""
    image = _fitted(sample.image)
    zoom = image.shape[1] / sample.width_px
    if sample.mask is not None:
        size = (image.shape[1], image.shape[0])
        image = blend_mask(image, np.asarray(cv2.resize(sample.mask, size, interpolation=cv2.INTER_NEAREST), np.uint8), 0.35)
    boxes = np.array([hand.box_px for hand in sample.hands]).reshape(-1, 4) * zoom
    image = draw_boxes(image, boxes, [hand.side for hand in sample.hands])
    for hand in sample.hands:
        image = draw_skeleton(image, hand.keypoints_px * zoom, hand.visible, hand.side)
    return image


def _fitted(image: Image) -> Image:
    zoom = CELL_PX / max(image.shape[:2])
    size = (round(image.shape[1] * zoom), round(image.shape[0] * zoom))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA if zoom < 1 else cv2.INTER_CUBIC), np.uint8)


def _render(title: str, summary: str, charts: list[Chart], pairs: list[tuple[str, str]], config: dict[str, Any]) -> str:
    environment = page_environment(_TEMPLATES)
    return environment.get_template("page.html").render(
        title=title,
        summary=summary,
        charts=charts,
        svg=lambda chart: Markup(chart.svg),
        pairs=pairs,
        parameters=[(key, _text(value)) for key, value in config.items()],
    )


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return " to ".join(_text(inner) for inner in value)
    return "" if value is None else str(value)
