"""One photograph of one posed hand: fine mesh, forearm, light, visibility, background, lens and sensor."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from handnet.rendering.visibility import zbuffer
from pipelines.datasets.procedural.background import make_background
from pipelines.datasets.procedural.color import BYTE_TO_LINEAR, DISPLAY, MAX_LIGHT
from pipelines.datasets.procedural.forearm import make_forearm
from pipelines.datasets.procedural.identity import Identity
from pipelines.datasets.procedural.kernels import composite, develop, resolve, seen, vertex_normals
from pipelines.datasets.procedural.light import Blocker, Lighting, Mesh, sample_lighting, shade_mesh
from pipelines.datasets.procedural.surface import Surface
from pipelines.datasets.procedural.view import project

SUPERSAMPLING = 2


class Picture(NamedTuple):
    image: NDArray[np.uint8]  # (H,W,3) RGB
    mask: NDArray[np.uint8]  # (H,W) 1 where at least half of the pixel shows the hand, else 0; forearm and sleeve are not hand


def paint(
    surface: Surface,
    identity: Identity,
    vertices_m: NDArray[np.float32],
    rotation: NDArray,
    side: int,
    K: NDArray,
    size: int,
    rng: np.random.Generator,
    backgrounds: tuple[Path, ...] = (),
) -> Picture:
    """Photograph a hand: vertices_m (778,3) camera frame, rotation (3,3) of its root, side 0 left or 1 right, K (3,3) px."""
    faces = np.ascontiguousarray(surface.faces if side == 1 else surface.faces[:, ::-1])
    smooth = surface.matrix @ vertices_m
    hand = smooth + identity.relief_m[:, None] * vertex_normals(smooth, faces)
    loop = surface.wrist_loop if side == 1 else surface.wrist_loop[::-1]
    to_elbow = rotation[:, 0] if side == 1 else -rotation[:, 0]
    arm = make_forearm(hand, identity.albedo, loop, to_elbow, rotation[:, 2], rng)
    vertices, all_faces = np.concatenate([hand, arm.vertices_m]), np.concatenate([faces, arm.faces])
    pixels = np.concatenate([project(vertices, K), vertices[:, 2:]], 1)
    left, top, width, height = _window(pixels, size)
    samples = (pixels - [left, top, 0]) * [SUPERSAMPLING, SUPERSAMPLING, 1]
    face_id, bary, _ = zbuffer(samples, all_faces, height * SUPERSAMPLING, width * SUPERSAMPLING, cull_back_faces=True)
    face_seen, vertex_seen = seen(face_id, all_faces, len(vertices))
    mesh = Mesh(
        vertices,
        all_faces,
        vertex_normals(vertices, all_faces),
        np.concatenate([identity.albedo, arm.albedo]),
        np.concatenate([identity.gloss, arm.gloss]),
    )
    lighting = sample_lighting(rng)
    coarse, middle = Blocker(vertices_m, surface.coarse_faces), Blocker(hand, surface.middle_faces)
    colors = shade_mesh(mesh, vertex_seen, face_seen, lighting, coarse, middle)
    light, coverage, hand_share = resolve(face_id, bary, all_faces, colors, len(faces), SUPERSAMPLING)
    background = make_background(size, rng, backgrounds)
    composed = composite(background, BYTE_TO_LINEAR, _scene_light(lighting, rng), light, coverage, top, left)
    mask = np.zeros((size, size), np.uint8)
    mask[top : top + height, left : left + width] = hand_share >= 0.5
    return Picture(_photograph(composed, _exposure(light, coverage, rng), rng), mask)


def _window(pixels: NDArray, size: int) -> tuple[int, int, int, int]:
    """Left, top, width and height (at least 1) of the image's part that vertices (N,3: x px, y px, z m) can reach."""
    front = pixels if pixels[:, 2].min() > 0 else pixels[pixels[:, 2] > 0]
    low = np.clip(np.floor(front[:, :2].min(0)), 0, size - 1).astype(int)
    high = np.clip(np.ceil(front[:, :2].max(0)), low + 1, size).astype(int)
    return int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1])


def _exposure(light: NDArray[np.float32], coverage: NDArray[np.float32], rng: np.random.Generator) -> np.float32:
    """Gain of a camera that keeps bright skin from burning out, most of the time, and lifts very dark pictures a little."""
    mean = float(light.sum()) / max(3 * float(coverage.sum()), 1e-6)
    bright, dark = rng.uniform(0.28, 0.6), rng.uniform(0.02, 0.06)
    return np.float32(min(1.0, bright / max(mean, 1e-6)) * max(1.0, (dark / max(mean, 1e-6)) ** 0.7))


def _scene_light(lighting: Lighting, rng: np.random.Generator) -> NDArray[np.float32]:
    """Colour (3,) by which the background is lit: partly the hand's own light, so that the two belong together."""
    ambient = lighting.ambient + 0.3 * lighting.key_color.sum(0)
    level = ambient.mean()
    scene: NDArray[np.float32] = (ambient / level) ** np.float32(rng.uniform(0, 1)) * np.float32(level ** rng.uniform(0, 1))
    return scene


def _photograph(linear: NDArray[np.float32], exposure: np.float32, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Linear light (H,W,3) -> 8-bit photograph: lens blur, exposure curve, sensor noise."""
    blur_px = rng.choice([0.0, 0.45, 0.8, 1.3], p=[0.35, 0.35, 0.2, 0.1]) * len(linear) / 224
    if blur_px > 0.3:
        linear = np.asarray(cv2.GaussianBlur(linear, (0, 0), blur_px), np.float32)
    strength = rng.choice([0.5, 1.5, 4.0], p=[0.4, 0.4, 0.2])
    noise = np.frombuffer(rng.bytes(linear.size * 2), np.uint8).reshape(*linear.shape, 2)
    photograph: NDArray[np.uint8] = develop(linear, exposure, DISPLAY, MAX_LIGHT, noise, strength)
    return photograph
