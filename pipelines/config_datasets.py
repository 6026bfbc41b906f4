"""The sections of params.yaml that say which datasets to read, and how; and what all sections have in common."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Weight = Annotated[float, Field(ge=0.0)]
PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]
Range = tuple[float, float]  # low, high
Paths = str | Annotated[list[str], Field(min_length=1)]


class Section(BaseModel):
    """Base of all sections: frozen, keyword-only, no unknown keys, no silent type conversion."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def check_ordered(name: str, bounds: tuple[float, float]) -> None:
    if bounds[0] > bounds[1]:
        raise ValueError(f"{name}: expected low <= high, got {list(bounds)}")


class ProceduralConfig(Section):
    """Single hands rendered with the free hand; train and eval never share an identity or a pose seed."""

    seed: Annotated[int, Field(ge=0)]
    num_train: PositiveInt
    num_eval: PositiveInt
    num_train_identities: PositiveInt
    num_eval_identities: PositiveInt
    image_px: Annotated[int, Field(ge=64, le=1024)]
    focal_factor: Range  # focal length as a multiple of image_px, drawn per image
    hand_fraction: Range  # longer side of the keypoint box as a fraction of image_px
    roll_deg: Annotated[float, Field(ge=0, le=180)]  # in-plane rotation away from fingers-up, uniform within +-
    tilt_deg: Annotated[float, Field(ge=0, le=180)]  # out-of-plane tilt, uniform within +-
    back_fraction: Fraction  # share of hands that show their back to the camera
    left_fraction: Fraction
    backgrounds_dir: str | None  # folder of images used as backgrounds beside the generated ones
    samples_per_shard: PositiveInt
    jpeg_quality: Annotated[int, Field(ge=1, le=100)]

    @model_validator(mode="after")
    def _ranges(self) -> ProceduralConfig:
        check_ordered("focal_factor", self.focal_factor)
        check_ordered("hand_fraction", self.hand_fraction)
        if self.hand_fraction[0] <= 0 or self.hand_fraction[1] > 1:
            raise ValueError(f"hand_fraction: expected values in (0, 1], got {list(self.hand_fraction)}")
        if self.focal_factor[0] <= 0:
            raise ValueError(f"focal_factor: expected values > 0, got {list(self.focal_factor)}")
        return self


class PublishedConfig(Section):
    """What every dataset that its owners publish has: where it is, and how much of it may be damaged."""

    path: Paths  # the extracted folder, an archive (zip, tar), a folder of archives, or several
    max_quarantined: Fraction  # share of a split's samples that may be damaged and set aside before ingesting it fails
    samples_per_shard: PositiveInt


class FreihandConfig(PublishedConfig):
    """FreiHAND v2."""

    seed: Annotated[int, Field(ge=0)]
    val_fraction: Fraction  # split by source id; 0 keeps all training frames
    mano_model: str | None  # the user's MANO file or folder; without it no MANO parameters are delivered


class Ho3dConfig(PublishedConfig):
    """HO3D v2 or v3."""

    version: Literal["v2", "v3"]
    val_sequences: list[str]  # training sequences held out as split val; evaluation frames have no public keypoints
    mano_model: str | None  # the user's MANO file or folder; without it no vertices are delivered


class RhdConfig(PublishedConfig):
    """RHD (RHD_published_v2)."""

    seed: Annotated[int, Field(ge=0)]
    val_fraction: Fraction  # share of the training images held out as split val; 0 keeps them all
    min_keypoints: Annotated[int, Field(ge=1, le=21)]  # visible ones that make a hand a label; pixels of lesser hands are ignored


class InterhandConfig(PublishedConfig):
    """InterHand2.6M v1.0."""

    splits: Annotated[list[Literal["train", "val", "eval"]], Field(min_length=1)]  # eval: the official test set
    fps: Literal[5, 30]  # frames a second to take
    release_fps: Literal[5, 30]  # frames a second of the release at `path`
    seed: Annotated[int, Field(ge=0)]
    train_subset: PositiveInt | None  # at most this many training images, drawn at random; null: all
    mano_model: str | None  # the user's MANO folder; without it no vertices are delivered, and masks follow the skeleton

    @model_validator(mode="after")
    def _fps(self) -> InterhandConfig:
        if self.fps > self.release_fps:
            raise ValueError(f"fps: expected at most release_fps ({self.release_fps}), got {self.fps}")
        return self


class EgohandsConfig(PublishedConfig):
    """EgoHands: masks only, for evaluation."""


class CocoConfig(PublishedConfig):
    """Keypoints in COCO's JSON format: the user's own set."""

    annotations: str  # the JSON, from the top of `path`
    images: str  # the folder of images, from the top of `path`; "" where `file_name` says it all
    eval_annotations: str | None  # a second JSON that gives split eval
    eval_images: str | None  # null: as `images`
    keypoint_order: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=21, max_length=21)] | None  # std21 = theirs[listed]
    pixel_centers: Literal["integer", "half"]  # the first pixel's centre is (0, 0), as in COCO, or (0.5, 0.5)
    seed: Annotated[int, Field(ge=0)]
    val_fraction: Fraction  # share of the images held out as split val

    @model_validator(mode="after")
    def _order(self) -> CocoConfig:
        if self.keypoint_order is not None and len(set(self.keypoint_order)) != len(self.keypoint_order):
            raise ValueError(f"keypoint_order: expected different numbers, got {self.keypoint_order}")
        return self


class PhotosConfig(PublishedConfig):
    """A folder of unlabelled photos, labelled by a detector of 2D keypoints (extra `pseudo`)."""

    labeller: Literal["mediapipe"]
    max_hands: Annotated[int, Field(ge=1, le=32)]  # of one photo
    min_score: Fraction  # hands with a lower score are left out
    min_confidence: Fraction  # keypoints with a lower confidence are not visible
    max_side_px: PositiveInt | None  # larger photos are reduced to this
    jpeg_quality: Annotated[int, Field(ge=1, le=100)]
    seed: Annotated[int, Field(ge=0)]
    val_fraction: Fraction  # share of the photos held out as split val
