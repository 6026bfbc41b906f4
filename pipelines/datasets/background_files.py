"""Pictures of a user's own folder, which rendered hands and composed scenes stand before: which files they are, and decoding one."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def image_files(folder: Path) -> list[Path]:
    """The images below a folder, sorted."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())


def decode_at_least(data: bytes, min_px: int) -> NDArray[np.uint8] | None:
    """(H,W,3) RGB; a JPEG as small as its format lets it be decoded with both sides from `min_px` on.

    None for an unknown format or no bytes, ValueError for what is damaged or claims to be too large.
    """
    try:
        if data[:2] == b"\xff\xd8" and simplejpeg.decode_jpeg_header(data)[2] not in ("CMYK", "YCCK"):
            return np.asarray(simplejpeg.decode_jpeg(data, "RGB", min_height=min_px, min_width=min_px), np.uint8)
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) if data else None
    except (ValueError, cv2.error) as error:  # OpenCV's where it claims to be huge
        raise ValueError(" ".join(str(error).split())) from None
    return None if decoded is None else np.asarray(decoded, np.uint8)
