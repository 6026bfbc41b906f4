"""Rasterising, shading and silhouettes of hand meshes in pixel coordinates.

Visibility comes from a compiled kernel on the CPU and from PyTorch3D on CUDA; everything with a gradient is torch.
"""

from handnet.rendering.rasterize import Fragments, interpolate, rasterize
from handnet.rendering.render import Rendering, project_px, render_hands, soft_silhouette
from handnet.rendering.shading import sh_basis, shade, vertex_normals
from handnet.rendering.visibility import zbuffer

__all__ = [
    "Fragments",
    "Rendering",
    "interpolate",
    "project_px",
    "rasterize",
    "render_hands",
    "sh_basis",
    "shade",
    "soft_silhouette",
    "vertex_normals",
    "zbuffer",
]
