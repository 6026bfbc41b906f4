"""sRGB and linear light by tables, and the tone curve that turns rendered light into an 8-bit photograph."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


def to_linear(srgb: NDArray) -> FloatArray:
    """sRGB in [0, 1] -> linear light."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((np.maximum(srgb, 0) + 0.055) / 1.055) ** 2.4).astype(np.float32)


def _curve(linear: NDArray) -> NDArray:
    """Linear light -> display value in [0, 1]: sRGB with a soft shoulder above 0.7 instead of a hard clip."""
    shoulder = np.where(linear < 0.7, linear, 1 - 0.3 * np.exp(-(linear - 0.7) / 0.3))
    return np.where(shoulder <= 0.0031308, 12.92 * shoulder, 1.055 * np.maximum(shoulder, 1e-9) ** (1 / 2.4) - 0.055)


_BYTE_TO_LINEAR = to_linear(np.arange(256) / 255.0)
# square-root spacing: the curve is steep near black
_STEPS, _MAX_LIGHT = 4096, 4.0
_DISPLAY = (255.0 * _curve((np.arange(_STEPS) / (_STEPS - 1)) ** 2 * _MAX_LIGHT)).astype(np.float32)


def bytes_to_linear(image: NDArray[np.uint8]) -> FloatArray:
    """(...) uint8 sRGB -> linear light in [0, 1]."""
    return _BYTE_TO_LINEAR[image]


def to_display(linear: FloatArray) -> FloatArray:
    """Linear light -> display values in [0, 255], float32; light above 4 is white."""
    steps = np.sqrt(np.clip(linear, 0, _MAX_LIGHT) * np.float32(1 / _MAX_LIGHT)) * np.float32(_STEPS - 1) + np.float32(0.5)
    return _DISPLAY[steps.astype(np.int16)]
