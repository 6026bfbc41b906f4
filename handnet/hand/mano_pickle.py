"""The official MANO .pkl files as plain arrays, with neither chumpy nor scipy, and without running the pickle.

They hold numpy arrays, a scipy.sparse matrix (J_regressor) and chumpy objects (shapedirs, a selection of the first ten).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from handnet.hand.plain_pickle import Name, Opaque, parse_plain_pickle
from handnet.hand.schema import SCHEMA

_SPARSE: Final = frozenset({("scipy.sparse.csc", "csc_matrix"), ("scipy.sparse._csc", "csc_matrix")})
_CONSTANT: Final[Name] = ("chumpy.ch", "Ch")
_SELECTION: Final[Name] = ("chumpy.reordering", "Select")
_OPAQUE: Final = _SPARSE | {_CONSTANT, _SELECTION, ("chumpy", "Ch")}


def parse_mano_pickle(data: bytes, path: Path) -> dict[str, NDArray[Any]]:
    """MANO's schema arrays of one official file's bytes, or of a file whose arrays were made plain already.

    Raises ValueError that names the file, `path`, and the key, or the class that is refused.
    """
    content = parse_plain_pickle(data, str(path), _OPAQUE)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a dictionary of arrays, got a {type(content).__name__}")
    arrays = {}
    for key in SCHEMA:
        if key in content:
            try:
                arrays[key] = _as_array(content[key])
            except (KeyError, ValueError, TypeError, IndexError) as error:
                raise ValueError(f"{path}: {key}: expected an array, a sparse matrix or a chumpy array, got {error}") from error
    return arrays


def _as_array(value: Any) -> NDArray[Any]:
    if isinstance(value, np.ndarray):
        return value
    if not isinstance(value, Opaque) or not isinstance(value.state, dict):
        raise ValueError(f"a {type(value).__name__} without content")
    if value.kind in _SPARSE:
        return _dense(value.state)
    if value.kind == _SELECTION:
        selected = _as_array(value.state["a"]).ravel()[np.asarray(value.state["idxs"])]
        return selected.reshape(value.state["preferred_shape"]) if "preferred_shape" in value.state else selected
    return _as_array(value.state["x"])


def _dense(state: dict[str, Any]) -> NDArray[Any]:
    """A compressed-column matrix, whose columns' rows and values lie one after the other."""
    rows, starts, values = state["indices"], state["indptr"], state["data"]
    num_rows, num_columns = state["_shape"] if "_shape" in state else state["shape"]
    columns = np.repeat(np.arange(num_columns), np.diff(starts))
    dense = np.zeros((num_rows, num_columns), values.dtype)
    np.add.at(dense, (rows, columns), values)
    return dense
