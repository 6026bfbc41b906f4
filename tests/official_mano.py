"""Files as MANO's owners publish them, down to Python 2's byte strings and chumpy's classes, holding the free hand: for tests."""

from __future__ import annotations

import pickle
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from python2_pickles import Python2Pickler
from scipy import sparse

from handnet.hand.files import HandModel, load_free_arrays, load_hand

KEYS = ["v_template", "f", "posedirs", "weights", "hands_mean", "hands_components", "kintree_table"]


def fake_chumpy(monkeypatch: pytest.MonkeyPatch) -> tuple[type, type]:
    """Two modules that look like chumpy, for writing only: their classes Ch and Select."""
    ch, reordering = types.ModuleType("chumpy.ch"), types.ModuleType("chumpy.reordering")
    ch.Ch = type("Ch", (), {"__module__": "chumpy.ch"})
    reordering.Select = type("Select", (ch.Ch,), {"__module__": "chumpy.reordering"})
    for name, module in {"chumpy": types.ModuleType("chumpy"), "chumpy.ch": ch, "chumpy.reordering": reordering}.items():
        monkeypatch.setitem(sys.modules, name, module)
    return ch.Ch, reordering.Select


def official_content(side: int, chumpy: tuple[type, type], model: HandModel | None = None) -> dict:
    """The free hand, or `model`, as an official file of one side: sparse regressor, twenty shape directions of which ten are used."""
    Ch, Select = chumpy
    model = load_hand() if model is None else model
    content = {key: load_free_arrays()[key].astype(np.float64) if key not in ("f", "kintree_table") else None for key in KEYS}
    content |= {"v_template": model.v_template[side], "posedirs": model.posedirs[side], "weights": model.weights[side]}
    content |= {"hands_mean": model.hands_mean[side], "hands_components": model.hands_components[side]}
    content["f"] = model.faces[side].astype(np.uint32)
    content["kintree_table"] = np.stack([np.where(model.parents < 0, 2**32 - 1, model.parents), np.arange(16)])
    content["J_regressor"] = sparse.csc_matrix(model.J_regressor[side])
    constant, selection = Ch(), Select()
    directions = np.concatenate([model.shapedirs[side], np.full((778, 3, 10), 9.0)], 2)
    constant.__dict__.update(x=directions, _dirty_vars=set(), dterms=("x",))
    indices = np.arange(778 * 3 * 20).reshape(778, 3, 20)[:, :, :10].ravel()
    selection.__dict__.update(a=constant, idxs=indices, preferred_shape=(778, 3, 10), _dirty_vars={"a"})
    content["shapedirs"] = selection
    return content | {"bs_style": "lbs", "bs_type": "lrotmin", "J": np.zeros((16, 3)), "hands_coeffs": np.zeros((4, 45))}


def write(path: Path, content: object, style: str) -> Path:
    with path.open("wb") as file:
        if style == "python 2":
            Python2Pickler(file, 2).dump(content)
        else:
            pickle.dump(content, file, protocol=int(style))
    return path


def write_official(
    folder: Path, chumpy: tuple[type, type], model: HandModel | None = None, sides: tuple[str, ...] = ("LEFT", "RIGHT")
) -> Path:
    """MANO_LEFT.pkl and MANO_RIGHT.pkl in a folder, as they are published."""
    folder.mkdir(parents=True, exist_ok=True)
    for side in sides:
        write(folder / f"MANO_{side}.pkl", official_content(("LEFT", "RIGHT").index(side), chumpy, model), "python 2")
    return folder


def with_left_of_its_own(model: HandModel) -> HandModel:
    """A model whose left hand is not the mirrored right one, with weights and a regressor of its own."""
    rng = np.random.default_rng(5)
    changed = {name: getattr(model, name).copy() for name in ("v_template", "shapedirs", "posedirs", "weights", "J_regressor")}
    for name in ("v_template", "shapedirs", "posedirs"):
        changed[name] += 1e-3 * rng.standard_normal(changed[name].shape)
    changed["weights"][0] = np.roll(changed["weights"][0], 1, axis=0)
    changed["J_regressor"][0] = np.roll(changed["J_regressor"][0], 1, axis=1)
    return replace(model, name="asymmetric", **changed)
