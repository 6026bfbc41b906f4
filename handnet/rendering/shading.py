"""Vertex normals and second-order spherical-harmonics shading (27 coefficients: 9 for each of R, G, B).

Normals are unit vectors in the camera frame (x right, y down, z forward), pointing out of the surface.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from handnet.precision import full_precision
from handnet.rendering.checks import check_float, check_index

_A0, _A1, _A2 = math.pi, 2 * math.pi / math.sqrt(3), 2 * math.pi / math.sqrt(8)
_C0, _C1, _C2 = 1 / math.sqrt(4 * math.pi), math.sqrt(3) / math.sqrt(4 * math.pi), 3 * math.sqrt(5) / math.sqrt(12 * math.pi)
_D0 = 0.5 / math.sqrt(3)


@full_precision
def sh_basis(normals: Tensor) -> Tensor:
    """Unit normals (...,3) -> the nine SH basis values (...,9), already convolved with the cosine lobe."""
    x, y, z = normals.unbind(-1)
    first, second = _A1 * _C1, _A2 * _C2
    return torch.stack(
        [
            torch.full_like(x, _A0 * _C0),
            -first * y,
            first * z,
            -first * x,
            second * x * y,
            -second * y * z,
            second * _D0 * (3 * z * z - 1),
            -second * x * z,
            0.5 * second * (x * x - y * y),
        ],
        dim=-1,
    )


@full_precision
def shade(albedo: Tensor, normals: Tensor, light: Tensor) -> Tensor:
    """albedo (M,V,3) * irradiance; normals (M,V,3) unit, light (M,27): nine coefficients of red, then green, then blue.

    Returns (M,V,3), not clamped. White ambient light of strength a is a / 0.886 in coefficients 0, 9 and 18.
    Raises ValueError for other shapes, and on the CPU for values that are not finite.
    """
    check_float("shade", "albedo", albedo, "M", "V", 3)
    check_float("shade", "normals", normals, *albedo.shape)
    check_float("shade", "light", light, len(albedo), 27)
    return albedo * (sh_basis(normals) @ light.to(normals.dtype).view(-1, 3, 9).transpose(1, 2))


@full_precision
def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Unit vertex normals (M,V,3), area-weighted over the faces around each vertex.

    vertices (M,V,3); faces (M,F,3) or (F,3) int64, counter-clockwise seen from outside in a right-handed frame.
    A vertex without a face of positive area gets a zero vector. Errors as of `shade`, and for indices out of range.
    """
    check_float("vertex_normals", "vertices", vertices, "M", "V", 3)
    num_meshes, num_vertices, _ = vertices.shape
    if faces.ndim == 2:
        faces = faces.expand(num_meshes, -1, -1)
    check_index("vertex_normals", "faces", faces, num_vertices, num_meshes, "F", 3)
    offset = num_vertices * torch.arange(num_meshes, device=faces.device)[:, None, None]
    corners = (faces + offset).permute(2, 0, 1).reshape(-1)
    flat = vertices.reshape(-1, 3)
    a, b, c = flat.index_select(0, corners).view(3, -1, 3)
    face_normal = torch.linalg.cross(b - a, c - a)
    summed = torch.zeros_like(flat).index_add(0, corners, face_normal.repeat(3, 1))
    return torch.nn.functional.normalize(summed, dim=-1, eps=1e-12).view_as(vertices)
