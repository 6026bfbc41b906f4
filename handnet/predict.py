"""Inference: a trained model folder in, every hand of an image out, in one camera frame and one forward pass per batch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from handnet.camera import intrinsics
from handnet.centers import Peaks, center_cells, find_peaks, without_duplicates
from handnet.hand.layer import HandLayer
from handnet.hand.resolve import HandKind, resolve_hand
from handnet.json_object import parse_object
from handnet.network.files import DESCRIPTION_NAME, WEIGHTS_NAME
from handnet.network.handnet import DenseMaps, HandNet, HandNetConfig, HandSites

MODEL_SCHEMA = 3
READABLE_SCHEMAS = (2, 3)  # 2: without normalization and metrics


@dataclass(frozen=True, kw_only=True)
class HandPrediction:
    """One hand of one image; pixels are the image's own, metres are in the camera frame (x right, y down, z forward)."""

    side: int  # 0 left, 1 right
    score: float  # confidence that there is a hand, 0..1
    side_score: float  # probability of `side`, 0.5..1 where the network chose it
    center_px: NDArray[np.float32]  # (2,)
    window_px: float  # half side of the square the hand fills
    keypoints_px: NDArray[np.float32]  # (21, 2) projected joints, std21
    local_keypoints_px: NDArray[np.float32] | None  # (21, 2) read from the heatmaps
    keypoints_m: NDArray[np.float32]  # (21, 3)
    vertices_m: NDArray[np.float32]  # (778, 3)
    mano: NDArray[np.float32]  # (61,) root rotation 3, pose 45, betas 10, position of joint 9
    albedo: NDArray[np.float32] | None  # (778, 3)
    light: NDArray[np.float32] | None  # (27,)
    K: NDArray[np.float32]  # (3, 3)


@dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """model.json: what is needed to use the weights, and where they came from."""

    schema: int
    network: HandNetConfig
    hand: HandKind  # the hand model: this package's free one, or MANO, which its user brings
    hand_sha256: str  # of the hand model's arrays
    stage: str
    input_px: int
    focal_px: float | None  # camera used when the caller gives none; None: the longer side of the image
    fingerprint: str
    provenance: dict[str, object]
    normalization: dict[str, list[float]] | None = None  # mean and std of RGB in [0, 1] that the network itself takes out
    metrics: dict[str, float] = field(default_factory=dict)  # of these weights in the last validation, and its step; empty: none

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def read(cls, path: Path) -> ModelDescription:
        """Raises ValueError naming the file and what is wrong with it."""
        try:
            tree = parse_object(path.read_bytes(), path)
        except FileNotFoundError:
            raise ValueError(f"{path}: not found; expected a model folder written by `python -m pipelines.train`") from None
        if tree.get("schema") not in READABLE_SCHEMAS:
            raise ValueError(f"{path}: schema: expected one of {list(READABLE_SCHEMAS)}, got {tree.get('schema')!r}")
        try:
            return cls(**{**tree, "schema": MODEL_SCHEMA, "network": HandNetConfig(**tree["network"])})
        except (TypeError, KeyError) as error:
            raise ValueError(f"{path}: {error}") from None


class Predictor:
    """A trained network ready for inference."""

    def __init__(self, network: HandNet, description: ModelDescription, device: str | torch.device = "cpu"):
        self.device = torch.device(device)
        self.network = network.eval().to(self.device)
        self.description = description

    @classmethod
    def load(cls, folder: str | Path, device: str | torch.device = "cpu", *, mano: Path | None = None) -> Predictor:
        """From a folder with model.safetensors and model.json. ValueError if either is missing or they don't fit each other.

        mano: where the MANO files of a model trained with MANO are; None looks where `handnet.hand.resolve.find_mano` does.
        """
        folder = Path(folder)
        description = ModelDescription.read(folder / DESCRIPTION_NAME)
        weights = folder / WEIGHTS_NAME
        if not weights.is_file():
            raise ValueError(f"{weights}: not found")
        try:
            layer = HandLayer(resolve_hand(description.hand, mano if description.hand == "mano" else None))
        except (ValueError, FileNotFoundError) as error:
            raise ValueError(f"{folder / DESCRIPTION_NAME}: {error}") from None
        if description.hand_sha256 != layer.sha256:
            raise ValueError(
                f"{folder / DESCRIPTION_NAME}: trained with another {description.hand!r} hand: expected hand_sha256 "
                f"{layer.sha256[:12]}..., got {description.hand_sha256[:12]}..."
            )
        network = HandNet(replace(description.network, pretrained="none"), layer)
        try:
            network.load_state_dict(load_file(weights))
        except RuntimeError as error:
            raise ValueError(f"{weights}: does not fit the network of {DESCRIPTION_NAME}: {' '.join(str(error).split())}") from None
        return cls(network, description, device)

    @property
    def layer(self) -> HandLayer:
        """The hand model that the network was trained with."""
        return self.network.hands.layer

    def default_K(self, height: int, width: int) -> NDArray[np.float32]:
        """The camera assumed when none is given: c at the image centre, f as the model was trained with."""
        focal = self.description.focal_px or float(max(height, width))
        return intrinsics(focal, width, height).numpy()

    @torch.inference_mode()
    def predict(
        self,
        images: NDArray[np.uint8],
        K: NDArray[np.floating] | None = None,
        centers_px: Sequence[NDArray[np.floating]] | None = None,
        *,
        sides: Sequence[NDArray[np.integer]] | None = None,
        score_threshold: float = 0.3,
        max_hands: int = 32,
    ) -> list[list[HandPrediction]]:
        """Hands of each image, best first. images: (B, H, W, 3) uint8 RGB; K: (B, 3, 3) pixels.

        centers_px, one (n, 2) array per image, replaces detection by known centres; their hands come back in the given order.
        sides, one (n,) array of 0 (left) or 1 (right) per image, goes with centers_px and replaces the predicted hand types.
        """
        if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
            raise ValueError(f"images: expected (B, H, W, 3) uint8, got {images.shape} {images.dtype}")
        b, height, width = images.shape[:3]
        if K is None:
            K = np.repeat(self.default_K(height, width)[None], b, 0)
        if K.shape != (b, 3, 3) or not np.isfinite(K).all():
            raise ValueError(f"K: expected finite values of shape {(b, 3, 3)}, got shape {K.shape}")
        if centers_px is not None and len(centers_px) != b:
            raise ValueError(f"centers_px: expected one array for each of {b} images, got {len(centers_px)}")
        for image, given in enumerate(centers_px or ()):
            if given.ndim != 2 or given.shape[1] != 2 or not np.isfinite(given).all():
                raise ValueError(f"centers_px[{image}]: expected finite values of shape (n, 2), got shape {given.shape}")
        given_sides = None if sides is None else self._given_sides(sides, centers_px)
        # a picture that was read from a file may not be writable, which torch warns of
        pixels = torch.from_numpy(np.require(images, requirements=["C", "W"])).to(self.device).permute(0, 3, 1, 2).float() / 255
        pixels = F.pad(pixels, (0, -width % 32, 0, -height % 32))
        maps = self.network.dense(pixels)
        peaks = self._peaks(maps, score_threshold, max_hands) if centers_px is None else self._given(maps, centers_px)
        K_hands = torch.as_tensor(np.asarray(K, np.float32), device=self.device)[peaks.image_index]
        out = self.network.reconstruct(maps, HandSites(peaks.image_index, peaks.cells, peaks.centers_px, given_sides, None), K_hands)
        hands = out.passes[-1]
        columns = {
            "center_px": peaks.centers_px,
            "keypoints_px": hands.keypoints_px,
            "local_keypoints_px": out.local.keypoints_px if out.local is not None else None,
            "keypoints_m": hands.keypoints_m,
            "vertices_m": hands.vertices_m,
            "mano": hands.axis_angle_61(),
            "albedo": out.albedo,
            "light": out.light,
            "K": K_hands,
        }
        arrays = {name: None if value is None else value.float().cpu().numpy() for name, value in columns.items()}
        side_score = torch.where(out.side == 1, out.side_logit, -out.side_logit).sigmoid().cpu().numpy()
        scores, used_sides, index = peaks.scores.cpu().numpy(), out.side.cpu().numpy(), peaks.image_index.cpu().numpy()
        windows = out.window_px.cpu().numpy()
        result: list[list[HandPrediction]] = [[] for _ in range(b)]
        keep = np.ones(len(index), bool)
        if centers_px is None:
            # the padding shows nothing
            inside = (peaks.centers_px < peaks.centers_px.new_tensor([width, height])).all(-1)
            keep = (inside & without_duplicates(peaks.centers_px, out.window_px, peaks.image_index)).cpu().numpy()
        for m in np.flatnonzero(keep):
            own = {name: None if value is None else value[m] for name, value in arrays.items()}
            hand = HandPrediction(
                side=int(used_sides[m]),
                score=float(scores[m]),
                side_score=float(side_score[m]),
                window_px=float(windows[m]),
                **own,  # type: ignore[arg-type]
            )
            result[index[m]].append(hand)
        return result

    def _given_sides(self, sides: Sequence[NDArray[np.integer]], centers_px: Sequence[NDArray[np.floating]] | None) -> Tensor:
        wanted = None if centers_px is None else [(len(given),) for given in centers_px]
        if [np.shape(own) for own in sides] != wanted:
            raise ValueError(f"sides: expected one for each of centers_px, shapes {wanted}, got {[np.shape(own) for own in sides]}")
        flat = np.concatenate([np.zeros(0, np.int64), *sides])
        if not np.isin(flat, (0, 1)).all():
            raise ValueError("sides: expected 0 (left) or 1 (right)")
        return torch.as_tensor(flat.astype(np.int64), device=self.device)

    def _peaks(self, maps: DenseMaps, threshold: float, max_hands: int) -> Peaks:
        return find_peaks(maps.center.float().sigmoid(), self.network.stride, threshold, max_hands)

    def _given(self, maps: DenseMaps, centers_px: Sequence[NDArray[np.floating]]) -> Peaks:
        index = torch.tensor([i for i, c in enumerate(centers_px) for _ in range(len(c))], dtype=torch.long, device=self.device)
        flat = np.concatenate([np.zeros((0, 2), np.float32), *(np.asarray(c, np.float32) for c in centers_px)])
        centers: Tensor = torch.as_tensor(flat, device=self.device)
        h, w = maps.center.shape[-2:]
        cells = center_cells(centers, self.network.stride, h, w)
        scores = maps.center.float().sigmoid()[index, 0, cells[:, 0], cells[:, 1]]
        return Peaks(index, cells, centers, scores)
