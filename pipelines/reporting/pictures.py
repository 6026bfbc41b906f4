"""Tables of pictures: each cell a JPEG with a text for those who can't see it, and the whole table as one sheet for a forge."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from PIL import Image as PilImage
from PIL import ImageDraw, ImageFont

from pipelines.drawing import Image
from pipelines.reporting.meshes import MeshScene
from pipelines.shards.schema import encode_jpeg

JPEG_QUALITY = 84
_PAPER, _INK, _SOFT = (255, 255, 255), (28, 33, 39), (89, 99, 110)
_CELL_PX, _GAP_PX, _TEXT_PX = 288, 8, 17


@dataclass(frozen=True, kw_only=True, eq=False)
class Cell:
    """One picture; `alt` says what it shows."""

    image: Image
    alt: str

    @property
    def uri(self) -> str:
        """The picture as a data: URI."""
        return "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(self.image, JPEG_QUALITY)).decode()

    @property
    def width(self) -> int:
        return int(self.image.shape[1])

    @property
    def height(self) -> int:
        return int(self.image.shape[0])


@dataclass(frozen=True, kw_only=True)
class Row:
    """Pictures of one thing, one in each column, with a caption that begins with its name, and the meshes in them if there are any.

    subject: what is in the pictures, the same in every table that shows it.
    """

    name: str
    caption: str
    cells: tuple[Cell, ...]
    meshes: MeshScene | None = None
    subject: str = ""


@dataclass(frozen=True, kw_only=True)
class PictureTable:
    """Rows of pictures under `columns`; `name` is its file name on a forge, `alt` describes it as a whole.

    note: how the rows were chosen. rows_abreast: rows side by side in one line of the sheet, for tables of few columns.
    """

    name: str
    alt: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    rows_abreast: int = 1
    note: str = ""

    def sheet(self) -> bytes:
        """All of it as one JPEG on white paper."""
        per_line = min(self.rows_abreast, max(len(self.rows), 1))
        step = _CELL_PX + _GAP_PX
        heights = [max((_fitted_height(cell.image) for cell in row.cells), default=0) for row in self.rows]
        lines = [range(start, min(start + per_line, len(self.rows))) for start in range(0, len(self.rows), per_line)]
        text_px = _TEXT_PX + 10
        height = text_px + sum(max(heights[i] for i in line) + text_px + _GAP_PX for line in lines)
        paper = PilImage.new("RGB", (per_line * len(self.columns) * step + _GAP_PX, height + _GAP_PX), _PAPER)
        pen = ImageDraw.Draw(paper)
        for i in range(per_line * len(self.columns)):
            pen.text((_GAP_PX + i * step, 6), self.columns[i % len(self.columns)], _INK, _font(bold=True))
        y = text_px
        for line in lines:
            for place, i in enumerate(line):
                left = _GAP_PX + place * len(self.columns) * step
                pen.text((left, y + 3), _shortened(self.rows[i].caption, len(self.columns) * step - _GAP_PX), _SOFT, _font())
                for column, cell in enumerate(self.rows[i].cells):
                    size = (_CELL_PX, _fitted_height(cell.image))
                    small = PilImage.fromarray(cell.image).resize(size, PilImage.Resampling.LANCZOS)
                    paper.paste(small, (left + column * step, y + text_px))
            y += max(heights[i] for i in line) + text_px + _GAP_PX
        return encode_jpeg(np.asarray(paper), JPEG_QUALITY)


def evenly_spaced(total: int, num: int) -> list[int]:
    """`num` indices (or all, if there are fewer) spread over 0 .. total - 1."""
    if total <= num:
        return list(range(total))
    return [(2 * i + 1) * total // (2 * num) for i in range(num)]


def plural(count: int, noun: str) -> str:
    """Such as "1 hand" and "2 hands"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def joined(parts: Sequence[str]) -> str:
    """Parts of a caption that are not empty, separated by commas."""
    return ", ".join(part for part in parts if part)


def _fitted_height(image: Image) -> int:
    return max(1, round(image.shape[0] * _CELL_PX / image.shape[1]))


def _font(*, bold: bool = False) -> ImageFont.FreeTypeFont:
    # matplotlib's own font is there on every machine, and the same
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / name, _TEXT_PX)


def _shortened(text: str, width_px: int) -> str:
    font = _font()
    if font.getlength(text) <= width_px:
        return text
    while text and font.getlength(f"{text}…") > width_px:
        text = text[:-1]
    return f"{text}…"
