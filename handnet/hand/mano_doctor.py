"""What `handnet mano doctor` says: which MANO files are there, what is wrong with them, and which hand will be used."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from handnet.hand.files import (
    SUBFOLDERS,
    OneHand,
    file_of_side,
    has_left_shapedirs_fault,
    mano_folder,
    mirrored,
    read_one,
    side_of_name,
)
from handnet.hand.parsed_cache import cache_folder
from handnet.hand.resolve import VARIABLE, Place, mano_place, resolve_hand
from handnet.skeleton import SIDES

_WHERE_TO_GET_IT = "docs/mano.md says where MANO comes from and where to put it"


@dataclass
class Diagnosis:
    """Lines for the user, in order, and whether something has to be put right."""

    lines: list[str] = field(default_factory=list)
    wrong: bool = False

    def say(self, label: str, text: str) -> None:
        self.lines.append(f"{label:<11} {text}")

    def complain(self, label: str, text: str) -> None:
        self.wrong = True
        self.say(label, f"WRONG: {text}")


def examine_mano(path: Path | None = None) -> Diagnosis:
    """The MANO files at `path`, else at $HANDNET_MANO, else in ./mano. Reads them without running anything in them."""
    place, found = mano_place(path), Diagnosis()
    found.say("looked at", f"{place.path} ({place.because})")
    files = {side_of_name(place.path): place.path} if place.path.is_file() else _files_of_folder(found, place)
    _examine_files(found, files)
    if found.wrong:
        found.say(
            "will use", "hand 'free' is this package's own and can be used; hand 'mano' will stop with an error until this is put right"
        )
    elif files:
        found.say(
            "will use", f"hand 'mano' is these files (model sha256 {resolve_hand('mano', path).sha256[:16]}), 'free' this package's own"
        )
    else:
        found.say("will use", "hand 'free', this package's own, which needs no file; hand 'mano' needs MANO")
    return found


def _files_of_folder(found: Diagnosis, place: Place) -> dict[str, Path]:
    if not place.path.exists():
        if place.asked_for:
            found.complain("MANO", f"no such file or folder; {_WHERE_TO_GET_IT}")
        else:
            found.say("MANO", f"none; {_WHERE_TO_GET_IT}, or set ${VARIABLE}")
        return {}
    folder = mano_folder(place.path)
    if folder is None:
        looked = ", ".join(str(place.path / name) for name in SUBFOLDERS)
        near = sorted(path.name for path in place.path.iterdir())[:8] if place.path.is_dir() else []
        found.complain(
            "MANO_RIGHT", f"missing: expected MANO_RIGHT.pkl or MANO_RIGHT.npz in one of {looked}; there is {', '.join(near) or 'nothing'}"
        )
        return {}
    files = {side: path for side in reversed(SIDES) if (path := file_of_side(folder, side)) is not None}
    for path in files.values():
        other = path.with_suffix(".pkl")
        if path.suffix == ".npz" and other.is_file():
            found.say(other.stem, f"{other} is not used: {path.name} goes before it")
    return files


def _examine_files(found: Diagnosis, files: dict[str, Path]) -> None:
    hands: dict[str, OneHand] = {}
    checksums: dict[str, str] = {}
    for side, path in files.items():
        label = f"MANO_{side.upper()}"
        try:
            data = path.read_bytes()
            checksum = hashlib.sha256(data).hexdigest()
            found.say(label, f"{path}, {len(data):,} bytes, sha256 {checksum[:16]}")
            if checksum in checksums:
                found.complain(label, f"the same file as {checksums[checksum]}")
            checksums[checksum] = path.name
            hands[side] = read_one(path, side)
        except (ValueError, OSError) as error:
            found.complain(label, str(error).removeprefix(f"{path}: "))
            continue
        found.say(label, f"a {side} hand, {_reach_mm(hands[side]):.0f} mm from wrist to middle fingertip")
    if len(files) == 1 and hands:
        (side,) = hands
        other = SIDES[1 - SIDES.index(side)]
        found.say(f"MANO_{other.upper()}", f"not there: the {other} hand will be the mirrored {side} one")
    if len(hands) == len(SIDES):
        _compare_sides(found, hands["left"], hands["right"])
    if any(files[side].suffix == ".pkl" for side in hands):
        found.say("cache", f"the arrays of .pkl files are kept in {_short(cache_folder())}")


def _compare_sides(found: Diagnosis, left: OneHand, right: OneHand) -> None:
    if has_left_shapedirs_fault(left, right):
        found.say(
            "MANO_LEFT", "its shapedirs have the right hand's sign in x, the known fault of the official file: put right when it is loaded"
        )
    apart = float(np.abs(left.v_template - mirrored(right).v_template).max())
    found.say("sides", f"the left template is {apart * 1000:.2f} mm or less from the mirrored right one")


def _reach_mm(hand: OneHand) -> float:
    wrist = hand.J_regressor[0] @ hand.v_template
    return float(np.linalg.norm(hand.v_template[hand.tips[2]] - wrist)) * 1000


def _short(path: Path) -> str:
    """A path with ~ for the user's own folder."""
    return f"~/{path.relative_to(Path.home())}" if path.is_relative_to(Path.home()) else str(path)
