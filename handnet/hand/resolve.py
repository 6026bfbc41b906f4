"""Which hand model is used: the free hand of this package, or a user's MANO files and where they are looked for."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal, NamedTuple

from handnet.hand.files import HandModel, load_hand, mano_folder

HandKind = Literal["free", "mano"]
VARIABLE: Final = "HANDNET_MANO"
DEFAULT: Final = Path("mano")


class Place(NamedTuple):
    """Where MANO is looked for, and who said so."""

    path: Path
    because: str
    asked_for: bool  # given or set by the user, not only the default


def mano_place(path: Path | None = None) -> Place:
    """`path` if given, else $HANDNET_MANO if set, else ./mano; only that one place is looked at."""
    if path is not None:
        return Place(Path(path), "given", True)
    if os.environ.get(VARIABLE):
        return Place(Path(os.environ[VARIABLE]).expanduser(), f"${VARIABLE}", True)
    return Place(DEFAULT, f"the default; ${VARIABLE} is not set", False)


def find_mano(path: Path | None = None) -> Path | None:
    """The MANO file, or the folder with MANO_RIGHT, at `mano_place(path)`, as `load_hand` takes it; None if there is none."""
    place = mano_place(path).path
    return place if place.is_file() else mano_folder(place)


def resolve_hand(kind: HandKind, path: Path | None = None) -> HandModel:
    """The hand model of a name: "free" is this package's own, "mano" the user's files, found as `find_mano` does.

    Raises FileNotFoundError that says where MANO was looked for; errors of a file that is there are those of `load_hand`.
    """
    if kind == "free":
        if path is not None:
            raise ValueError(f"path: expected none with the free hand, which is in this package, got {str(path)!r}")
        return load_hand()
    if kind != "mano":
        raise ValueError(f"hand: expected 'free' or 'mano', got {kind!r}")
    found = find_mano(path)
    if found is None:
        place = mano_place(path)
        raise FileNotFoundError(
            f"hand 'mano': expected MANO_RIGHT.pkl or MANO_RIGHT.npz in {place.path} ({place.because}), found none; "
            "`handnet mano doctor` says more, and hand 'free' needs no file"
        )
    return replace(load_hand(found), name="mano")
