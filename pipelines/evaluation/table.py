"""The table of hands: its columns, written as they are measured and read back column by column.

So memory does not grow with the number of images; docs/evaluation.md describes the columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.evaluation.outputs import partial_path

# what is known of a row before anything is measured; the missing value of a type is NaN, -1, False or null
IDENTITY = {
    "key": "text",
    "image": "int",
    "hand": "int",
    "source_id": "text",
    "labelled": "bool",
    "found": "bool",
    "num_hands": "int",
    "side": "int",
    "predicted_side": "int",
    "score": "float",
    "size_px": "float",
    "box_px": "float",
    "visible": "float",
    "occluded": "float",
    "truncated": "bool",
    "distance_m": "float",
    "center_distance_px": "float",
}
FIGURES_2D = ("error_2d_px", "error_2d_fraction", "error_2d_visible_px", "error_2d_visible_fraction", "similarity")
RAW = ("mpjpe_mm", "mpvpe_mm", "root_error_mm", "f5_raw", "f15_raw")
ALIGNED = (
    "root_aligned_mpjpe_mm",
    "root_aligned_mpvpe_mm",
    "epe_mm",
    "scale_aligned_mpjpe_mm",
    "scale_aligned_mpvpe_mm",
    "pa_mpjpe_mm",
    "pa_mpvpe_mm",
    "pa_mpjpe_no_reflection_mm",
    "pa_mpvpe_no_reflection_mm",
    "auc",
    "auc_vertices",
    "f5",
    "f15",
)
FIGURES = (*FIGURES_2D, "error_2d_input_px", "mask_iou", *RAW, *ALIGNED, "epe_true_side_mm")
MEAN_HAND_FIGURES = (*FIGURES_2D, *ALIGNED)
MEAN_HAND = "mean_hand_"
COLUMNS = {**IDENTITY, **dict.fromkeys(FIGURES, "float"), **{f"{MEAN_HAND}{name}": "float" for name in MEAN_HAND_FIGURES}}

_TYPES = {"text": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
_MISSING = {"text": None, "int": -1, "float": np.nan, "bool": False}
SCHEMA = pa.schema([(name, _TYPES[kind]) for name, kind in COLUMNS.items()])
ROWS_PER_GROUP = 8192


class Rows:
    """Columns of `num` rows that start out missing; `put` fills some of them."""

    def __init__(self, num: int) -> None:
        self.num = num
        self.columns: dict[str, NDArray] = {}

    def put(self, name: str, rows: NDArray[np.integer], values: NDArray) -> None:
        """Values of column `name` (one of COLUMNS) at the given rows."""
        kind = COLUMNS[name]
        if name not in self.columns:
            dtype = {"text": object, "int": np.int64, "float": np.float64, "bool": np.bool_}[kind]
            self.columns[name] = np.full(self.num, _MISSING[kind], dtype)
        self.columns[name][rows] = values

    def table(self) -> pa.Table:
        """All columns, those that were never put too."""
        for name in COLUMNS:
            if name not in self.columns:
                self.put(name, np.zeros(0, np.int64), np.zeros(0))
        return pa.table([pa.array(self.columns[name], type=SCHEMA.field(name).type) for name in COLUMNS], schema=SCHEMA)


class HandTable:
    """Context manager that writes rows to a parquet file under a temporary name, and gives it its own at the end without an error."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.waiting: list[pa.Table] = []

    def __enter__(self) -> HandTable:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.partial = partial_path(self.path)
        self.writer = pq.ParquetWriter(self.partial, SCHEMA, compression="zstd")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._write()
            self.writer.close()
            if kind is None:
                self.partial.replace(self.path)
        finally:
            self.partial.unlink(missing_ok=True)

    def add(self, rows: Rows) -> None:
        """Append rows."""
        self.waiting.append(rows.table())
        if sum(len(table) for table in self.waiting) >= ROWS_PER_GROUP:
            self._write()

    def _write(self) -> None:
        if self.waiting:
            self.writer.write_table(pa.concat_tables(self.waiting))
            self.waiting = []


class HandColumns(Mapping[str, NDArray]):
    """The columns of a table on disk, each read when it is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __getitem__(self, name: str) -> NDArray:
        if name not in COLUMNS:
            raise KeyError(name)
        values: NDArray = pq.read_table(self.path, columns=[name]).column(0).to_numpy()
        return values

    def __iter__(self) -> Iterator[str]:
        return iter(COLUMNS)

    def __len__(self) -> int:
        return len(COLUMNS)
