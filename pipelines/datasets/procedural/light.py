"""Light around a hand: a soft sky of many directions and one to three key lights, with shadows from height maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.datasets.procedural.kernels import height_maps, light_shares, shade_vertices, smoothed

NUM_SKY = 14
SKY_MAP_SIZE = 56
KEY_MAP_SIZE = 128

FloatArray = NDArray[np.float32]


class Blocker(NamedTuple):
    """What casts a shadow: vertices (V,3) m in the camera frame and faces (F,3)."""

    vertices_m: FloatArray
    faces: NDArray[np.int64]


class Mesh(NamedTuple):
    """What is shaded, camera frame: (N,3) m, (F,3), unit normals (N,3), linear albedo (N,3), gloss (N,) in [0, 1]."""

    vertices_m: FloatArray
    faces: NDArray[np.int64]
    normals: FloatArray
    albedo: FloatArray
    gloss: FloatArray


@dataclass(frozen=True, kw_only=True)
class Lighting:
    """Directions point toward the light (camera frame); colours are the irradiance of a surface that faces it."""

    sky_directions: FloatArray  # (K,3)
    sky_color: FloatArray  # (K,3)
    key_directions: FloatArray  # (L,3)
    key_color: FloatArray  # (L,3)

    @property
    def ambient(self) -> FloatArray:
        """Mean colour of the sky's light on a surface of any direction, (3,)."""
        ambient: FloatArray = self.sky_color.sum(0) / 4
        return ambient


def white(warmth: float) -> FloatArray:
    """Colour of a light from cool (-1, overcast sky) over white (0) to warm (1, light bulb), green kept at 1."""
    warmth = min(max(warmth, -1.0), 1.0)
    return np.array([1 + 0.28 * warmth, 1.0, 1 - 0.38 * warmth], np.float32)


def _unit(vector: NDArray) -> NDArray:
    return vector / np.linalg.norm(vector, axis=-1, keepdims=True)


def _sphere(num: int, rng: np.random.Generator) -> NDArray:
    """Evenly spread directions (a Fibonacci sphere), randomly turned."""
    k = np.arange(num) + 0.5
    height, angle = 1 - 2 * k / num, np.pi * (1 + 5**0.5) * k + rng.uniform(0, 2 * np.pi)
    flat = np.sqrt(1 - height**2)
    points = np.stack([flat * np.cos(angle), height, flat * np.sin(angle)], -1)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    return points @ turn


def sample_lighting(rng: np.random.Generator) -> Lighting:
    """Indoors, outdoors, lamps and flashes; mean light on the hand near 1, with a spread of exposures."""
    up = _unit(np.array([0, -1, 0]) + rng.normal(0, 0.25, 3))
    sky_directions = _sphere(NUM_SKY, rng)
    height = sky_directions @ up
    warmth = rng.normal(0, 0.45)
    above, below = white(warmth - rng.uniform(0, 0.5)), white(warmth + rng.uniform(0, 0.6))
    floor = rng.uniform(0.15, 0.9)
    sky = np.where(height[:, None] > 0, above, below * floor) * (1 + 0.5 * height[:, None])
    window = _unit(rng.normal(size=3) * [1, 0.6, 1])
    sky = sky + rng.uniform(0, 1.5) * np.clip(sky_directions @ window, 0, 1)[:, None] ** 3 * white(rng.normal(0, 0.5))
    sky *= 4 / NUM_SKY / sky.mean()
    num_keys = int(rng.choice([1, 1, 2, 3]))
    directions, colors = [], []
    for k in range(num_keys):
        if rng.random() < 0.08:
            direction = np.array([rng.normal(0, 0.1), rng.normal(0, 0.1), -1.0])  # a flash beside the lens
        else:
            # from above and the camera's side more often than from behind the hand
            direction = np.array([rng.normal(0, 0.9), -0.55 + rng.normal(0, 0.6), -0.55 + rng.normal(0, 0.7)])
        directions.append(_unit(direction))
        strength = rng.uniform(0.5, 1.6) if k == 0 else rng.uniform(0.1, 0.7)
        colors.append(strength * white(rng.normal(0.15, 0.5)))
    key = np.array(colors)
    if rng.random() < 0.1:  # a screen, a neon sign, stage light
        key = key * np.exp(rng.normal(0, 0.45, key.shape))
    balance = rng.beta(1.6, 1.6)  # from flat light to hard light
    sky_part, key_part = 0.25 + 0.75 * (1 - balance), 0.2 + 1.0 * balance
    exposure = np.exp(rng.normal(0, 0.28))
    # the camera's white balance takes most of the common tint away
    tint = (sky.mean(0) * NUM_SKY / 4 * sky_part + key.sum(0) * key_part / 2) ** rng.uniform(0.3, 1.0)
    tint /= tint[1]
    sky = sky * sky_part * exposure / tint
    key = key * key_part * exposure / tint
    as_float = (np.asarray(a, np.float32) for a in (sky_directions, sky, np.array(directions), key))
    sky_directions, sky, key_directions, key = as_float
    return Lighting(sky_directions=sky_directions, sky_color=sky, key_directions=key_directions, key_color=key)


def frames_toward(directions: FloatArray) -> FloatArray:
    """(K,3) unit directions -> (K,3,3) right-handed frames with rows u, v, direction."""
    helper = np.where(np.abs(directions[:, 2:]) < 0.9, [[0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]])
    u = _unit(np.cross(helper, directions))
    return np.ascontiguousarray(np.stack([u, np.cross(directions, u), directions], 1), np.float32)


def shade_mesh(
    mesh: Mesh, wanted: NDArray[np.bool_], face_seen: NDArray[np.bool_], lighting: Lighting, sky_blocker: Blocker, key_blocker: Blocker
) -> FloatArray:
    """Linear colours (N,3) of the wanted vertices of a mesh; the sky's shadows come from one blocker, the key lights' from another."""
    low, high = sky_blocker.vertices_m.min(0), sky_blocker.vertices_m.max(0)
    center = (low + high) / 2
    radius_m = float(np.linalg.norm(sky_blocker.vertices_m - center, axis=1).max()) * 1.05
    shares = []
    for directions, blocker, size, bias_m, soft_m in (
        (lighting.sky_directions, sky_blocker, SKY_MAP_SIZE, 0.003, 0.0),
        (lighting.key_directions, key_blocker, KEY_MAP_SIZE, 0.0025, 0.02),
    ):
        frames = frames_toward(directions)
        maps = height_maps(blocker.vertices_m, blocker.faces, frames, center, radius_m, size)
        shares.append(
            light_shares(mesh.vertices_m, mesh.normals, wanted, frames, maps, center, radius_m, np.float32(bias_m), np.float32(soft_m))
        )
    colors: FloatArray = shade_vertices(
        mesh.vertices_m,
        mesh.normals,
        wanted,
        mesh.albedo,
        mesh.gloss,
        lighting.sky_directions,
        lighting.sky_color,
        shares[0],
        lighting.key_directions,
        lighting.key_color,
        smoothed(shares[1], mesh.faces, face_seen, 2),
    )
    return colors
