"""Signed distances of the shapes a hand is put together from, negative inside; points (N, 3), millimetres.

A shape is anchored to a joint, or to a pair of joints, which means half-way between the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Anchor = int | tuple[int, int]


class Primitive(Protocol):
    """Anything with a signed distance."""

    def distance(self, points: Array) -> Array:
        """(N, 3) points in mm -> (N,) distances in mm."""
        ...


@dataclass(frozen=True)
class Cone:
    """A rounded cone from `start` to `end`, flattened along `up` by the factor `flat`."""

    start: Array
    end: Array
    start_radius: float
    end_radius: float
    up: Array
    flat: float = 1.0

    def distance(self, points: Array) -> Array:
        """Exact for flat = 1, otherwise that of the stretched space."""
        axis = self.end - self.start
        t = np.clip((points - self.start) @ axis / (axis @ axis), 0, 1)
        q = points - self.start - t[:, None] * axis
        if self.flat != 1:
            q = q + ((self.flat - 1) * (q @ self.up))[:, None] * self.up
        return np.linalg.norm(q, axis=1) - (self.start_radius + (self.end_radius - self.start_radius) * t)


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid with unit axes as rows of `axes` (3, 3) and half-lengths `radii` (3,)."""

    center: Array
    axes: Array
    radii: Array

    def distance(self, points: Array) -> Array:
        """First-order distance, right near the surface."""
        q = (points - self.center) @ self.axes.T / self.radii
        scaled, gradient = np.linalg.norm(q, axis=1), np.linalg.norm(q / self.radii, axis=1)
        return scaled * (scaled - 1) / np.maximum(gradient, 1e-9)


@dataclass(frozen=True)
class Membrane:
    """A triangle (a, b, c) thickened by `radius` on all sides."""

    a: Array
    b: Array
    c: Array
    radius: float

    def distance(self, points: Array) -> Array:
        """Exact."""
        ab, bc, ca = self.b - self.a, self.c - self.b, self.a - self.c
        normal = np.cross(ab, -ca)
        from_a, from_b, from_c = points - self.a, points - self.b, points - self.c
        inside = (from_a @ np.cross(normal, ab) >= 0) & (from_b @ np.cross(normal, bc) >= 0) & (from_c @ np.cross(normal, ca) >= 0)
        to_edges = np.minimum(np.minimum(_to_edge(from_a, ab), _to_edge(from_b, bc)), _to_edge(from_c, ca))
        return np.where(inside, np.abs(from_a @ normal) / np.linalg.norm(normal), to_edges) - self.radius


def _to_edge(from_start: Array, edge: Array) -> Array:
    return np.linalg.norm(from_start - np.clip(from_start @ edge / (edge @ edge), 0, 1)[:, None] * edge, axis=1)


def smooth_union(distances: list[Array], softness_mm: float) -> Array:
    """Union whose inner corners are filled over about `softness_mm` (a soft minimum)."""
    return -softness_mm * np.logaddexp.reduce(-np.stack(distances) / softness_mm, axis=0)
