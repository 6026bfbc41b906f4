"""What rendering does with its inputs: half precision and autocast, wrong shapes and values, and no copies to the host."""

import pytest
import torch
from pytorch3d import _C
from test_rendering_rasterize import blobs
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from handnet.rendering import project_px, render_hands, sh_basis, shade, soft_silhouette, vertex_normals
from handnet.rendering.pytorch3d_backend import visible_faces

SIZE = (2, 24, 32)


@pytest.fixture
def scene():
    """Four bumpy spheres in the camera frame: vertices (M,V,3), faces, K, image_index, albedo, light."""
    vertices, faces, images = blobs(24, 32)
    generator = torch.Generator().manual_seed(0)
    K = torch.tensor([[60.0, 0, 16], [0, 60.0, 12], [0, 0, 1]]).expand(4, 3, 3)
    z = vertices[..., 2:]
    camera = torch.cat([(vertices[..., :2] - K[0, :2, 2]) / 60 * z, z], -1)
    return camera, faces, K, images, torch.rand(camera.shape, generator=generator), torch.randn(4, 27, generator=generator)


def draw(scene):
    """Everything from vertices, albedo and light to picture and soft silhouette; a loss over them, and what it depends on."""
    vertices, faces, K, images, albedo, light = scene
    inputs = [value.clone().requires_grad_() for value in (vertices, albedo, light)]
    normals = vertex_normals(inputs[0], faces)
    colors = shade(inputs[1], normals, inputs[2])
    drawn = render_hands(inputs[0], faces, colors, K, images, *SIZE)
    soft = soft_silhouette(inputs[0], faces, K, images, *SIZE)
    loss = drawn.image.square().sum() + drawn.depth_m.sum() + soft.square().sum()
    return {"normals": normals, "basis": sh_basis(normals), "colors": colors, **drawn._asdict(), "soft": soft}, loss, inputs


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(scene, dtype):
    expected, expected_loss, expected_inputs = draw(scene)
    with torch.autocast("cpu", dtype=dtype):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
        found, loss, inputs = draw(scene)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
        assert value.dtype == (torch.int64 if name == "hand_index" else torch.float32)
    for mine, other in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(expected_loss, expected_inputs), strict=True):
        assert torch.equal(mine, other)


def test_half_precision_is_lifted(scene):
    """Colours and light as a network under autocast gives them: computed in float32, with gradients of the inputs' own type."""
    vertices, faces, K, images, albedo, light = scene
    half = [value.bfloat16().requires_grad_() for value in (albedo, light)]
    colors = shade(half[0], vertex_normals(vertices, faces), half[1])
    drawn = render_hands(vertices, faces, colors.bfloat16(), K, images, *SIZE)
    assert colors.dtype == drawn.image.dtype == torch.float32
    torch.testing.assert_close(colors, shade(half[0].float(), vertex_normals(vertices, faces), half[1].float()))
    drawn.image.sum().backward()
    assert half[0].grad.dtype == half[1].grad.dtype == torch.bfloat16
    assert half[1].grad.abs().sum() > 0


def test_float64_stays(scene):
    vertices, faces, K, images, albedo, light = (value.double() if value.is_floating_point() else value for value in scene)
    colors = shade(albedo, vertex_normals(vertices, faces), light)
    drawn = render_hands(vertices, faces, colors, K.float(), images, *SIZE)
    assert {drawn.image.dtype, drawn.depth_m.dtype, soft_silhouette(vertices, faces, K, images, *SIZE).dtype} == {torch.float64}


def nan_at(value, *index):
    broken = value.clone()
    broken[index] = float("nan")
    return broken


def test_render_hands_names_what_is_wrong(scene):
    vertices, faces, K, images, albedo, _ = scene
    for change, match in (
        ({"vertices_m": vertices[0]}, r"vertices_m \(M,V,3\) float, got \(162, 3\)"),
        ({"vertices_m": vertices.long()}, r"vertices_m \(M,V,3\) float, got .* torch.int64"),
        ({"vertices_m": nan_at(vertices, 2, 5, 0)}, r"finite vertices_m, got NaN or infinity in meshes \[2\]"),
        ({"K": K[:2]}, r"K \(4,3,3\) float, got \(2, 3, 3\)"),
        ({"K": nan_at(K, 1, 0, 2)}, r"finite K, got NaN or infinity in meshes \[1\]"),
        ({"colors": albedo[:, :-1]}, r"colors \(4,162,3\) float, got \(4, 161, 3\)"),
        ({"colors": albedo[..., :1]}, r"colors \(4,162,3\) float, got \(4, 162, 1\)"),
        ({"colors": nan_at(albedo, 3, 0, 0)}, r"finite colors, got NaN or infinity in meshes \[3\]"),
        ({"colors": (255 * albedo).byte()}, r"colors \(4,162,3\) float, got .* torch.uint8"),
        ({"faces": faces.int()}, r"faces \(4,F,3\) int64, got \(4, 320, 3\) torch.int32"),
        ({"faces": faces + 1}, r"faces in \[0, 162\), got 1..162"),
        ({"faces": faces - 1}, r"faces in \[0, 162\), got -1..160"),
        ({"image_index": images + 1}, r"image_index in \[0, 2\), got 1..2"),
        ({"image_index": images[:3]}, r"image_index \(4,\) int64, got \(3,\)"),
        ({"num_images": -1}, "num_images >= 0"),
        ({"width": 0}, "height and width >= 1"),
    ):
        right = {"vertices_m": vertices, "faces": faces, "colors": albedo, "K": K, "image_index": images}
        with pytest.raises(ValueError, match=match):
            render_hands(**(right | dict(zip(("num_images", "height", "width"), SIZE, strict=True)) | change))


def test_shade_and_normals_name_what_is_wrong(scene):
    vertices, faces, _, _, albedo, light = scene
    normals = vertex_normals(vertices, faces)
    for arguments, match in (
        ((albedo[:, 1:], normals, light), r"shade: expected normals \(4,161,3\) float, got \(4, 162, 3\)"),
        ((albedo, normals, light[:, :9]), r"shade: expected light \(4,27\) float, got \(4, 9\)"),
        ((albedo, normals, light[:3]), r"shade: expected light \(4,27\) float, got \(3, 27\)"),
        ((albedo[0], normals, light), r"shade: expected albedo \(M,V,3\) float, got \(162, 3\)"),
        ((albedo, normals, nan_at(light, 1, 4)), r"shade: expected finite light, got NaN or infinity in meshes \[1\]"),
        ((nan_at(albedo, 0, 0, 0), normals, light), "finite albedo"),
    ):
        with pytest.raises(ValueError, match=match):
            shade(*arguments)
    for arguments, match in (
        ((vertices, faces + 1), r"vertex_normals: expected faces in \[0, 162\), got 1..162"),
        ((vertices, faces[:2]), r"vertex_normals: expected faces \(4,F,3\) int64, got \(2, 320, 3\)"),
        ((vertices, faces.float()), "int64, got .* torch.float32"),
        ((vertices[..., :2], faces), r"vertices \(M,V,3\) float"),
        ((nan_at(vertices, 3, 1, 1), faces), r"finite vertices, got NaN or infinity in meshes \[3\]"),
    ):
        with pytest.raises(ValueError, match=match):
            vertex_normals(*arguments)
    with pytest.raises(ValueError, match=r"project_px: expected K \(4,3,3\)"):
        project_px(vertices, torch.eye(3))


def test_the_cuda_path_copies_nothing_to_the_host(monkeypatch):
    """Fake tensors have shapes but no values: whatever looks at one (nonzero, item, a boolean, a list) raises."""
    seen = {}

    def kernel(corners, first, num, neighbours, size, *rest):
        seen.update(corners=corners, first=first, num=num)
        empty = corners.new_empty((len(first), *size, rest[1]))
        return empty.long(), empty, empty, empty

    monkeypatch.setattr(_C, "rasterize_meshes", kernel)
    with FakeTensorMode() as mode:
        with pytest.raises(DataDependentOutputException):
            bool(torch.ones(3).sum() > 1)
        vertices, faces, images = (mode.from_tensor(value) for value in blobs(24, 32))
        assert visible_faces(vertices, faces, images, 3, 24, 32, 2, 1.0).shape == (3, 24, 32, 2)
    assert {name: tuple(value.shape) for name, value in seen.items()} == {"corners": (1280, 3, 3), "first": (3,), "num": (3,)}
