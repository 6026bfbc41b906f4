"""`Procedural`: sample i of a split as a pure function of (config, split, i)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Final, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from handnet.hand.layer import HandLayer
from handnet.hand.pose_limits import sample_poses
from pipelines.config import ProceduralConfig
from pipelines.datasets.procedural.background import list_images
from pipelines.datasets.procedural.identity import Identity, make_identity
from pipelines.datasets.procedural.picture import paint
from pipelines.datasets.procedural.surface import Surface, free_hand_surface
from pipelines.datasets.procedural.view import place, project, sample_camera, sample_rotation
from pipelines.datasets.sample import HandLabel, HandSample

Split = Literal["train", "eval"]
SPLITS: Final = ("train", "eval")
HAND_MODEL: Final = "free"
# poses are drawn in blocks, because rejecting collisions pays off in batches; a sample's block depends on its index only
POSE_BLOCK: Final = 64
_POSES, _IDENTITY, _VIEW, _LOOK = range(4)  # what a generator is for; part of its seed
_MIRROR_ROTATION = np.array([1.0, -1.0, -1.0])
_MIRROR = np.diag([-1.0, 1.0, 1.0])

T = TypeVar("T")


class Procedural:
    """Single procedural hands. Train and eval share neither identities nor pose seeds.

    Raises ValueError for an unknown split, DataError for a backgrounds_dir without images (here) or with an image that
    can't be read (when a sample needs it).
    """

    def __init__(self, config: ProceduralConfig, split: Split) -> None:
        if split not in SPLITS:
            raise ValueError(f"split: expected one of {list(SPLITS)}, got {split!r}")
        self.config = config
        self.split = split
        self.num_identities = config.num_train_identities if split == "train" else config.num_eval_identities
        self._backgrounds = () if config.backgrounds_dir is None else list_images(Path(config.backgrounds_dir))
        self._pose_blocks: OrderedDict[int, NDArray[np.float64]] = OrderedDict()
        self._identities: OrderedDict[int, Identity] = OrderedDict()

    @cached_property
    def _surface(self) -> Surface:  # made for the first sample: who only counts them waits a second less
        return free_hand_surface()

    @cached_property
    def _layer(self) -> HandLayer:
        return HandLayer()

    def __len__(self) -> int:
        return self.config.num_train if self.split == "train" else self.config.num_eval

    def sample(self, index: int) -> HandSample:
        """Sample `index` in [0, len): image, mask and one fully labelled hand. IndexError outside."""
        if not 0 <= index < len(self):
            raise IndexError(f"index: expected 0 <= index < {len(self)}, got {index}")
        config = self.config
        rng = self._rng(_VIEW, index)
        identity = self.identity(int(rng.integers(self.num_identities)))
        side = int(rng.random() >= config.left_fraction)
        pose, rotation = self.pose(index), sample_rotation(config, rng)
        if side == 0:
            pose, rotation = pose * np.tile(_MIRROR_ROTATION, 15), _MIRROR @ rotation @ _MIRROR
        vertices, keypoints = self._hand(pose, rotation, identity, side)
        K = sample_camera(config, rng)
        translation = place(keypoints, vertices, K, config, rng)
        vertices_m, keypoints_m = (vertices + translation).astype(np.float32), (keypoints + translation).astype(np.float32)
        picture = paint(self._surface, identity, vertices_m, rotation, side, K, config.image_px, self._rng(_LOOK, index), self._backgrounds)
        keypoints_px = project(keypoints_m, K)
        root = Rotation.from_matrix(rotation).as_rotvec()
        name, _ = self.where(index)
        label = HandLabel(
            side=side,
            keypoints_px=keypoints_px.astype(np.float32),
            visible=np.all((keypoints_px >= 0) & (keypoints_px < config.image_px), axis=1),
            box_px=_box(keypoints_px, picture.mask),
            K=K,
            keypoints_m=keypoints_m,
            vertices_m=vertices_m,
            mano=np.concatenate([root, pose, identity.betas, translation]).astype(np.float32),
            hand_model=HAND_MODEL,
            joint_convention="lbs",
            source_id=name,
            identity=identity.name,
        )
        return HandSample(key=name, image=picture.image, K=K, hands=(label,), mask=picture.mask, mask_source="published")

    def where(self, index: int) -> tuple[str, str]:
        """Key of sample `index` and where it comes from."""
        return f"procedural-{self.split}-{index:07d}", "rendered"

    def identity(self, number: int) -> Identity:
        """Person `number` of this split."""
        name = f"{self.split}-{number:04d}"
        return _remember(self._identities, number, 64, lambda: make_identity(self._surface, name, self._rng(_IDENTITY, number)))

    def pose(self, index: int) -> NDArray[np.float64]:
        """The finger pose (45,) of sample `index`, axis-angle of a right hand."""
        block, row = divmod(index, POSE_BLOCK)
        poses = _remember(self._pose_blocks, block, 16, lambda: sample_poses(POSE_BLOCK, self._rng(_POSES, block)))
        pose: NDArray[np.float64] = poses[row]
        return pose

    def _rng(self, purpose: int, number: int) -> np.random.Generator:
        return np.random.default_rng([self.config.seed, SPLITS.index(self.split), purpose, number])

    @torch.no_grad()
    def _hand(self, pose: NDArray, rotation: NDArray, identity: Identity, side: int) -> tuple[NDArray, NDArray]:
        """Wrist-centred vertices (778,3) and std21 keypoints (21,3), m."""
        posed = self._layer(
            torch.from_numpy(rotation).float()[None],
            torch.from_numpy(pose).float()[None],
            torch.from_numpy(identity.betas)[None],
            torch.tensor([side]),
            center_joint=0,
        )
        return posed.vertices[0].double().numpy(), posed.joints[0].double().numpy()


def _box(keypoints_px: NDArray, mask: NDArray[np.uint8]) -> NDArray[np.float32]:
    """x0, y0, x1, y1 around the keypoints and the mask."""
    low, high = keypoints_px.min(0), keypoints_px.max(0)
    rows, columns = np.flatnonzero(mask.max(1)), np.flatnonzero(mask.max(0))
    if len(rows):
        low = np.minimum(low, [columns[0], rows[0]])
        high = np.maximum(high, [columns[-1] + 1, rows[-1] + 1])
    return np.concatenate([low, high]).astype(np.float32)


def _remember(cache: OrderedDict[int, T], key: int, size: int, make: Callable[[], T]) -> T:
    if key in cache:
        cache.move_to_end(key)
        return cache[key]
    value = cache[key] = make()
    if len(cache) > size:
        cache.popitem(last=False)
    return value
