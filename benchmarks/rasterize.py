"""Milliseconds of drawing hands forward and backward on the CPU: `python -m benchmarks.rasterize [--threads N] [--pytorch3d]`.

Forward = normals, shading, visibility, barycentrics, interpolated colours; then an L1 loss and its backward.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from handnet.hand.files import load_hand
from handnet.rendering import project_px, rasterize, render_hands, shade, soft_silhouette, vertex_normals


def hands(num_hands: int, num_images: int, side_px: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--pytorch3d", action="store_true", help="also time PyTorch3D's visibility (minutes on a CPU)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    # one thread: CPU time, so that other programs count less
    clock = time.process_time if arguments.threads == 1 else time.perf_counter
    print(f"{'hands':>5} {'images':>6} {'px':>4} {'forward ms':>11} {'backward ms':>12} {'soft f+b ms':>12}")
    for num_hands, num_images, side_px in ((32, 32, 56), (8, 8, 224), (10, 1, 512)):
        vertices, faces, K, index = hands(num_hands, num_images, side_px)
        albedo, light = torch.rand(num_hands, 778, 3), torch.rand(num_hands, 27)
        target = torch.rand(num_images, side_px, side_px, 3)
        forward, backward, soft = [], [], []
        for repeat in range(arguments.repeats + 1):
            given = vertices.clone().requires_grad_()
            start = clock()
            drawn = render_hands(given, faces, shade(albedo, vertex_normals(given, faces), light), K, index, num_images, side_px, side_px)
            middle = clock()
            (((drawn.image - target).abs() * drawn.silhouette[..., None]).sum() / drawn.silhouette.sum()).backward()
            end = clock()
            soft_silhouette(given, faces, K, index, num_images, side_px, side_px, faces_per_pixel=8).mean().backward()
            if repeat:  # the first run compiles
                forward.append(middle - start)
                backward.append(end - middle)
                soft.append(clock() - end)
        medians = [1000 * statistics.median(times) for times in (forward, backward, soft)]
        print(f"{num_hands:5d} {num_images:6d} {side_px:4d} {medians[0]:11.1f} {medians[1]:12.1f} {medians[2]:12.1f}")
        if arguments.pytorch3d:
            start = time.perf_counter()
            rasterize(project_px(vertices, K), faces, index, num_images, side_px, side_px, backend="pytorch3d")
            print(f"      PyTorch3D's visibility alone: {1000 * (time.perf_counter() - start):.0f} ms")


if __name__ == "__main__":
    main()
