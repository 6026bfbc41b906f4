"""A folder of unlabelled photos, nested or archived, with 2D pseudo-labels: splits train and val (held-out photos).

Photos are labelled once, before the shards are made; an interrupted run goes on where it was.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
import orjson
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from pipelines.config_datasets import PhotosConfig
from pipelines.datasets import pseudo_labels
from pipelines.datasets.masks import hand_box
from pipelines.datasets.pseudo_labels import Detector, PseudoHand
from pipelines.datasets.sample import DataError, HandLabel, HandSample
from pipelines.datasets.source_files import MAX_PIXELS, SourceFiles, decode_image
from pipelines.datasets.splits import held_out
from pipelines.datasets.unknown_camera import assumed_camera
from pipelines.progress import Progress

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
ORIENTATION = 0x0112  # EXIF's tag; 1: as stored

Entry = dict[str, Any]  # a photo's name with its hands, or with the error that reading it gave


class Photos:
    """One split: the photos in which a hand was found, in the order of their names. Keypoints with enough confidence are visible."""

    def __init__(self, config: PhotosConfig, split: str, cache: Path) -> None:
        """Labels the photos that `cache` has no labels for yet. DataError if there is no photo, or the labeller is not installed."""
        if split not in ("train", "val"):
            raise ValueError(f"split: expected 'train' or 'val', got {split!r}")
        self.config = config
        self.files = SourceFiles(config.path, (), cache=cache)
        names = photo_names(self.files)
        if not names:
            raise DataError(f"{self.files.path}: expected photos ({', '.join(SUFFIXES)}), found none")
        entries = labelled(self.files, names, config, cache)
        self.entries = [entry for entry in entries if "error" in entry or self._hands(entry)]
        if not self.entries:
            raise DataError(f"{self.files.path}: in none of {len(entries):,} photos a hand was found with a score of {config.min_score:g}")
        train, val = held_out(len(self.entries), config.val_fraction, config.seed)
        self.rows = val if split == "val" else train

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, index: int) -> tuple[str, str]:
        """Key and file of sample `index`."""
        return f"{int(self.rows[index]):08d}", str(self.entries[self.rows[index]]["name"])

    def sample(self, index: int) -> HandSample:
        """Sample `index`. DataError for a photo that cannot be read."""
        key, name = self.where(index)
        entry = self.entries[self.rows[index]]
        if "error" in entry:
            raise DataError(entry["error"])
        image, encoded = read_photo(self.files, name, self.config.max_side_px)
        K = assumed_camera(*image.shape[:2])
        hands = [self._label(hand, K, image.shape, f"photos/{name}") for hand in self._hands(entry)]
        return HandSample(key=key, image=image, encoded=encoded, K=K, K_known=False, hands=tuple(hands))

    def _hands(self, entry: Entry) -> list[Entry]:
        found = [hand for hand in entry["hands"] if hand["score"] >= self.config.min_score]
        return [hand for hand in found if max(hand["confidence"]) >= self.config.min_confidence][: self.config.max_hands]

    def _label(self, hand: Entry, K: NDArray[np.float64], shape: Sequence[int], source_id: str) -> HandLabel:
        points = np.array(hand["keypoints_px"], np.float64)
        sure = np.array(hand["confidence"]) >= self.config.min_confidence
        return HandLabel(
            side=hand["side"],
            keypoints_px=points.astype(np.float32),
            visible=sure & ((points >= 0) & (points < (shape[1], shape[0]))).all(1),
            box_px=hand_box(points, None),
            K=K,
            source_id=source_id,
        )


def photo_names(files: SourceFiles) -> list[str]:
    """Sorted names of the photos, at any depth; hidden files and folders are none."""
    names = {name for name in files.names("") if name.lower().endswith(SUFFIXES)}
    return sorted(name for name in names if not any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts))


def read_photo(files: SourceFiles, name: str, max_side_px: int | None) -> tuple[NDArray[np.uint8], bytes | None]:
    """(H,W,3) RGB, upright and at most `max_side_px` long, and the file's bytes where they are a JPEG of just these pixels.

    DataError if it is no whole image of at most MAX_PIXELS pixels.
    """
    data = files.read(name)
    where = files.where(name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # a limit of our own follows
            photo = Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP"))
        if photo.width * photo.height > MAX_PIXELS:
            raise DataError(f"{where}: expected at most {MAX_PIXELS:,} pixels, got {photo.width:,} x {photo.height:,}")
        upright = photo.getexif().get(ORIENTATION, 1) == 1
        small_enough = max_side_px is None or max(photo.size) <= max_side_px
        if photo.format == "JPEG" and photo.mode == "RGB" and upright and small_enough:
            return decode_image(data, where), data
        image = np.asarray(ImageOps.exif_transpose(photo).convert("RGB"), np.uint8)
    except DataError:
        raise
    except UnidentifiedImageError:
        raise DataError(f"{where}: not a whole image: expected a JPEG, PNG or WebP") from None
    except (Image.DecompressionBombError, OSError, ValueError, SyntaxError, EOFError, struct.error) as error:
        raise DataError(f"{where}: not a whole image: {' '.join(str(error).split())}") from None
    if max_side_px is not None and not small_enough:
        scale = max_side_px / max(image.shape[:2])
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    return np.ascontiguousarray(image), None


def labelled(files: SourceFiles, names: list[str], config: PhotosConfig, cache: Path) -> list[Entry]:
    """An entry for every photo, made where `cache` has none yet."""
    stamps = [f"{name} {files.stamp(name)}" for name in names]
    settings = f"{files.path} {config.labeller} {config.max_hands} {config.max_side_px}"
    key = hashlib.sha256("\n".join([settings, *stamps]).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    path = cache / f"photos-{key}.jsonl"
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        with pseudo_labels.open_detector(config.labeller, config.max_hands) as detector:
            # what another version has begun is not gone on with: one set's labels are of one detector
            partial = cache / f"photos-{key}-{detector.version.replace(' ', '-')}.jsonl.unfinished"
            with partial.open("ab") as out, Progress("label photos", len(names), "photos") as bar:
                out.truncate(sum(len(_line(entry)) for entry in _read_entries(partial)))  # a killed run may have left half a line
                done = sum(1 for _ in _read_entries(partial))
                bar.advance(done)
                for name in names[done:]:
                    out.write(_line(_label_one(files, name, config, detector)))
                    out.flush()
                    bar.advance()
        os.replace(partial, path)
    return list(_read_entries(path))


def _label_one(files: SourceFiles, name: str, config: PhotosConfig, detector: Detector) -> Entry:
    try:
        image, _ = read_photo(files, name, config.max_side_px)
    except DataError as error:
        return {"name": name, "error": str(error)}
    return {"name": name, "hands": [_as_json(hand) for hand in pseudo_labels.label_photo(detector, image)]}


def _as_json(hand: PseudoHand) -> Entry:
    return {
        "side": hand.side,
        "score": hand.score,
        "keypoints_px": hand.keypoints_px.tolist(),
        "confidence": hand.confidence.tolist(),
    }


def _line(entry: Entry) -> bytes:
    return orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE)


def _read_entries(path: Path) -> Iterator[Entry]:
    if path.is_file():
        with path.open("rb") as lines:
            yield from (orjson.loads(line) for line in lines if line.endswith(b"\n"))
