"""The soft silhouette's own passes: against a loop over pixels and faces, gradcheck, threads, saturation."""

import math

import numpy as np
import pytest
import torch
from test_rendering_rasterize import blobs

from handnet.rendering import rasterize, soft_silhouette
from handnet.rendering.soft import soft_union

SIGMA_PX = 0.7
BLUR_PX = SIGMA_PX * math.sqrt(math.log(1e4 - 1))


def naive(vertices, faces, images, num_images, height, width):
    """1 - prod(1 - sigmoid(-d / sigma²)), one pixel and one face after another."""
    outside = np.ones((num_images, height, width))
    for m, image in enumerate(images.tolist()):
        for triangle in vertices[m].numpy()[faces[m].numpy()]:
            if triangle[:, 2].min() < 1e-8:
                continue
            corners = triangle[:, :2]
            for i in range(height):
                for j in range(width):
                    point, turns, distance = np.array([j + 0.5, i + 0.5]), [], math.inf
                    for a, b in zip(corners, np.roll(corners, -1, 0), strict=True):
                        edge, way = b - a, point - a
                        share = np.clip(way @ edge / (edge @ edge), 0, 1)
                        distance = min(distance, ((way - share * edge) ** 2).sum())
                        turns.append(edge[0] * way[1] - edge[1] * way[0] > 0)
                    if distance < BLUR_PX**2 or len(set(turns)) == 1:
                        d = -distance if len(set(turns)) == 1 else distance
                        outside[image, i, j] *= 1 - 1 / (1 + math.exp(d / SIGMA_PX**2))
    return 1 - outside


def test_against_the_loop():
    vertices, faces, images = blobs(12, 17, num=3, images=(1, 0, 1), dtype=torch.float64, subdivisions=0)
    vertices[2, :4, 2] *= -1  # behind the camera
    expected = naive(vertices, faces, images, 2, 12, 17)
    found = soft_union(vertices, faces, images, 2, 12, 17, SIGMA_PX, BLUR_PX)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)
    assert ((expected > 0.05) & (expected < 0.95)).mean() > 0.05


def test_gradcheck():
    """Every coordinate, depth too (it has none): float64, a step too small to carry a face over the edge of its reach."""
    vertices, faces, images = blobs(9, 11, num=3, images=(1, 0, 1), dtype=torch.float64, subdivisions=0)
    assert torch.autograd.gradcheck(
        lambda given: soft_union(given, faces, images, 2, 9, 11, SIGMA_PX, BLUR_PX), vertices.requires_grad_(), eps=1e-7, atol=1e-5
    )


def test_fragment_lists_give_the_same():
    """The route of other devices: the fragments of `rasterize` and torch's product and gradients."""
    vertices, faces, images = blobs(24, 32)
    results = []
    for route in ("passes", "fragments"):
        given = vertices.clone().requires_grad_()
        if route == "passes":
            found = soft_union(given, faces, images, 2, 24, 32, SIGMA_PX, BLUR_PX)
        else:
            fragments = rasterize(given, faces, images, 2, 24, 32, faces_per_pixel=120, blur_px=BLUR_PX)
            outside = torch.sigmoid(fragments.signed_distance_px2 / SIGMA_PX**2)
            found = 1 - torch.where(fragments.face_index >= 0, outside, 1.0).prod(-1)
        (found * torch.linspace(-1, 1, 32)).sum().backward()
        results.append((found.detach(), given.grad))
    torch.testing.assert_close(*[result[0] for result in results], atol=1e-5, rtol=0)
    assert (results[0][1] - results[1][1]).norm() < 1e-5 * results[1][1].norm()


def test_result_and_gradient_do_not_depend_on_threads():
    before, results = torch.get_num_threads(), []
    for num_threads in (1, 2, 3):
        torch.set_num_threads(num_threads)
        vertices, faces, images = blobs(40, 48)
        union = soft_union(vertices.requires_grad_(), faces, images, 2, 40, 48, SIGMA_PX, BLUR_PX)
        union.square().sum().backward()
        results.append((union.detach(), vertices.grad))
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 40), (40, 3)])
def test_a_face_over_the_whole_image_is_opaque(height, width):
    """Large distances saturate: exactly 1 with gradient 0, and nothing is written outside the image."""
    triangle = torch.tensor([[[-900.0, -900.0, 0.5], [2000.0, -900.0, 0.5], [-900.0, 2000.0, 0.5]]], requires_grad=True)
    placed = (torch.tensor([[[0, 1, 2]]]), torch.tensor([1]), 3, height, width)
    union = soft_union(triangle, *placed, SIGMA_PX, BLUR_PX)
    assert torch.equal(union, torch.tensor([0.0, 1.0, 0.0])[:, None, None].expand(3, height, width))
    union.sum().backward()
    assert (triangle.grad == 0).all()
    empty = soft_union(torch.tensor([[[1.0, 1, 0.5], [1, 1, 0.5], [2, 2, 0.5]]]), *placed, SIGMA_PX, BLUR_PX)
    assert (empty == 0).all()


def test_wrong_arguments_are_named():
    vertices, faces, images = blobs(16, 24)
    K = torch.eye(3).expand(4, 3, 3)
    with pytest.raises(ValueError, match=r"soft_silhouette: expected faces in \[0, 162\), got 1..162"):
        soft_silhouette(vertices, faces + 1, K, images, 2, 16, 24)
    with pytest.raises(ValueError, match=r"soft_silhouette: expected image_index in \[0, 1\), got 0..1"):
        soft_silhouette(vertices, faces, K, images, 1, 16, 24)
    with pytest.raises(ValueError, match="sigma_px > 0, got nan"):
        soft_silhouette(vertices, faces, K, images, 2, 16, 24, sigma_px=math.nan)
    with pytest.raises(ValueError, match="height and width >= 1"):
        soft_silhouette(vertices, faces, K, images, 2, 0, 24)
