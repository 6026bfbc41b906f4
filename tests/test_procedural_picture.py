"""The renderer of the procedural hands: sealed wrist, paint where it belongs, and its compiled loops against plain ones."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from test_procedural_dataset import config

from handnet.hand.layer import HandLayer
from handnet.rendering import zbuffer
from pipelines.datasets.procedural import kernels, picture
from pipelines.datasets.procedural.color import BYTE_TO_LINEAR, DISPLAY, MAX_LIGHT, display_curve, to_linear
from pipelines.datasets.procedural.dataset import Procedural
from pipelines.datasets.procedural.forearm import make_forearm
from pipelines.datasets.procedural.light import frames_toward, sample_lighting
from pipelines.datasets.procedural.surface import boundary_loop, free_hand_surface
from pipelines.datasets.procedural.view import project

SIZE = 160


@pytest.fixture(scope="module")
def surface():
    return free_hand_surface()


def edge_balance(faces):
    """How often each directed edge occurs without its reverse."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    codes, reverse = edges[:, 0] * 10**6 + edges[:, 1], edges[:, 1] * 10**6 + edges[:, 0]
    assert len(np.unique(codes)) == len(codes), "two faces run along one edge in the same direction"
    return np.isin(codes, reverse, invert=True).sum()


def test_surface_is_a_smooth_copy_of_the_model(surface):
    model_faces = surface.coarse_faces
    assert len(surface.faces) == 16 * len(model_faces)
    assert len(surface.middle_faces) == 4 * len(model_faces)
    np.testing.assert_allclose(np.asarray(surface.matrix.sum(1)).ravel(), 1, atol=1e-5)
    assert edge_balance(surface.faces) == len(surface.wrist_loop) == 64
    assert surface.tone_albedo.mean((1, 2))[0] > 1.5 * surface.tone_albedo.mean((1, 2))[-1]
    assert 0.02 < surface.nail.mean() < 0.1
    with pytest.raises(ValueError, match="one open edge"):
        boundary_loop(np.concatenate([surface.faces[:1], surface.faces[-1:]]))


@pytest.mark.parametrize("side", [0, 1])
def test_wrist_is_sealed(surface, side):
    """Hand, tube and cap form one closed, consistently oriented surface, so nothing hollow can be seen."""
    mirror = np.array([1.0 if side == 1 else -1.0, 1, 1], np.float32)
    hand = surface.rest_m * mirror
    faces = surface.faces if side == 1 else surface.faces[:, ::-1]
    loop = surface.wrist_loop if side == 1 else surface.wrist_loop[::-1]
    albedo = np.full_like(hand, 0.5)
    sizes = set()
    for seed in range(12):
        arm = make_forearm(hand, albedo, loop, np.array([mirror[0], 0.0, 0]), np.array([0.0, 0, 1]), np.random.default_rng(seed))
        sizes.add(len(arm.vertices_m))
        assert len(arm.albedo) == len(arm.gloss) == len(arm.vertices_m)
        skin_faces = arm.faces[arm.faces.max(1) <= len(hand) + 14 * 64]
        closed = np.concatenate([faces, skin_faces])
        assert edge_balance(closed) == 0
        vertices = np.concatenate([hand, arm.vertices_m]).astype(np.float64)
        a, b, c = vertices[closed].transpose(1, 0, 2)
        assert (a * np.cross(b, c)).sum() / 6 > 2e-4, "outward faces enclose a positive volume, m3"
    assert len(sizes) > 1, "some with a sleeve, some without"


def test_no_inside_shows_from_any_direction(surface, monkeypatch):
    """With back faces drawn too, the nearest face of every hand or forearm pixel looks toward the camera."""
    seen_backs, pixels = 0, 0

    def check(vertices_px, faces, height, width, *, cull_back_faces):
        nonlocal seen_backs, pixels
        face_id, bary, depth = zbuffer(vertices_px, faces, height, width)
        skin = face_id[(face_id >= 0) & (face_id < len(surface.faces) + 2 * 14 * 64)]
        a, b, c = vertices_px[faces[skin]][..., :2].transpose(1, 0, 2)
        seen_backs += int((np.cross(b - a, c - a) > 0).sum())
        pixels += len(skin)
        return face_id, bary, depth

    monkeypatch.setattr(picture, "zbuffer", check)
    data = Procedural(config(image_px=96, roll_deg=180.0, tilt_deg=180.0), "train")
    for index in range(16):
        data.sample(index)
    assert pixels > 10000
    # folds of a tight fist and cuts through other skin may show a few
    assert seen_backs < 0.004 * pixels


def test_paint_on_a_vertex_shows_at_its_pixel(surface):
    """Green on the index fingertip, the rest dark: the greenest spot of the picture is that vertex, where it is visible."""
    data = Procedural(config(image_px=SIZE, left_fraction=0.5), "train")
    checked = set()
    for index in range(16):
        identity = data.identity(index % data.num_identities)
        albedo = np.full_like(identity.albedo, 0.02)
        albedo[np.asarray(surface.matrix[:, 317].todense()).ravel() > 0.5] = [0.02, 0.9, 0.02]
        painted = type(identity)(
            name="x", betas=identity.betas, albedo=albedo, relief_m=0 * identity.relief_m, gloss=np.zeros_like(identity.gloss)
        )
        sample = data.sample(index)
        hand = sample.hands[0]
        rotation = Rotation.from_rotvec(hand.mano[:3]).as_matrix()
        generator = np.random.default_rng(index)
        drawn = picture.paint(surface, painted, hand.vertices_m, rotation, hand.side, hand.K, SIZE, generator)
        assert np.array_equal(drawn.mask, sample.mask) or (drawn.mask != sample.mask).mean() < 0.01  # relief moves the outline a little
        pixels = np.concatenate([project(hand.vertices_m, hand.K), hand.vertices_m[:, 2:]], 1)
        depth = zbuffer(pixels, surface.coarse_faces, SIZE, SIZE)[2]
        x, y, z = pixels[317]
        if depth[int(y), int(x)] < z - 0.002 or not np.isfinite(depth[int(y), int(x)]):
            continue
        image = drawn.image.astype(float)
        green = np.where(drawn.mask > 0, image[..., 1] - image[..., [0, 2]].max(-1), -1e3)
        row, column = np.unravel_index(green.argmax(), green.shape)
        assert np.hypot(column + 0.5 - x, row + 0.5 - y) < 5, index
        checked.add(hand.side)
    assert checked == {0, 1}


def test_forearm_is_not_hand(surface):
    """The mask ends at the wrist although skin goes on."""
    data = Procedural(
        config(image_px=SIZE, left_fraction=0.0, back_fraction=1.0, tilt_deg=0.0, roll_deg=0.0, hand_fraction=(0.5, 0.5)), "train"
    )
    for index in range(4):
        sample = data.sample(index)
        wrist = sample.hands[0].keypoints_px[0, 1]
        assert sample.mask[int(wrist + 0.2 * SIZE) :].sum() == 0
        assert sample.mask[int(wrist)].sum() > 5


def test_vertex_normals_kernel(surface):
    faces = surface.coarse_faces
    vertices = HandLayer().blend[0, : 3 * 778].reshape(3, 778).T.numpy().copy()
    summed = np.zeros(vertices.shape)
    for a, b, c in faces:
        summed[[a, b, c]] += np.cross(vertices[b] - vertices[a], vertices[c] - vertices[a])
    expected = summed / np.linalg.norm(summed, axis=1, keepdims=True)
    np.testing.assert_allclose(kernels.vertex_normals(np.ascontiguousarray(vertices, np.float32), faces), expected, atol=1e-4)


def test_shadow_of_a_square_falls_where_geometry_says():
    """A square 4 cm above the plane y = 0 (down is +y), light from straight above and from 45 degrees."""
    half, height = 0.02, 0.04
    square = np.array([[-half, -height, -half], [half, -height, -half], [half, -height, half], [-half, -height, half]], np.float32)
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    directions = np.array([[0.0, -1, 0], [np.sqrt(0.5), -np.sqrt(0.5), 0]], np.float32)
    frames = frames_toward(directions)
    np.testing.assert_allclose(np.linalg.det(frames), 1, atol=1e-6)
    center, radius = np.zeros(3, np.float32), 0.1
    maps = kernels.height_maps(square, faces, frames, center, radius, 128)
    x = np.array([0.0, 0.015, 0.025, -0.035, -0.05, -0.06, -0.065], np.float32)
    ground = np.stack([x, 0 * x, 0 * x], 1)
    up = np.tile(np.array([0, -1, 0], np.float32), (len(x), 1))
    wanted = np.array([True] * 6 + [False])
    shares = kernels.light_shares(ground, up, wanted, frames, maps, center, radius, np.float32(0.002), np.float32(0))
    # seen from 45 degrees the shadow is moved by the height: x in (-0.06, -0.02)
    np.testing.assert_allclose(shares[:, 0], [0, 0, 1, 1, 1, 1, 1], atol=0.01)
    np.testing.assert_allclose(shares[[0, 1, 2, 3, 4], 1], [1, 1, 1, 0, 0], atol=0.01)
    assert shares[6, 1] == 1, "not wanted, not computed"


def test_smoothing_averages_over_seen_faces_only():
    values = np.array([[0.0], [3.0], [6.0], [9.0]], np.float32)
    faces = np.array([[0, 1, 2], [1, 2, 3]])
    once = kernels.smoothed(values, faces, np.array([True, True]), 1)
    np.testing.assert_allclose(once[:, 0], [3, 4.5, 4.5, 6])
    part = kernels.smoothed(values, faces, np.array([True, False]), 1)
    np.testing.assert_allclose(part[:3, 0], [3, 3, 3])


def test_resolve_composite_and_develop_against_loops():
    rng = np.random.default_rng(0)
    face_id = rng.integers(-1, 4, (8, 10)).astype(np.int32)
    bary = rng.dirichlet([1, 1, 1], (8, 10)).astype(np.float32)
    faces, colors = rng.integers(0, 6, (4, 3)), rng.random((6, 3)).astype(np.float32)
    light, coverage, hand = kernels.resolve(face_id, bary, faces, colors, 2, 2)
    for i in range(4):
        for j in range(5):
            color, covered, owned = np.zeros(3), 0.0, 0.0
            for a in (0, 1):
                for b in (0, 1):
                    f = face_id[2 * i + a, 2 * j + b]
                    if f >= 0:
                        color += 0.25 * bary[2 * i + a, 2 * j + b] @ colors[faces[f]]
                        covered += 0.25
                        owned += 0.25 * (f < 2)
            np.testing.assert_allclose(light[i, j], color, atol=1e-6)
            assert (coverage[i, j], hand[i, j]) == (covered, owned)
    background = rng.integers(0, 256, (9, 12, 3)).astype(np.uint8)
    gain = np.array([0.5, 1.0, 2.0], np.float32)
    expected = to_linear(background / 255) * gain
    expected[3:7, 6:11] = light + expected[3:7, 6:11] * (1 - coverage[..., None])
    linear = kernels.composite(background, BYTE_TO_LINEAR, gain, light, coverage, 3, 6)
    np.testing.assert_allclose(linear, expected, atol=1e-6)
    noise = rng.integers(0, 256, (9, 12, 3, 2)).astype(np.uint8)
    photograph = kernels.develop(linear, np.float32(1.5), DISPLAY, MAX_LIGHT, noise, 0.0)
    assert np.abs(photograph - display_curve(np.minimum(linear * 1.5, MAX_LIGHT))).max() <= 1.0
    many = np.full((100, 100, 3), 0.2, np.float32)
    noisy = kernels.develop(many, np.float32(1), DISPLAY, MAX_LIGHT, rng.integers(0, 256, (100, 100, 3, 2)).astype(np.uint8), 4.0)
    assert noisy.std() == pytest.approx(4.0, rel=0.05)
    assert noisy.mean() == pytest.approx(display_curve(np.array(0.2)), abs=0.5)


def test_lights_are_finite_and_varied():
    lights = [sample_lighting(np.random.default_rng(seed)) for seed in range(200)]
    for light in lights:
        for directions in (light.sky_directions, light.key_directions):
            np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1, atol=1e-5)
        assert (light.sky_color >= 0).all()
        assert (light.key_color >= 0).all()
    assert {len(light.key_directions) for light in lights} == {1, 2, 3}
    ratio = np.array([light.key_color.sum() / light.sky_color.sum() for light in lights])
    assert np.quantile(ratio, 0.9) > 4 * np.quantile(ratio, 0.1)
