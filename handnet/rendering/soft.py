"""The soft union of meshes on the CPU: compiled forward and backward passes over the faces, without lists of fragments.

A product over faces needs no depth order, so nothing is sorted, cut or stored: the backward pass measures once more.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from handnet.rendering import kernels
from handnet.rendering.visibility import meshes_by_image, num_row_bands, run_jobs, smallest_area

# Jobs that the faces of a mesh are cut into in the backward pass.
_RUNS = 4


def soft_union(
    vertices_px: Tensor, faces: Tensor, image_index: Tensor, num_images: int, height: int, width: int, sigma_px: float, blur_px: float
) -> Tensor:
    """1 - prod(sigmoid(d / sigma_px²)) over the faces with d < blur_px²; (B,H,W), differentiable (once) in x and y.

    Arguments as of `rasterize`, on the CPU and already checked; d is the signed squared distance (px²) to a face.
    """
    union: Tensor = _SoftUnion.apply(vertices_px, faces, image_index, num_images, height, width, sigma_px, blur_px)
    return union


class _SoftUnion(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        vertices_px: Tensor,
        faces: Tensor,
        image_index: Tensor,
        num_images: int,
        height: int,
        width: int,
        sigma_px: float,
        blur_px: float,
    ) -> Tensor:
        vertices, triangles, images = _arrays(vertices_px, faces, image_index)
        meshes, starts = meshes_by_image(images, num_images)
        product = np.ones((num_images, height, width + kernels.LANES))
        num_threads = torch.get_num_threads()
        num_bands = num_row_bands(num_images, num_threads)
        sharpness, min_area = 1 / sigma_px**2, smallest_area(height, width)

        def run(first_job: int, last_job: int) -> None:
            kernels.multiply(vertices, triangles, meshes, starts, num_bands, first_job, last_job, blur_px, sharpness, min_area, product)

        run_jobs(run, num_images * num_bands, num_threads)
        ctx.measure = (blur_px, sharpness, min_area)
        ctx.save_for_backward(vertices_px, faces, image_index, torch.from_numpy(product))
        return torch.from_numpy(1.0 - product[..., :width]).to(vertices_px.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        vertices_px, faces, image_index, product = ctx.saved_tensors
        vertices, triangles, images = _arrays(vertices_px, faces, image_index)
        blur_px, sharpness, min_area = ctx.measure
        slope = torch.where(product < kernels.OPAQUE, 0.0, -product)
        slope[..., : upstream.shape[2]] *= upstream
        slope[..., upstream.shape[2] :] = 0.0
        per_face = np.zeros((*triangles.shape, 2))

        def run(first_job: int, last_job: int) -> None:
            kernels.pull(vertices, triangles, images, _RUNS, first_job, last_job, blur_px, sharpness, min_area, slope.numpy(), per_face)

        run_jobs(run, len(triangles) * _RUNS, torch.get_num_threads())
        gradient = np.zeros(vertices.shape)
        kernels.gather(triangles, per_face, gradient)
        return torch.from_numpy(gradient).to(vertices_px.dtype), None, None, None, None, None, None, None


def _arrays(vertices_px: Tensor, faces: Tensor, image_index: Tensor) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    return vertices_px.detach().double().contiguous().numpy(), faces.contiguous().numpy(), image_index.numpy()
