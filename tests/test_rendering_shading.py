"""Spherical-harmonics shading, normals and the drawing of hands: values, limits, occlusion, gradients."""

import math

import pytest
import torch
import trimesh

from handnet.rendering import project_px, render_hands, sh_basis, shade, soft_silhouette, vertex_normals


def sphere(num=1, radius_m=0.08, center_m=(0.0, 0.0, 0.5), subdivisions=3, dtype=torch.float32):
    ball = trimesh.creation.icosphere(subdivisions=subdivisions)
    vertices = torch.tensor(ball.vertices * radius_m, dtype=dtype) + torch.tensor(center_m, dtype=dtype)
    return vertices.expand(num, -1, -1).clone(), torch.tensor(ball.faces).long().expand(num, -1, -1)


def camera(f=100.0, width=48, height=40, num=1):
    return torch.tensor([[f, 0, width / 2], [0, f, height / 2], [0, 0, 1]]).expand(num, 3, 3)


def test_sh_basis_is_the_cosine_lobes_convolution():
    """Order-2 irradiance of a distant light at direction d, integrated numerically over the sphere, is close to the basis' series."""
    generator = torch.Generator().manual_seed(0)
    normals = torch.nn.functional.normalize(torch.randn(400000, 3, generator=generator), dim=-1)
    basis = sh_basis(normals.double())
    gram = basis.T @ basis / len(basis) * 4 * math.pi
    a = [math.pi, 2 * math.pi / math.sqrt(3), 2 * math.pi / math.sqrt(8)]
    # orthogonal on the sphere, bands scaled by a0, a1, a2 (times what the reference constants carry in band 2)
    off = gram - torch.diag(gram.diag())
    assert off.abs().max() < 0.05 * gram.diag().min()
    torch.testing.assert_close(gram.diag()[:4].sqrt(), torch.tensor([a[0], a[1], a[1], a[1]]).double(), rtol=0.01, atol=0)
    assert gram.diag()[4:].std() < 0.02 * gram.diag()[4:].mean()


def test_sh_basis_signs():
    up, right, away = torch.tensor([0.0, -1, 0]), torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 0, 1])
    first = 2 * math.pi / math.sqrt(3) * math.sqrt(3) / math.sqrt(4 * math.pi)
    torch.testing.assert_close(sh_basis(up)[1:4], torch.tensor([first, 0, 0]))
    torch.testing.assert_close(sh_basis(right)[1:4], torch.tensor([0, 0, -first]))
    torch.testing.assert_close(sh_basis(away)[1:4], torch.tensor([0, first, 0]))
    assert sh_basis(up)[0] == pytest.approx(math.pi / math.sqrt(4 * math.pi))


def test_shade_is_channel_major_and_linear():
    vertices, faces = sphere(2)
    normals = vertex_normals(vertices, faces)
    albedo = torch.rand(2, vertices.shape[1], 3, generator=torch.Generator().manual_seed(1))
    light = torch.zeros(2, 27)
    light[:, 9] = 1 / 0.8862269  # ambient green
    shaded = shade(albedo, normals, light)
    torch.testing.assert_close(shaded[..., 1], albedo[..., 1])
    assert (shaded[..., [0, 2]] == 0).all()
    loop = torch.zeros_like(albedo)
    light = torch.randn(2, 27, generator=torch.Generator().manual_seed(2))
    for m in range(2):
        for channel in range(3):
            loop[m, :, channel] = albedo[m, :, channel] * (sh_basis(normals[m]) * light[m, 9 * channel : 9 * channel + 9]).sum(-1)
    torch.testing.assert_close(shade(albedo, normals, light), loop)
    with pytest.raises(ValueError, match=r"light \(2,27\) float, got \(2, 9\)"):
        shade(albedo, normals, light[:, :9])


def test_vertex_normals_point_out_and_match_a_loop():
    vertices, faces = sphere(2, subdivisions=1, dtype=torch.float64)
    vertices[1] += 0.02 * torch.randn(vertices[1].shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    normals = vertex_normals(vertices, faces)
    summed = torch.zeros_like(vertices)
    for m in range(2):
        for face in faces[m].tolist():
            a, b, c = vertices[m, face]
            summed[m, face] += torch.linalg.cross(b - a, c - a)
    torch.testing.assert_close(normals, summed / summed.norm(dim=-1, keepdim=True))
    outward = vertices[0] - torch.tensor([0, 0, 0.5])
    assert (torch.nn.functional.cosine_similarity(normals[0], outward, dim=-1) > 0.99).all()
    torch.testing.assert_close(vertex_normals(vertices, faces[0]), normals)
    assert torch.autograd.gradcheck(lambda v: vertex_normals(v, faces[:1, :20]), vertices[:1].clone().requires_grad_())


def test_projection_and_points_behind_the_camera():
    points = torch.tensor([[[0.1, -0.05, 0.5], [0.2, 0.2, -0.1], [0.3, 0.3, 0.0]]], requires_grad=True)
    pixels = project_px(points, camera(num=1))
    torch.testing.assert_close(pixels[0, 0], torch.tensor([24 + 20.0, 20 - 10.0, 0.5]))
    assert torch.isfinite(pixels).all()
    assert torch.equal(pixels[..., 2], points[..., 2])
    pixels.sum().backward()
    assert torch.isfinite(points.grad).all()


def test_near_hand_hides_far_hand_whatever_their_order():
    far, faces = sphere(center_m=(0.0, 0.0, 0.6))
    near, _ = sphere(center_m=(0.03, 0.0, 0.45), radius_m=0.03)
    for order in ((0, 1), (1, 0)):
        vertices = torch.cat([(far, near)[k] for k in order])
        colors = torch.stack([torch.full((vertices.shape[1], 3), 0.2 + 0.6 * k) for k in order])
        drawn = render_hands(vertices, faces.expand(2, -1, -1), colors, camera(num=2), torch.zeros(2, dtype=torch.int64), 1, 40, 48)
        row, column = 20, 24 + round(0.03 / 0.45 * 100)
        assert drawn.image[0, row, column, 0] == pytest.approx(0.8)
        assert drawn.hand_index[0, row, column] == order.index(1)
        assert drawn.hand_index[0, 20, 15] == order.index(0)
        assert drawn.depth_m[0, row, column] == pytest.approx(0.42, abs=0.002)
        assert drawn.hand_index[0, 0, 0] == -1
        assert drawn.depth_m[0, 0, 0] == 0
        assert torch.equal(drawn.silhouette > 0, drawn.hand_index >= 0)
    # the outline of a sphere is a circle of f r / sqrt(z^2 - r^2)
    area = math.pi * (100 * 0.08) ** 2 / (0.6**2 - 0.08**2)
    alone = render_hands(far, faces, colors[:1], camera(), torch.zeros(1, dtype=torch.int64), 1, 40, 48)
    assert alone.silhouette.sum() == pytest.approx(area, rel=0.03)


def test_no_hands_gives_background():
    vertices, faces = sphere()
    drawn = render_hands(vertices[:0], faces[:0], vertices[:0], camera()[:0], torch.zeros(0, dtype=torch.int64), 3, 8, 9)
    assert drawn.image.shape == (3, 8, 9, 3)
    assert drawn.image.abs().sum() == 0
    assert (drawn.hand_index == -1).all()
    assert soft_silhouette(vertices[:0], faces[:0], camera()[:0], torch.zeros(0, dtype=torch.int64), 2, 8, 9).sum() == 0


def test_gradients_recover_color_and_position():
    """Colours by the photometric error, position by the soft silhouette: both must come back by gradient descent."""
    vertices, faces = sphere(subdivisions=2)
    index = torch.zeros(1, dtype=torch.int64)
    truth = render_hands(vertices, faces, torch.full_like(vertices, 0.6), camera(), index, 1, 40, 48)
    outline = soft_silhouette(vertices, faces, camera(), index, 1, 40, 48)
    color = torch.zeros(3, requires_grad=True)
    shift = torch.tensor([0.02, -0.01, 0.0], requires_grad=True)
    optimizer = torch.optim.Adam([{"params": [color], "lr": 0.05}, {"params": [shift], "lr": 0.002}])
    for _ in range(60):
        moved = vertices + shift
        drawn = render_hands(moved, faces, color.expand_as(vertices), camera(), index, 1, 40, 48)
        mask = drawn.silhouette * truth.silhouette
        photometric = ((drawn.image - truth.image).abs().sum(-1) * mask).sum() / mask.sum()
        soft = soft_silhouette(moved, faces, camera(), index, 1, 40, 48)
        optimizer.zero_grad()
        (photometric + ((soft - outline) ** 2).mean() * 10).backward()
        optimizer.step()
    assert (color - 0.6).abs().max() < 0.08
    assert shift[:2].abs().max() < 0.002
    with pytest.raises(ValueError, match="sigma_px > 0"):
        soft_silhouette(vertices, faces, camera(), index, 1, 40, 48, sigma_px=0.0)
