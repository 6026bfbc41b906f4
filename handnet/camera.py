"""The pinhole camera shared by all hands of an image: projection, back-projection, translation decoding (Eq. 6).

Frames: camera x right, y down, z forward, metres. Pixels: continuous, the centre of row i, column j is (j + 0.5, i + 0.5).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

# Half the side of a typical hand's window in metres: decoding starts from a hand that fills its window.
WINDOW_HALF_M = 0.11
MIN_DEPTH_M = 0.02
# Where decoding by offsets starts: a hand at arm's length.
START_DEPTH_M = 0.8


def intrinsics(focal_px: float, width_px: int, height_px: int) -> Float[Tensor, "3 3"]:
    """K of a camera with square pixels and its principal point at the image centre (paper, below Eq. 6)."""
    return torch.tensor([[focal_px, 0.0, width_px / 2], [0.0, focal_px, height_px / 2], [0.0, 0.0, 1.0]])


def project(points_m: Float[Tensor, "M P 3"], K: Float[Tensor, "M 3 3"]) -> Float[Tensor, "M P 2"]:
    """Camera-frame points (metres) to pixels. Depth is clamped below at 2 cm, so a point behind the camera stays finite."""
    depth = points_m[..., 2:].clamp(min=MIN_DEPTH_M)
    focal = torch.stack([K[:, 0, 0], K[:, 1, 1]], -1)[:, None]
    return points_m[..., :2] / depth * focal + K[:, None, :2, 2]


def unproject(points_px: Float[Tensor, "M P 2"], depth_m: Float[Tensor, "M P"], K: Float[Tensor, "M 3 3"]) -> Float[Tensor, "M P 3"]:
    """Pixels at a known depth (metres) back to the camera frame: the inverse of `project`."""
    focal = torch.stack([K[:, 0, 0], K[:, 1, 1]], -1)[:, None]
    return torch.cat([(points_px - K[:, None, :2, 2]) / focal * depth_m[..., None], depth_m[..., None]], -1)


def decode_translation(
    raw: Float[Tensor, "M 3"],
    center_px: Float[Tensor, "M 2"],
    window_px: Float[Tensor, " M"],
    K: Float[Tensor, "M 3 3"],
) -> Float[Tensor, "M 3"]:
    """Root position in the camera frame (metres) from three unbounded numbers.

    raw[:, :2] moves the root away from the hand's centre in units of the window's half side; raw[:, 2] is the logarithm of the hand's
    apparent scale relative to one that fills the window. Apparent scale (pixels per metre, f / z) is what an image shows, whatever the
    focal length, so one network serves crops and whole images of different cameras.
    """
    scale_px_per_m = window_px / WINDOW_HALF_M * raw[:, 2].clamp(-3.0, 3.0).exp()
    focal_px = (K[:, 0, 0] * K[:, 1, 1]).sqrt()
    depth_m = focal_px / scale_px_per_m
    root_px = center_px + raw[:, :2] * window_px[:, None]
    return unproject(root_px[:, None], depth_m[:, None], K)[:, 0]


def decode_offset_translation(
    raw: Float[Tensor, "M 3"], center_px: Float[Tensor, "M 2"], K: Float[Tensor, "M 3 3"]
) -> Float[Tensor, "M 3"]:
    """Root position in the camera frame (metres) as the paper's released code decodes it.

    raw[:, :2] are pixels from the hand's centre to the root, raw[:, 2] is metres beyond 0.8 m. It ties the weights to the focal length and
    the input size they were trained with.
    """
    depth_m = (raw[:, 2] + START_DEPTH_M).clamp(min=MIN_DEPTH_M)
    return unproject((center_px + raw[:, :2])[:, None], depth_m[:, None], K)[:, 0]
