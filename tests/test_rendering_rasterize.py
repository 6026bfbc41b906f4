"""The rasteriser against PyTorch3D's own and against a per-pixel loop: faces, barycentrics, depth, distance, gradients."""

import numpy as np
import pytest
import torch
import trimesh
from pytorch3d.renderer.mesh.rasterize_meshes import rasterize_meshes
from pytorch3d.structures import Meshes

from handnet.rendering import interpolate, rasterize, zbuffer
from handnet.rendering.measuring import blend_corners, measure
from handnet.rendering.pytorch3d_backend import px_to_ndc, visible_faces

SIZES = [(32, 32), (32, 48), (48, 32)]


def blobs(height, width, num=4, seed=0, images=(1, 0, 1, 0), dtype=torch.float32, subdivisions=2):
    """Bumpy spheres that overlap, partly outside the image; x, y on a grid of 1/4096 px so that NDC is exact in float32."""
    rng = np.random.default_rng(seed)
    ball = trimesh.creation.icosphere(subdivisions=subdivisions)
    radius = (0.3 * width) * (1 + 0.15 * rng.standard_normal((num, len(ball.vertices), 1)))
    center = np.stack([rng.uniform(0.2, 0.8, num) * width, rng.uniform(0.2, 0.8, num) * height, rng.uniform(0.5, 0.7, num)], -1)
    vertices = center[:, None] + ball.vertices * radius * [1, 1, 0.006]
    vertices[..., :2] = np.round(vertices[..., :2] * 4096) / 4096
    faces = torch.from_numpy(np.asarray(ball.faces)).long().expand(num, -1, -1)
    return torch.from_numpy(vertices).to(dtype), faces, torch.tensor(images)[:num]


def oracle(vertices_px, faces, image_index, num_images, height, width, faces_per_pixel, blur_px):
    """PyTorch3D's rasteriser, one call per image: face ids as ours, barycentrics, depth, px² distances."""
    ndc = px_to_ndc(vertices_px, height, width)
    rows = []
    for image in range(num_images):
        members = (image_index == image).nonzero()[:, 0].tolist()
        joined = Meshes([torch.cat([ndc[m] for m in members])], [torch.cat([faces[m] + k * ndc.shape[1] for k, m in enumerate(members)])])
        found, depth, bary, dists = rasterize_meshes(
            joined,
            image_size=(height, width),
            blur_radius=(2 * blur_px / min(height, width)) ** 2,
            faces_per_pixel=faces_per_pixel,
            perspective_correct=True,
            clip_barycentric_coords=blur_px > 0,
        )
        ids = torch.tensor([m * faces.shape[1] + f for m in members for f in range(faces.shape[1])])
        found = torch.where(found >= 0, ids[found.clamp(min=0)], found)
        rows.append((found, bary, depth, torch.where(found >= 0, dists * (min(height, width) / 2) ** 2, dists)))
    return tuple(torch.cat(field) for field in zip(*rows, strict=True))


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("faces_per_pixel", [1, 3])
def test_hard_fragments_and_gradients_are_pytorch3ds(height, width, faces_per_pixel):
    vertices, faces, images = blobs(height, width)
    ours_in, theirs_in = vertices.clone().requires_grad_(), vertices.clone().requires_grad_()
    ours = rasterize(ours_in, faces, images, 2, height, width, faces_per_pixel=faces_per_pixel)
    theirs = oracle(theirs_in, faces, images, 2, height, width, faces_per_pixel, 0.0)
    assert torch.equal(ours.face_index, theirs[0])
    assert 0.2 < (ours.face_index[..., 0] >= 0).float().mean() < 0.98
    weights = [torch.randn(field.shape, generator=torch.Generator().manual_seed(k)) for k, field in enumerate(theirs[1:])]
    for mine, other, tolerance in zip(ours[1:4], theirs[1:], (1e-4, 1e-6, 1e-4), strict=True):
        torch.testing.assert_close(mine, other, atol=tolerance, rtol=1e-5)
    for fields in (ours[1:4], theirs[1:]):
        sum((field * weight).sum() for field, weight in zip(fields, weights, strict=True)).backward()
    assert (ours_in.grad - theirs_in.grad).norm() < 1e-5 * theirs_in.grad.norm()


@pytest.mark.parametrize(("height", "width"), SIZES[1:])
def test_soft_silhouette_and_its_gradient_are_pytorch3ds(height, width):
    vertices, faces, images = blobs(height, width)
    results = []
    for route in (rasterize, oracle):
        given = vertices.clone().requires_grad_()
        if route is rasterize:
            fragments = rasterize(given, faces, images, 2, height, width, faces_per_pixel=120, blur_px=2.0)
            found, distance = fragments.face_index, fragments.signed_distance_px2
        else:
            found, _, _, distance = oracle(given, faces, images, 2, height, width, 120, 2.0)
        assert (found[..., -1] < 0).all(), "K too small: fragments were cut"
        silhouette = 1 - torch.where(found >= 0, torch.sigmoid(distance / 0.5), torch.ones(())).prod(-1)
        (silhouette * torch.linspace(-1, 1, width)).sum().backward()
        results.append((silhouette.detach(), given.grad))
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-4, rtol=0)
    assert ((results[0][0] > 0.05) & (results[0][0] < 0.95)).float().mean() > 0.02
    assert (results[0][1] - results[1][1]).norm() < 1e-4 * results[1][1].norm()


def test_pytorch3d_backend_returns_the_kernels_fragments():
    vertices, faces, images = blobs(32, 48)
    kernel = rasterize(vertices, faces, images, 3, 32, 48, faces_per_pixel=2)
    other = rasterize(vertices, faces, images, 3, 32, 48, faces_per_pixel=2, backend="pytorch3d")
    assert kernel.mesh_size == other.mesh_size == (4, 162)
    for name in ("face_index", "slots", "corners"):
        assert torch.equal(getattr(kernel, name), getattr(other, name)), name
    for name in ("barycentric", "depth_m", "signed_distance_px2", "weights"):
        torch.testing.assert_close(getattr(kernel, name), getattr(other, name), atol=1e-4 if "distance" in name else 1e-6, rtol=1e-5)
    assert (kernel.face_index[2] == -1).all()
    nothing = visible_faces(vertices[:0], faces[:0], images[:0], 2, 8, 9, 1, 0.0)
    assert nothing.shape == (2, 8, 9, 1)
    assert (nothing == -1).all()


@pytest.mark.parametrize("blur_px", [0.0, 2.0])
def test_compiled_passes_equal_torchs_operations(blur_px):
    """Values and gradients of all that fragments hold, and of blended attributes, in float64; slivers and clamped sums among them."""
    vertices, faces, images = blobs(24, 32, dtype=torch.float64)
    vertices[0, :20, 2] = torch.linspace(0.05, 5, 20, dtype=torch.float64)
    attributes = torch.rand(4, 162, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    face_index = rasterize(vertices, faces, images, 2, 24, 32, faces_per_pixel=6, blur_px=blur_px).face_index
    results = []
    for compiled in (True, False):
        inputs = [vertices.clone().requires_grad_(), attributes.clone().requires_grad_()]
        found = measure(inputs[0], faces, face_index, clip=blur_px > 0, with_distance=True, compiled=compiled)
        blended = blend_corners(found.corners, found.weights, inputs[1], compiled=compiled)
        fields = (found.weights, found.depth_m, found.signed_distance_px2, blended)
        noise = torch.Generator().manual_seed(1)
        loss = sum((field * torch.randn(field.shape, generator=noise, dtype=torch.float64)).sum() for field in fields)
        results.append((*found[:2], *(field.detach() for field in fields), *torch.autograd.grad(loss, inputs)))
        without = measure(vertices, faces, face_index, clip=blur_px > 0, with_distance=False, compiled=compiled)
        assert torch.equal(without.weights, found.weights)
        assert without.signed_distance_px2.shape == (0,)
    for mine, plain in zip(*results, strict=True):
        assert (mine - plain).double().norm() <= 1e-9 * plain.double().norm()
    assert len(results[0][0]) > 300


def test_clipped_barycentrics_gradient_where_pytorch3ds_overlooks_a_clamp():
    """Beside a sliver the perspective barycentrics' sum is not positive; the forward pass clamps it, PyTorch3D's backward doesn't."""
    sliver = torch.tensor([[[12.0, 20.0, 0.5], [14.5, 9.0, 0.6], [12.75, 20.0, 0.7]]])
    placed = (torch.tensor([[[0, 1, 2]]]), torch.tensor([0]), 1, 32, 32)
    ours_in, theirs_in = sliver.clone().requires_grad_(), sliver.clone().requires_grad_()
    found = rasterize(ours_in, *placed, blur_px=3.0)
    theirs = oracle(theirs_in, *placed, 1, 3.0)
    assert torch.equal(found.face_index, theirs[0])
    torch.testing.assert_close(found.barycentric, theirs[1], atol=1e-6, rtol=1e-5)

    (x, y, z), exact = sliver[0].double().unbind(-1), sliver.double()
    area = (x[2] - x[0]) * (y[1] - y[0]) - (y[2] - y[0]) * (x[1] - x[0])
    num_agree = num_overlooked = 0
    for i, j in (found.face_index[0, ..., 0] >= 0).nonzero().tolist():
        edges = [((j + 0.5 - x[k - 2]) * (y[k - 1] - y[k - 2]) - (i + 0.5 - y[k - 2]) * (x[k - 1] - x[k - 2])) / area for k in range(3)]
        perspective_sum = sum(edges[k] * z[k - 2] * z[k - 1] for k in range(3))
        mine = torch.autograd.grad(found.barycentric[0, i, j, 0, 2], ours_in, retain_graph=True)[0]
        other = torch.autograd.grad(theirs[1][0, i, j, 0, 2], theirs_in, retain_graph=True)[0]
        if (mine - other).norm() <= 1e-4 * mine.norm() + 1e-5:
            num_agree += 1
        else:
            num_overlooked += 1
            assert perspective_sum <= 0
            assert (mine - other).norm() > 5 * mine.norm()
            step = 1e-6 * torch.randn(sliver.shape, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
            ends = [rasterize(exact + sign * step, *placed, blur_px=3.0).barycentric[0, i, j, 0, 2] for sign in (1, -1)]
            assert (mine.double() * step).sum() == pytest.approx(float(ends[0] - ends[1]) / 2, rel=1e-3)
    assert num_agree > 20
    assert num_overlooked > 5


def test_ndc_of_image_corners():
    corners = torch.tensor([[0.0, 0.0, 1.0], [60.0, 30.0, 2.0], [30.0, 15.0, 3.0]])
    expected = torch.tensor([[2.0, 1.0, 1.0], [-2.0, -1.0, 2.0], [0.0, 0.0, 3.0]])
    torch.testing.assert_close(px_to_ndc(corners, 30, 60), expected)
    torch.testing.assert_close(px_to_ndc(corners[:, [1, 0, 2]], 60, 30), expected[:, [1, 0, 2]])


def naive(vertices, faces, height, width):
    """Ray through each pixel centre against every face in turn; returns the face with the smallest depth and that depth."""
    ids, depths = np.full((height, width), -1), np.full((height, width), np.inf)
    for i in range(height):
        for j in range(width):
            for f, (a, b, c) in enumerate(vertices[faces]):
                system = np.stack([a, b, c], 1).copy()
                system[2] = 1.0
                if abs(np.linalg.det(system)) < 1e-9 or min(a[2], b[2], c[2]) <= 0:
                    continue
                screen = np.linalg.solve(system, [j + 0.5, i + 0.5, 1.0])
                if (screen > 0).all():
                    depth = 1 / (screen @ (1 / np.array([a[2], b[2], c[2]])))
                    if depth < depths[i, j]:
                        ids[i, j], depths[i, j] = f, depth
    return ids, depths


def test_kernel_and_zbuffer_against_the_per_pixel_loop():
    vertices, faces, _ = blobs(13, 17, num=1, dtype=torch.float64, subdivisions=1)
    ids, depths = naive(vertices[0].numpy(), faces[0].numpy(), 13, 17)
    fragments = rasterize(vertices, faces, torch.zeros(1, dtype=torch.int64), 1, 13, 17)
    assert np.array_equal(fragments.face_index[0, ..., 0].numpy(), ids)
    hit = ids >= 0
    assert hit.sum() > 40
    np.testing.assert_allclose(fragments.depth_m[0, ..., 0].numpy()[hit], depths[hit], rtol=1e-9)
    face_id, bary, depth = zbuffer(vertices[0].numpy(), faces[0].numpy(), 13, 17)
    assert np.array_equal(face_id, ids)
    np.testing.assert_allclose(depth[hit], depths[hit], rtol=1e-6)
    np.testing.assert_allclose(bary[hit], fragments.barycentric[0, :, :, 0].numpy()[hit], atol=1e-6)


def test_barycentrics_are_perspective_correct():
    """Interpolating camera-frame x, y, z must give the point on the pixel's ray."""
    camera = torch.tensor([[[-0.1, -0.1, 0.3], [0.3, -0.1, 0.9], [0.0, 0.35, 0.5]]], dtype=torch.float64)
    pixels = torch.cat([camera[..., :2] / camera[..., 2:] * 40 + 20, camera[..., 2:]], -1)
    found = rasterize(pixels, torch.tensor([[[0, 1, 2]]]), torch.tensor([0]), 1, 40, 40)
    point = interpolate(found, camera)
    column, row = found.slots % 40 + 0.5, found.slots // 40 + 0.5
    assert len(point) > 100
    torch.testing.assert_close(point[:, :2] / point[:, 2:] * 40 + 20, torch.stack([column, row], -1).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(point[:, 2], found.depth_m[found.face_index >= 0])


@pytest.mark.parametrize(("blur_px", "num_faces"), [(0.0, 80), (1.5, 1)])
def test_gradcheck(blur_px, num_faces):
    """With blur one face a mesh: neighbours clipped to their common edge tie in depth, and change places."""
    vertices, faces, _ = blobs(10, 12, num=2, dtype=torch.float64, subdivisions=1)
    if num_faces == 1:
        faces = torch.tensor([[[0, 1, 2]], [[2, 3, 11]]])

    def fields(given):
        found = rasterize(given, faces[:, :num_faces], torch.tensor([0, 0]), 1, 10, 12, faces_per_pixel=2, blur_px=blur_px)
        return found.barycentric, found.depth_m, found.signed_distance_px2, interpolate(found, given)

    assert (fields(vertices)[1] > 0).sum() > 20
    assert torch.autograd.gradcheck(fields, vertices.requires_grad_(), eps=1e-7, atol=1e-4)


def test_result_does_not_depend_on_threads():
    vertices, faces, images = blobs(48, 48)
    before = torch.get_num_threads()
    results = []
    for num_threads in (1, 2, 3):
        torch.set_num_threads(num_threads)
        results.append(rasterize(vertices, faces, images, 2, 48, 48, faces_per_pixel=3, blur_px=1.0))
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0][:-1], other[:-1], strict=True))


def test_vertices_far_off_the_image_are_harmless():
    """Coordinates that no integer holds, as a point close to the camera's plane projects to."""
    for far in (1e12, -1e12, 1e30, -1e30):
        vertices = torch.tensor([[[2.0, 2.0, 0.5], [12.0, 3.0, 0.5], [3.0, 12.0, 0.5], [far, far, 0.5], [far, 4.0, 0.5]]])
        placed = (torch.tensor([[[0, 1, 2], [0, 3, 4], [3, 4, 3], [3, 3, 4], [1, 3, 3]]]), torch.tensor([0]), 1, 16, 16)
        for blur_px in (0.0, 2.0):
            assert (rasterize(vertices, *placed, blur_px=blur_px).face_index[0, 4, 4] == 0).all()
        assert zbuffer(vertices[0].numpy(), placed[0][0].numpy(), 16, 16)[0][4, 4] == 0


def test_nothing_to_draw():
    vertices, faces, images = blobs(16, 24)
    empty = rasterize(vertices[:0].requires_grad_(), faces[:0], images[:0], 2, 16, 24)
    assert empty.face_index.shape == (2, 16, 24, 1)
    assert (empty.face_index == -1).all()
    assert (empty.barycentric == -1).all()
    behind = (vertices * torch.tensor([1, 1, -1])).requires_grad_()
    found = rasterize(behind, faces, images, 2, 16, 24)
    assert (found.face_index == -1).all()
    found.depth_m.sum().backward()
    assert (behind.grad == 0).all()
    assert rasterize(vertices, faces, torch.zeros(4, dtype=torch.int64), 1, 16, 24).face_index.max() >= 0
    assert zbuffer(vertices[0].numpy(), np.zeros((0, 3), int), 4, 5)[0].max() == -1


def test_bad_input_is_named():
    vertices, faces, images = blobs(16, 24)
    broken = vertices.clone()
    broken[2, 5, 0] = float("nan")
    with pytest.raises(ValueError, match=r"finite vertices_px.*meshes \[2\]"):
        rasterize(broken, faces, images, 2, 16, 24)
    with pytest.raises(ValueError, match=r"image_index in \[0, 1\), got 0..1"):
        rasterize(vertices, faces, images, 1, 16, 24)
    with pytest.raises(ValueError, match=r"faces in \[0, 162\)"):
        rasterize(vertices, faces + 1, images, 2, 16, 24)
    with pytest.raises(ValueError, match=r"faces \(4,F,3\) int64, got \(320, 3\)"):
        rasterize(vertices, faces[0], images, 2, 16, 24)
    with pytest.raises(ValueError, match=r"vertices_px \(M,V,3\) float"):
        rasterize(vertices.long(), faces, images, 2, 16, 24)
    with pytest.raises(ValueError, match=r"image_index \(4,\) int64, got \(4,\) torch.int32"):
        rasterize(vertices, faces, images.int(), 2, 16, 24)
    with pytest.raises(ValueError, match="faces_per_pixel >= 1, got 0"):
        rasterize(vertices, faces, images, 2, 16, 24, faces_per_pixel=0)
    with pytest.raises(ValueError, match="'kernel', 'pytorch3d' or None, got 'opengl'"):
        rasterize(vertices, faces, images, 2, 16, 24, backend="opengl")
    with pytest.raises(ValueError, match=r"attributes \(4,162,C\) float, got \(4, 161, 3\)"):
        interpolate(rasterize(vertices, faces, images, 2, 16, 24), vertices[:, 1:])
    with pytest.raises(ValueError, match="blur_px >= 0"):
        rasterize(vertices, faces, images, 2, 16, 24, blur_px=-1.0)
    with pytest.raises(ValueError, match="finite"):
        zbuffer(broken[2].numpy(), faces[0].numpy(), 16, 24)
    with pytest.raises(ValueError, match=r"face indices in \[0, 162\)"):
        zbuffer(vertices[0].numpy(), faces[0].numpy() + 1, 16, 24)
