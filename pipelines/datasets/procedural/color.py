"""sRGB and linear light, and the tone curve that turns rendered light into an 8-bit photograph, as tables."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


def to_linear(srgb: NDArray) -> FloatArray:
    """sRGB in [0, 1] -> linear light."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((np.maximum(srgb, 0) + 0.055) / 1.055) ** 2.4).astype(np.float32)


def display_curve(linear: NDArray) -> FloatArray:
    """Linear light -> display value in [0, 255]: sRGB with a soft shoulder above 0.7 instead of a hard clip."""
    shoulder = np.where(linear < 0.7, linear, 1 - 0.3 * np.exp(-(linear - 0.7) / 0.3))
    encoded = np.where(shoulder <= 0.0031308, 12.92 * shoulder, 1.055 * np.maximum(shoulder, 1e-9) ** (1 / 2.4) - 0.055)
    return (255.0 * encoded).astype(np.float32)


BYTE_TO_LINEAR: Final = to_linear(np.arange(256) / 255.0)
# over the square root of light, because the curve is steep near black; light above MAX_LIGHT is white
MAX_LIGHT: Final = np.float32(4.0)
DISPLAY: Final = display_curve(np.linspace(0, 1, 4096) ** 2 * MAX_LIGHT)
