"""The training task: which terms there are, batches that mix what is labelled, weak supervision, and what a step may not do."""

import traceback
from contextlib import contextmanager
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from fake_batches import ALL_2D, EVERY_2D, SMALL, TAGGED, batch_of, small_task, with_boxes_as_mask
from fake_hands import make_crops, make_scenes
from torch.utils._python_dispatch import TorchDispatchMode

from handnet.hand.layer import HandLayer
from handnet.losses.weights import LOSS_PRESETS, LossOptions, LossWeights
from handnet.network.handnet import HandNetConfig
from pipelines.augment import fixed_view
from pipelines.loading import show, view_center

LABELS_3D = LossWeights(joints_3d=1.0, vertices_3d=1.0)
KEYPOINT_FIELDS = ("keypoints_px", "visible", "keypoints_m", "has_keypoints_m", "vertices_m", "has_vertices_m")


@pytest.fixture(scope="module")
def layer():
    return HandLayer()


def values(terms):
    return {name: value.item() for name, value in terms.items()}


def with_hand(sample, **changes):
    return replace(sample, hands=tuple(replace(hand, **changes) for hand in sample.hands))


def without_masks(sample):
    return replace(sample, mask=None)


def mixed_scenes(num, seed, size_px=192):
    """Scenes as if of different datasets: whole labels, no mask, no 3D, joints but no vertices, no known camera, a mask only."""
    scenes = [with_boxes_as_mask(s) for s in make_scenes(num, seed=seed, size_px=size_px)]
    out = []
    for i, scene in enumerate(scenes):
        kind = i % 6
        if kind == 1:
            scene = without_masks(scene)
        if kind == 2:
            scene = with_hand(scene, keypoints_m=None, vertices_m=None)
        if kind == 3:
            scene = with_hand(scene, vertices_m=None)
        if kind == 4:
            scene = replace(scene, K_known=False)
        if kind == 5:
            centres = [np.tile(hand.keypoints_px.mean(0), (21, 1)) for hand in scene.hands]
            hands = [
                replace(hand, visible=np.zeros(21, bool), keypoints_px=centre, keypoints_m=None, vertices_m=None)
                for hand, centre in zip(scene.hands, centres, strict=True)
            ]
            scene = replace(scene, hands=tuple(hands))
        out.append(scene)
    return out


def given(samples, input_px=192, whole_image=True):
    """The samples as they are, without masks made up for them."""
    views = [fixed_view(s, input_px, view_center(s, "keypoints", whole_image)) for s in samples]
    return show(samples, views, input_px).to("cpu")


def test_every_term_is_finite_for_scenes_with_and_without_hands(layer):
    task = small_task(layer, EVERY_2D, TAGGED)
    batch = batch_of(make_scenes(4, seed=0), 192, whole_image=True)
    assert batch.counts == (0, 1, 2, 3)  # the first scene is empty
    terms = task(batch)
    assert set(terms) == {"loss", *(name for name, weight in asdict(EVERY_2D).items() if weight)}
    assert all(torch.isfinite(v) for v in terms.values())
    assert terms["loss"].item() == pytest.approx(sum(getattr(EVERY_2D, k) * v.item() for k, v in terms.items() if k != "loss"), rel=1e-5)
    terms["loss"].backward()
    missing = [name for name, p in task.network.named_parameters() if p.grad is None]
    assert missing == []  # a distributed wrapper would stall on a parameter without gradient


@pytest.mark.parametrize("name", LOSS_PRESETS)
def test_presets_have_just_their_terms(name, layer):
    """One step with each: the terms that have a weight, and a gradient for every parameter although some heads have no term."""
    weights = LOSS_PRESETS[name]
    supervision = "3d" if weights.joints_3d else "2d"
    forms = {"reprojection_form": "released", "limits": "released"} if name == "released" else {}
    options = LossOptions(render_px=16, render_images=1, **forms)
    network = replace(TAGGED, keypoint_branch="fused", refinements=1, hidden_channels=16, side_head=False)
    task = small_task(layer, weights, network, supervision=supervision, options=options)
    terms = task(batch_of(make_crops(2, seed=0), 64, whole_image=False))
    assert set(terms) == {"loss", *(term for term, weight in asdict(weights).items() if weight)}
    terms["loss"].backward()
    assert torch.isfinite(terms["loss"])
    assert [n for n, p in task.named_parameters() if p.grad is None] == []


def test_a_batch_without_any_hand_trains(layer):
    task = small_task(layer, EVERY_2D, TAGGED)
    terms = task(batch_of(make_scenes(1, seed=0), 192, whole_image=True))
    terms["loss"].backward()
    assert torch.isfinite(terms["loss"])
    assert all(torch.isfinite(p.grad).all() for p in task.parameters())
    assert {name: terms[name].item() for name in terms if name not in ("loss", "center", "hand_type", "heatmap")} == dict.fromkeys(
        terms.keys() - {"loss", "center", "hand_type", "heatmap"}, 0.0
    )


def test_keypoints_all_at_minus_one(layer):
    """As datasets mark what they do not know: no NaN, and nothing but what needs no label."""
    task = small_task(layer, replace(EVERY_2D, joints_3d=1.0, vertices_3d=1.0), TAGGED, supervision="3d")
    samples = [
        with_hand(s, keypoints_px=np.full((21, 2), -1.0), visible=np.zeros(21, bool), keypoints_m=None, vertices_m=None)
        for s in make_crops(2, seed=0)
    ]
    unknown = batch_of(samples, 96, whole_image=False)
    batch = batch_of(make_crops(2, seed=0), 96, whole_image=False)
    assert unknown.counts == batch.counts
    terms = task(replace(batch, **{name: getattr(unknown, name) for name in KEYPOINT_FIELDS}))
    terms["loss"].backward()
    assert all(torch.isfinite(p.grad).all() for p in task.parameters())
    for name in ("reprojection", "bones", "keypoints", "keypoint_maps", "joints_3d", "vertices_3d"):
        assert terms[name].item() == 0, name


def test_images_without_a_mask_add_nothing_to_what_reads_masks(layer):
    weights = replace(EVERY_2D, silhouette=1.0)
    task = small_task(layer, weights, TAGGED, options=LossOptions(render_px=32, render_images=8)).eval()
    samples = [with_boxes_as_mask(s) for s in make_crops(4, seed=0)]
    with torch.no_grad():
        mixed = task(given([samples[0], without_masks(samples[1]), samples[2]], 96, False))
        alone = task(given([samples[0], samples[2]], 96, False))
        none = task(given([without_masks(s) for s in samples], 96, False))
    for name in ("photometric", "silhouette"):
        assert mixed[name].item() == pytest.approx(alone[name].item(), rel=1e-5)
        assert alone[name].item() > 0
        assert none[name].item() == 0
    assert set(none) == set(mixed)


def test_pixels_of_unlabelled_hands_are_left_out(layer):
    task = small_task(layer, LossWeights(silhouette=1.0), options=LossOptions(render_px=48)).eval()
    sample = with_boxes_as_mask(make_crops(1, seed=0)[0])
    outside = sample.mask.copy()
    outside[:20] = 255
    half = sample.mask.copy()
    half[:, :48] = 255
    with torch.no_grad():
        whole, top, right = (task(given([replace(sample, mask=m)], 96, False))["silhouette"].item() for m in (sample.mask, outside, half))
    assert whole != right
    assert top != whole or not sample.mask[:20].any()
    everything = replace(sample, mask=np.full_like(sample.mask, 255))
    assert task(given([everything], 96, False))["silhouette"].item() == 0


def test_hands_without_3d_labels_add_nothing_to_what_reads_them(layer):
    task = small_task(layer, LABELS_3D, supervision="3d").eval()
    samples = make_crops(3, seed=2)
    with torch.no_grad():
        alone = task(batch_of(samples[:1], 96, whole_image=False))
        mixed = task(batch_of([samples[0], with_hand(samples[1], keypoints_m=None, vertices_m=None)], 96, whole_image=False))
        joints = task(batch_of([samples[0], with_hand(samples[1], vertices_m=None)], 96, whole_image=False))
        both = task(batch_of(samples[:2], 96, whole_image=False))
        none = task(batch_of([with_hand(s, keypoints_m=None, vertices_m=None) for s in samples], 96, whole_image=False))
    for name in ("joints_3d", "vertices_3d"):
        assert mixed[name].item() == pytest.approx(alone[name].item(), rel=1e-5)
        assert none[name].item() == 0
    assert joints["joints_3d"].item() == pytest.approx(both["joints_3d"].item(), rel=1e-5)
    assert joints["vertices_3d"].item() == pytest.approx(alone["vertices_3d"].item(), rel=1e-5)
    assert both["vertices_3d"].item() != pytest.approx(alone["vertices_3d"].item(), rel=1e-3)
    assert set(none) == set(both)


def test_one_batch_mixes_datasets(layer):
    task = small_task(layer, replace(EVERY_2D, joints_3d=1.0, vertices_3d=1.0), TAGGED, supervision="3d")
    batch = given(mixed_scenes(6, seed=0), 128)
    assert batch.keys == tuple(f"{i:06d}" for i in (0, 2, 3, 4, 5, 1))  # those with a mask first
    assert batch.counts == (0, 2, 3, 0, 1, 1)
    assert batch.has_mask.tolist() == [True] * 5 + [False]
    assert batch.has_keypoints_m.tolist() == [False] * 2 + [True] * 3 + [False, True]
    assert batch.has_vertices_m.tolist() == [False] * 6 + [True]
    assert (batch.visible > 0).any(-1).tolist() == [True] * 5 + [False, True]
    terms = task(batch)
    terms["loss"].backward()
    assert {name for name, value in terms.items() if not value.item() > 0} <= {"pose_limits"}  # it starts from a flat hand
    assert all(torch.isfinite(p.grad).all() for p in task.parameters())


def test_a_hand_known_by_its_mask_alone_has_a_place_and_a_size(layer):
    """It is a positive of the centre map, its window is its box, and the keypoint maps are asked nothing where it lies."""
    task = small_task(layer, replace(ALL_2D, center=1.0)).eval()
    scene = mixed_scenes(12, seed=0)[11]
    assert len(scene.hands) == 3
    batch = given([scene])
    box = scene.hands[1].box_px
    np.testing.assert_allclose(batch.box_px[1].numpy(), box.clip(0, 192), atol=1e-3)
    shown = {}
    forward = task.network.forward

    def keep(image, sites, K):
        shown["sites"] = sites
        shown["maps"], out = forward(image, sites, K)
        return shown["maps"], out

    task.network.forward = keep
    terms = task(batch)
    half_side = 0.62 * (box[2:] - box[:2]).max()
    assert shown["sites"].window_px[1].item() == pytest.approx(half_side, rel=1e-4)
    (gradient,) = torch.autograd.grad(terms["heatmap"], shown["maps"].keypoints)
    x0, y0, x1, y1 = (box / 4).astype(int).tolist()
    assert (gradient[0, :, y0 : y1 + 1, x0 : x1 + 1] == 0).all()
    assert (gradient[0] != 0).any()


def test_weak_supervision_reads_no_3d_label(layer):
    """Every 3D label changed to nonsense or taken away: no loss term moves."""
    task = small_task(layer, EVERY_2D, TAGGED).eval()
    samples = make_crops(3, seed=2)
    scrambled = [
        with_hand(s, keypoints_m=s.hands[0].keypoints_m[::-1] * 7, vertices_m=s.hands[0].vertices_m * -3, mano=np.full(61, 9.0))
        for s in samples
    ]
    missing = [with_hand(s, keypoints_m=None, vertices_m=None, mano=None) for s in samples]
    with torch.no_grad():
        first, *others = (values(task(batch_of(s, 96, whole_image=False))) for s in (samples, scrambled, missing))
    assert others == [first, first]
    full = small_task(layer, LABELS_3D, supervision="3d").eval()
    with torch.no_grad():
        a, b = (full(batch_of(s, 96, whole_image=False)) for s in (samples, scrambled))
    assert a["joints_3d"] != b["joints_3d"]  # the check above can fail
    assert a["vertices_3d"] != b["vertices_3d"]


def test_what_cannot_be_trained_is_refused(layer):
    with pytest.raises(ValueError, match="'2d' reads no 3D label"):
        small_task(layer, LossWeights(joints_3d=1.0))
    for weights, changes, message in (
        (LossWeights(consistency=1.0), {"keypoint_branch": "none"}, "loss consistency: .* with keypoint_branch 'none', got 1.0"),
        (LossWeights(push=0.5), {}, "loss push: expected weight 0 for a network with tag_channels 0, got 0.5"),
        (LossWeights(photometric=1.0), {"texture": False}, "loss photometric: expected weight 0 .* texture False, got 1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            small_task(layer, weights, replace(SMALL, **changes))


def test_scaling_image_and_hand_leaves_the_normalised_terms_alone(layer):
    """The same predicted and labelled hands at half the pixels: reprojection and bones stay (Eq. 8's unit)."""
    weights = LossWeights(side=0.0, window=0.0, center=0.0, hand_type=0.0, pose_limits=0.0, shape_prior=0.0)
    task = small_task(layer, weights, HandNetConfig(backbone="mobilenetv3_small_050", feature_channels=16, hidden_channels=16)).eval()
    batch = batch_of(make_crops(3, seed=1), 96, whole_image=False)
    forward = task.network.forward
    first = {}

    def same_hands(image, sites, K):
        maps, out = forward(image, sites, K)
        if not first:
            first["hands"] = [hands.keypoints_px for hands in out.passes]
            return maps, out
        return maps, out._replace(passes=[h._replace(keypoints_px=0.5 * px) for h, px in zip(out.passes, first["hands"], strict=True)])

    task.network.forward = same_hands
    with torch.no_grad():
        a = task(batch)
        b = task(replace(batch, keypoints_px=0.5 * batch.keypoints_px))
    assert b["reprojection"].item() == pytest.approx(a["reprojection"].item(), rel=1e-4)
    assert b["bones"].item() == pytest.approx(a["bones"].item(), rel=1e-4)


# What may look at values: the rasteriser's lists of fragments (whose kernels are compiled, not torch), and checks made on a CPU only.
EXEMPT = (
    *(f"handnet/rendering/{name}.py" for name in ("checks", "measuring", "rasterize", "render", "soft", "visibility")),
    "handnet/hand/layer_checks.py",
)
FORBIDDEN = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::is_nonzero", "aten::equal", "aten::unique_dim"}


def exempt():
    return any(frame.filename.endswith(EXEMPT) for frame in traceback.extract_stack())


class NoLooking(TorchDispatchMode):
    """Refuses what waits for the device or has a shape that depends on data."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        boolean = name.startswith("aten::index") and any(
            isinstance(i, torch.Tensor) and i.dtype in (torch.bool, torch.uint8) for a in args if isinstance(a, (list, tuple)) for i in a
        )
        if (name in FORBIDDEN or boolean) and not exempt():
            raise AssertionError(f"{name} in a step")
        return func(*args, **(kwargs or {}))


@contextmanager
def no_looking():
    """NoLooking, and the methods that the dispatcher does not see."""

    def refusing(name, original):
        def method(self, *args, **kwargs):
            if not exempt():
                raise AssertionError(f"Tensor.{name} in a step")
            return original(self, *args, **kwargs)

        return method

    with pytest.MonkeyPatch.context() as patch, NoLooking():
        for name in ("tolist", "numpy"):
            patch.setattr(torch.Tensor, name, refusing(name, getattr(torch.Tensor, name)))
        yield


@pytest.mark.parametrize(
    "look",
    [
        lambda x: x.sum().item(),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.masked_select(x > 0),
        lambda x: bool((x > 0).all()),
        lambda x: x.tolist(),
        lambda x: x.numpy(),
        lambda x: x.clone().index_put_((x > 0,), torch.zeros(())),
    ],
)
def test_the_trap_traps(look):
    with no_looking(), pytest.raises(AssertionError, match="in a step"):
        look(torch.ones(3))


@pytest.mark.parametrize("stage", ["crop", "multi"])
def test_a_step_never_waits_for_the_device(stage, layer):
    """Forward and backward of every term: nothing looks at values, no shape depends on them."""
    weights = replace(EVERY_2D, joints_3d=1.0, vertices_3d=1.0)
    task = small_task(layer, weights, TAGGED, supervision="3d")
    batch = given(mixed_scenes(6, seed=3), 128) if stage == "multi" else batch_of(make_crops(4, seed=0), 96, whole_image=False)
    with no_looking():
        task(batch)["loss"].backward()


def test_bfloat16_autocast_keeps_the_losses_in_float32(layer):
    task = small_task(layer, replace(EVERY_2D, joints_3d=1.0, vertices_3d=1.0), TAGGED, supervision="3d")
    batch = given(mixed_scenes(6, seed=0), 128)
    expected = task(batch)
    with torch.autocast("cpu", torch.bfloat16):
        terms = task(batch)
    terms["loss"].backward()
    assert all(torch.isfinite(p.grad).all() for p in task.parameters())
    for name, value in terms.items():
        assert value.dtype == torch.float32, name
        # what remains is the network's own rounding
        assert value.item() == pytest.approx(expected[name].item(), rel=0.05, abs=0.02), name
