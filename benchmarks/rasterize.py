"""Speed of drawing hands forward and backward on the CPU, beside PyTorch3D's rasteriser: `python -m benchmarks.rasterize [--threads N]`.

Wall time, the least of several runs, PyTorch3D's and ours in turn (half a minute in all; `--no-pytorch3d` takes seconds).
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from handnet.hand.files import load_hand
from handnet.rendering import project_px, rasterize, render_hands, shade, soft_silhouette, vertex_normals
from handnet.rendering.pytorch3d_backend import px_to_ndc

SIGMA_PX = 0.7
BLUR_PX = SIGMA_PX * math.sqrt(math.log(1e4 - 1))
# Faces that a pixel of a hand at 224 px touches at most, so that PyTorch3D finds what ours finds.
SOFT_FACES_PER_PIXEL = 50


def hands(num_hands: int, num_images: int, side_px: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Randomly turned hands: vertices (M,778,3), faces (M,1538,3), K (M,3,3), image index (M,)."""
    model = load_hand()
    generator = torch.Generator().manual_seed(0)
    template = torch.tensor(model.v_template[1], dtype=torch.float32)
    turns = torch.linalg.qr(torch.randn(num_hands, 3, 3, generator=generator))[0]
    place = (torch.rand(num_hands, 1, 3, generator=generator) - 0.5) * torch.tensor([0.05, 0.05, 0.1])
    vertices = (template - template.mean(0)) @ turns.transpose(1, 2) + place + torch.tensor([0, 0, 0.5])
    K = torch.tensor([[2.0 * side_px, 0, side_px / 2], [0, 2.0 * side_px, side_px / 2], [0, 0, 1]])
    faces = torch.tensor(model.faces[1])
    return vertices, faces.expand(num_hands, -1, -1), K.expand(num_hands, 3, 3), torch.arange(num_hands) * num_images // num_hands


def least_ms(routines: list[Callable[[], Tensor]], repeats: int) -> list[float]:
    """Milliseconds of each routine and the backward pass of what it returns; in turn, the least of `repeats`."""
    least = [math.inf] * len(routines)
    for _ in range(repeats):
        for k, routine in enumerate(routines):
            start = time.perf_counter()
            routine().backward()
            least[k] = min(least[k], 1000 * (time.perf_counter() - start))
    return least


def drawing(num_hands: int, num_images: int, side_px: int) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """The hard picture with shading and an L1 loss, and the soft silhouette with one, of the same hands."""
    vertices, faces, K, index = hands(num_hands, num_images, side_px)
    albedo, light = torch.rand(num_hands, 778, 3), torch.rand(num_hands, 27)
    target = torch.rand(num_images, side_px, side_px, 3)
    given = vertices.requires_grad_()

    def hard() -> Tensor:
        colors = shade(albedo, vertex_normals(given, faces), light)
        drawn = render_hands(given, faces, colors, K, index, num_images, side_px, side_px)
        return ((drawn.image - target).abs() * drawn.silhouette[..., None]).sum() / drawn.silhouette.sum()

    def soft() -> Tensor:
        return (soft_silhouette(given, faces, K, index, num_images, side_px, side_px, sigma_px=SIGMA_PX) - target[..., 0]).abs().mean()

    return hard, soft


def rasterisers(side_px: int) -> dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]]:
    """One hand, PyTorch3D's rasteriser and ours: all fragments of the hard picture, and the soft silhouette."""
    from pytorch3d.renderer.mesh.rasterize_meshes import rasterize_meshes
    from pytorch3d.structures import Meshes

    vertices, faces, K, index = hands(1, 1, side_px)
    given = project_px(vertices, K).requires_grad_()
    camera = vertices.clone().requires_grad_()

    def theirs(blur_px: float, faces_per_pixel: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        fragments: tuple[Tensor, Tensor, Tensor, Tensor] = rasterize_meshes(
            Meshes(px_to_ndc(given, side_px, side_px), faces),
            image_size=side_px,
            blur_radius=(2 * blur_px / side_px) ** 2,
            faces_per_pixel=faces_per_pixel,
            perspective_correct=True,
            clip_barycentric_coords=blur_px > 0,
        )
        return fragments

    def their_hard() -> Tensor:
        _, depth, barycentric, distance = theirs(0.0, 1)
        return depth.sum() + barycentric.square().sum() + distance.sum()

    def our_hard() -> Tensor:
        found = rasterize(given, faces, index, 1, side_px, side_px)
        return found.depth_m.sum() + found.barycentric.square().sum() + found.signed_distance_px2.sum()

    def their_soft() -> Tensor:
        found, _, _, distance = theirs(BLUR_PX, SOFT_FACES_PER_PIXEL)
        outside = torch.sigmoid(distance * (side_px / 2 / SIGMA_PX) ** 2)
        return (1 - torch.where(found >= 0, outside, 1.0).prod(-1)).square().sum()

    def our_soft() -> Tensor:
        return soft_silhouette(camera, faces, K, index, 1, side_px, side_px, sigma_px=SIGMA_PX).square().sum()

    return {"hard fragments": (their_hard, our_hard), "soft silhouette": (their_soft, our_soft)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--no-pytorch3d", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"forward + backward, {arguments.threads} threads, ms")
    print(f"{'hands':>5} {'images':>6} {'px':>4} {'shaded picture':>15} {'soft silhouette':>16}")
    for num_hands, num_images, side_px in ((1, 1, 224), (8, 8, 224), (32, 32, 56), (32, 32, 64), (10, 1, 512)):
        routines = list(drawing(num_hands, num_images, side_px))
        least_ms(routines, 1)  # compiles
        hard, soft = least_ms(routines, arguments.repeats)
        print(f"{num_hands:5d} {num_images:6d} {side_px:4d} {hard:15.1f} {soft:16.1f}")
    if arguments.no_pytorch3d:
        return
    torch.set_num_threads(1)  # PyTorch3D's CPU rasteriser uses no more for one image
    print("one hand at 224 px, one thread")
    for name, (theirs, ours) in rasterisers(224).items():
        least_ms([ours], arguments.repeats)
        slow, fast = least_ms([theirs, ours], 2 if name == "hard fragments" else 1)
        fast = min(fast, *least_ms([ours], arguments.repeats))
        print(f"{name:>16}: PyTorch3D {slow:.0f} ms, ours {fast:.2f} ms, {slow / fast:.0f} x faster")


if __name__ == "__main__":
    main()
