"""Posed hands, left and right, against PyTorch3D's rasteriser: partly outside, behind the camera, through each other; occlusion."""

import math

import pytest
import torch
from test_rendering_rasterize import oracle

from handnet.hand.layer import HandLayer
from handnet.rendering import project_px, rasterize, render_hands, shade, soft_silhouette, vertex_normals

# where the three hands are (m), which images they belong to, and the seed of their poses: one without slivers, for whose
# gradients PyTorch3D's float32 is itself good to 1e-5 (see the test below)
SCENES = {
    "apart": ([[-0.05, 0.0, 0.5], [0.06, 0.02, 0.6], [0.0, 0.0, 0.55]], [0, 0, 1], 5),
    "partly outside": ([[-0.09, -0.05, 0.5], [0.1, 0.05, 0.6], [0.0, 0.11, 0.55]], [0, 0, 1], 0),
    "behind the camera": ([[0.0, 0.0, 0.5], [0.03, 0.0, 0.02], [0.0, 0.0, -0.4]], [0, 1, 1], 5),  # in front, through its plane, behind
    "through each other": ([[0.0, 0.0, 0.5], [0.01, 0.0, 0.5], [-0.02, 0.01, 0.51]], [0, 0, 0], 15),
}
SIZES = [(36, 48), (48, 36)]


@pytest.fixture(scope="module")
def layer():
    return HandLayer()


def turned(num, seed):
    """Random rotations (num,3,3)."""
    matrix = torch.linalg.qr(torch.randn(num, 3, 3, generator=torch.Generator().manual_seed(seed)))[0]
    return matrix * torch.linalg.det(matrix)[:, None, None]


def posed(layer, place, side=(0, 1, 1), seed=0):
    """Hands bent at random, their middle knuckles at the given places (m): vertices, faces."""
    side = torch.tensor(side[: len(place)])
    pose = 0.3 * torch.randn(len(place), 45, generator=torch.Generator().manual_seed(seed))
    out = layer(turned(len(place), seed), pose, torch.zeros(len(place), 10), side, torch.tensor(place), center_joint=9)
    return out.vertices, layer.both_faces[side]


def camera(num, height, width):
    f = 4.0 * min(height, width)
    return torch.tensor([[f, 0, width / 2], [0, f, height / 2], [0, 0, 1.0]]).expand(num, 3, 3)


def scene(layer, kind, height, width, seed=None):
    """x, y on a grid of 1/4096 px, so that PyTorch3D's coordinates are exact in float32: vertices_px, faces, image_index, num_images."""
    places, images, own_seed = SCENES[kind]
    vertices, faces = posed(layer, places, seed=own_seed if seed is None else seed)
    pixels = project_px(vertices, camera(3, height, width))
    return torch.cat([(pixels[..., :2] * 4096).round() / 4096, pixels[..., 2:]], -1), faces, torch.tensor(images), max(images) + 1


def weighted_sum(fields):
    """A number that depends on every entry of the fields, by fixed random weights."""
    weights = (torch.randn(field.shape, generator=torch.Generator().manual_seed(k)) for k, field in enumerate(fields))
    return sum((field * weight.to(field.dtype)).sum() for field, weight in zip(fields, weights, strict=True))


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("kind", SCENES)
def test_hard_fragments_of_hands_are_pytorch3ds(layer, kind, height, width):
    vertices, faces, images, num_images = scene(layer, kind, height, width)
    ours_in, theirs_in = vertices.clone().requires_grad_(), vertices.clone().requires_grad_()
    ours = rasterize(ours_in, faces, images, num_images, height, width)
    theirs = oracle(theirs_in, faces, images, num_images, height, width, 1, 0.0)
    assert torch.equal(ours.face_index, theirs[0])
    for mine, other, tolerance in zip(ours[1:4], theirs[1:], (1e-4, 1e-6, 1e-4), strict=True):
        torch.testing.assert_close(mine, other, atol=tolerance, rtol=1e-5)
    weighted_sum(ours[1:4]).backward()
    weighted_sum(theirs[1:]).backward()
    assert (ours_in.grad - theirs_in.grad).norm() < 1e-5 * theirs_in.grad.norm()
    num_pixels = [int(((theirs[0] >= 0) & (theirs[0] // faces.shape[1] == hand)).sum()) for hand in range(3)]
    assert [num > 100 for num in num_pixels] == [True, True, kind != "behind the camera"]
    assert (ours.face_index < 0).any(2).any(1).all(), "an image without background shows no outline"


def test_gradients_at_slivers_are_as_good_as_in_float64(layer):
    """Faces seen edge-on divide by small areas: there PyTorch3D's float32 is off by 1e-4 of the gradient, ours is not."""
    vertices, faces, images, num_images = scene(layer, "apart", 48, 36, seed=2)
    inputs = [vertices.clone().requires_grad_(), vertices.double().requires_grad_(), vertices.clone().requires_grad_()]
    weighted_sum(rasterize(inputs[0], faces, images, num_images, 48, 36)[1:4]).backward()
    weighted_sum(rasterize(inputs[1], faces, images, num_images, 48, 36)[1:4]).backward()
    weighted_sum(oracle(inputs[2], faces, images, num_images, 48, 36, 1, 0.0)[1:]).backward()
    exact = inputs[1].grad
    assert (inputs[0].grad - exact).norm() < 1e-6 * exact.norm()
    assert 1e-5 * exact.norm() < (inputs[2].grad - exact).norm() < 1e-3 * exact.norm()


@pytest.mark.parametrize(
    ("kind", "height", "width"),
    [("apart", 24, 36), ("partly outside", 36, 24), ("behind the camera", 24, 36), ("through each other", 36, 24)],
)
def test_soft_silhouettes_of_hands_are_pytorch3ds(layer, kind, height, width):
    """From pixels on the grid back to the camera frame: under K = I at depth 1 a point is its own projection."""
    vertices, faces, images, num_images = scene(layer, kind, height, width)
    sigma_px, num_slots = 0.7, 500
    blur_px = sigma_px * math.sqrt(math.log(1e4 - 1))
    flat = torch.cat([vertices[..., :2], torch.where(vertices[..., 2:] > 1e-8, 1.0, -1.0)], -1)
    ours_in, theirs_in = flat.clone().requires_grad_(), flat.clone().requires_grad_()
    ours = soft_silhouette(ours_in, faces, torch.eye(3).expand(3, 3, 3), images, num_images, height, width, sigma_px=sigma_px)
    found, _, _, distance = oracle(theirs_in, faces, images, num_images, height, width, num_slots, blur_px)
    assert (found[..., -1] < 0).all(), "K too small: fragments were cut"
    theirs = 1 - torch.where(found >= 0, torch.sigmoid(distance / sigma_px**2), 1.0).prod(-1)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert ((theirs > 0.05) & (theirs < 0.95)).float().mean() > 0.02
    weight = torch.randn(ours.shape, generator=torch.Generator().manual_seed(0))
    for silhouette in (ours, theirs):
        (silhouette * weight).sum().backward()
    difference = (ours_in.grad - theirs_in.grad)[..., :2]
    assert difference.norm() < 1e-5 * theirs_in.grad[..., :2].norm()


def test_pytorch3d_backend_draws_the_same_pictures(layer):
    """The path that CUDA takes, run on the CPU: picture, depth and their gradients; silhouettes where no fragment is cut."""
    vertices, faces = posed(layer, SCENES["apart"][0])
    images, size = torch.tensor([1, 0, 1]), (2, 40, 56)
    colors = torch.rand(vertices.shape, generator=torch.Generator().manual_seed(0))
    results = []
    for backend in ("kernel", "pytorch3d"):
        given = vertices.clone().requires_grad_()
        drawn = render_hands(given, faces, colors, camera(3, 40, 56), images, *size, backend=backend)
        (drawn.image.square().sum() + drawn.depth_m.sum()).backward()
        results.append((*(field.detach() for field in drawn), given.grad))
    (*fields, gradient), (*their_fields, their_gradient) = results
    for mine, other in zip(fields, their_fields, strict=True):
        torch.testing.assert_close(mine, other, atol=2e-6, rtol=1e-6)
    assert (gradient - their_gradient).norm() < 1e-5 * their_gradient.norm()
    few = faces[:, ::20]
    silhouettes = [soft_silhouette(vertices, few, camera(3, 40, 56), images, *size, backend=backend) for backend in ("kernel", "pytorch3d")]
    torch.testing.assert_close(*silhouettes, atol=1e-5, rtol=0)
    assert silhouettes[0].max() > 0.9


def test_each_pixel_shows_the_nearest_of_the_hands_alone(layer):
    """Two hands through and before each other: their picture is that of the nearer one at every pixel, and only it gets a gradient."""
    vertices, faces = posed(layer, [[0.0, 0.0, 0.5], [0.02, 0.01, 0.52], [0.03, 0.0, 0.42]])
    colors = torch.rand(vertices.shape, generator=torch.Generator().manual_seed(1))
    K, size = camera(3, 60, 80), (1, 60, 80)
    alone = [render_hands(vertices[k : k + 1], faces[k : k + 1], colors[k : k + 1], K[:1], torch.tensor([0]), *size) for k in range(3)]
    depth = torch.cat([torch.where(one.silhouette > 0, one.depth_m, torch.inf) for one in alone])
    nearest = torch.where(torch.isfinite(depth).any(0), depth.argmin(0), -1)
    given = vertices.clone().requires_grad_()
    together = render_hands(given, faces, colors, K, torch.zeros(3, dtype=torch.int64), *size)
    assert torch.equal(together.hand_index[0], nearest)
    for k in range(3):
        shown = nearest == k
        assert shown.sum() > 50
        assert (torch.isfinite(depth[k]) & ~shown).sum() > (50 if k < 2 else -1)  # the first two are partly hidden
        assert torch.equal(together.image[0][shown], alone[k].image[0][shown])
        gradient = torch.autograd.grad(together.image[0][shown].sum(), given, retain_graph=True)[0]
        touched = gradient.abs().sum((1, 2)) > 0
        assert touched.tolist() == [m == k for m in range(3)]


def test_faces_and_normals_of_both_sides_look_outward(layer):
    vertices, faces = posed(layer, SCENES["apart"][0], side=(0, 1, 0))
    normals = vertex_normals(vertices, faces)

    def volume(points):
        a, b, c = (points.double().gather(1, faces[..., k, None].expand(-1, -1, 3)) for k in range(3))
        return (torch.linalg.cross(a, b) * c).sum((1, 2)) / 6

    assert (volume(vertices) > 5e-5).all()  # cubic metres
    assert (volume(vertices + 1e-4 * normals) > 1.005 * volume(vertices)).all()
    size, images = (3, 40, 40), torch.arange(3)
    pixels = project_px(vertices, camera(3, 40, 40))
    for chosen, right in ((faces, True), (layer.both_faces[torch.tensor([1, 0, 1])], False)):
        found = rasterize(pixels, chosen, images, *size)
        x, y = pixels[..., :2].reshape(-1, 2)[found.corners].unbind(-1)
        # on an image with y down, a face seen from outside runs clockwise to the eye: its area comes out positive there
        front = (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (y[:, 1] - y[:, 0]) * (x[:, 2] - x[:, 0]) < 0
        assert (front.float().mean() > 0.99) == right
        assert (front.float().mean() < 0.01) != right


def test_a_left_hand_is_the_picture_of_a_right_hand_in_a_mirror(layer):
    """Pose, light and picture mirrored: the same colours, with the left hand's own faces and normals."""
    pose = 0.3 * torch.randn(1, 45, generator=torch.Generator().manual_seed(5))
    rotation, mirror = turned(1, 5), torch.diag(torch.tensor([-1.0, 1.0, 1.0]))
    albedo, light = torch.rand(1, 778, 3), torch.randn(1, 27, generator=torch.Generator().manual_seed(6))
    flip = torch.tensor([1.0, 1, 1, -1, -1, 1, 1, -1, 1]).repeat(3)  # basis functions that are odd in x
    pictures = []
    for side in (1, 0):
        turn = rotation if side else mirror @ rotation @ mirror
        bent = pose if side else (pose.view(15, 3) * torch.tensor([1.0, -1, -1])).view(1, 45)
        place = torch.tensor([[0.02 if side else -0.02, 0.0, 0.5]])
        vertices = layer(turn, bent, torch.zeros(1, 10), torch.tensor([side]), place, center_joint=9).vertices
        faces = layer.both_faces[torch.tensor([side])]
        colors = shade(albedo, vertex_normals(vertices, faces), light * (1.0 if side else flip))
        pictures.append(render_hands(vertices, faces, colors, camera(1, 64, 80), torch.tensor([0]), 1, 64, 80))
    torch.testing.assert_close(pictures[1].image.flip(2), pictures[0].image, atol=1e-3, rtol=0)
    assert torch.equal(pictures[1].silhouette.flip(2), pictures[0].silhouette)
    assert pictures[0].silhouette.sum() > 300
