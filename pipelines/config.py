"""params.yaml as frozen, validated configuration: one model per section, one line per mistake.

Every entry point calls `load_params`, which validates the whole file before any work, and then uses its
own section only, so that DVC's per-section params stay the truth about what a stage depends on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipelines.config_datasets import (
    CocoConfig,
    EgohandsConfig,
    Fraction,
    FreihandConfig,
    Ho3dConfig,
    InterhandConfig,
    PhotosConfig,
    PositiveFloat,
    PositiveInt,
    ProceduralConfig,
    Range,
    RhdConfig,
    Section,
    Weight,
    check_ordered,
)
from pipelines.config_mixture import MixtureSection, is_remote

PARAMS_FILE = Path("params.yaml")

DatasetName = Literal["procedural", "freihand", "ho3d", "rhd", "interhand", "egohands", "coco", "photos"]


class ParamsError(ValueError):
    """A params file that cannot be used; the message is one line that names the key."""


class IngestConfig(Section):
    """One entry per dataset to ingest; the key is the adapter's name."""

    procedural: ProceduralConfig | None = None
    freihand: FreihandConfig | None = None
    ho3d: Ho3dConfig | None = None
    rhd: RhdConfig | None = None
    interhand: InterhandConfig | None = None
    egohands: EgohandsConfig | None = None
    coco: CocoConfig | None = None
    photos: PhotosConfig | None = None


class BackgroundMix(Section):
    """What stands behind the hands where no whole source image does, as relative weights."""

    generated: Weight
    sources: Weight  # strips of source images beside their hands
    folder: Weight  # images of backgrounds_dir


class SceneSetConfig(Section):
    """One composed scene set (paper, section III-D)."""

    source: DatasetName
    split: Literal["train", "val", "eval"]
    seed: Annotated[int, Field(ge=0)]
    num_scenes: PositiveInt
    canvas_px: Annotated[int, Field(ge=64, le=2048)]
    focal_px: PositiveFloat  # the scene camera's focal length, c at the canvas centre
    hand_px: tuple[int, int]  # side of a pasted square patch
    min_hands: Annotated[int, Field(ge=1)]  # of a scene that has any; fewer where no more squares fit
    max_hands: Annotated[int, Field(ge=1, le=32)]
    empty_fraction: Fraction  # share of scenes with no hand
    whole_first_fraction: Fraction  # share of scenes whose first layer is a whole source image
    flip_fraction: Fraction
    feather_px: Annotated[float, Field(ge=0)]
    color_match: Fraction
    overlap: Fraction  # a square may grow by this share of its side beyond its place, over its neighbours; 0: no two overlap (the paper)
    min_visible: Fraction  # a hand with a smaller visible share of its mask is dropped from the labels
    backgrounds: BackgroundMix
    backgrounds_dir: str | None  # the folder of images
    scenes_per_shard: PositiveInt
    jpeg_quality: Annotated[int, Field(ge=1, le=100)]

    @model_validator(mode="after")
    def _sizes(self) -> SceneSetConfig:
        check_ordered("hand_px", self.hand_px)
        if self.hand_px[0] < 16 or self.hand_px[1] > self.canvas_px:
            raise ValueError(f"hand_px: expected 16 <= low and high <= canvas_px ({self.canvas_px}), got {list(self.hand_px)}")
        if self.min_hands > self.max_hands:
            raise ValueError(f"min_hands: expected at most max_hands ({self.max_hands}), got {self.min_hands}")
        return self

    @model_validator(mode="after")
    def _backgrounds(self) -> SceneSetConfig:
        if self.backgrounds.generated + self.backgrounds.sources + self.backgrounds.folder == 0:
            raise ValueError("backgrounds: expected a weight above 0, got 0 for all of them")
        if (self.backgrounds.folder > 0) != (self.backgrounds_dir is not None):
            given = f"backgrounds.folder {self.backgrounds.folder} and backgrounds_dir {self.backgrounds_dir!r}"
            raise ValueError(f"backgrounds.folder: expected a weight above 0 with backgrounds_dir, and 0 without, got {given}")
        return self


class ComposeConfig(Section):
    train: SceneSetConfig
    eval: SceneSetConfig


class ModelConfig(Section):
    """The network; shared by both training stages so that the second starts from the first's weights."""

    backbone: str  # any timm features model
    pretrained: Literal["none", "timm", "efficientnet-lite0-package"]
    batch_norm: Literal["train", "folded"]  # folded: pretrained statistics, frozen into the convolutions
    frozen_levels: Annotated[int, Field(ge=0, le=4)]  # levels of the trunk (strides 4, 8, ...) that keep their pretrained weights
    feature_channels: PositiveInt
    output_stride: Literal[4, 8]
    keypoint_branch: Literal["none", "fused", "window"]  # fused: Fig. 2; window: read in each hand's window by the per-hand head
    tag_channels: Annotated[int, Field(ge=0)]  # tags of joint assignment (loss terms pull, push); 0: none
    hidden_channels: PositiveInt
    refinements: Annotated[int, Field(ge=1, le=8)]
    rotation: Literal["6d", "axis-angle"]
    pose_origin: Literal["flat", "mean"]
    translation: Literal["window", "offset"]  # offset: as the paper's released code decodes it
    hand: Literal["free", "mano"]  # mano: the user's files in $HANDNET_MANO or ./mano
    joints: Literal["model", "manopth", "freihand", "ho3d", "smplx", "interhand"]  # what the training labels call joints
    side_head: bool  # whether the keypoints decide between left and right, beside the hand-type map
    texture: bool

    @model_validator(mode="after")
    def _fits_together(self) -> ModelConfig:
        if self.tag_channels and self.keypoint_branch == "none":
            raise ValueError("tag_channels: tags assign keypoints to hands, so keypoint_branch must not be 'none'")
        if self.batch_norm == "folded" and self.pretrained == "none":
            raise ValueError("batch_norm: 'folded' keeps pretrained statistics, so `pretrained` must not be 'none'")
        return self


class AugmentConfig(Section):
    scale: Range
    translate: Fraction  # of the input side, uniform within +-
    rotate_deg: Annotated[float, Field(ge=0, le=180)]
    flip: Fraction
    color: Annotated[float, Field(ge=0, le=1)]

    @model_validator(mode="after")
    def _ranges(self) -> AugmentConfig:
        check_ordered("scale", self.scale)
        if self.scale[0] <= 0:
            raise ValueError(f"scale: expected values > 0, got {list(self.scale)}")
        return self


class LossConfig(Section):
    """Weights of the named terms, 0 switches a term off; then how they are computed."""

    center: Weight
    hand_type: Weight
    side: Weight
    window: Weight
    heatmap: Weight
    keypoints: Weight
    keypoint_maps: Weight
    pull: Weight  # joint assignment, with push; both need model.tag_channels
    push: Weight
    reprojection: Weight
    bones: Weight
    photometric: Weight
    silhouette: Weight
    pose_limits: Weight
    shape_prior: Weight
    consistency: Weight
    joints_3d: Weight
    vertices_3d: Weight
    reprojection_form: Literal["paper", "released"]
    limits: Literal["anatomical", "released"]  # of pose_limits
    render_px: Annotated[int, Field(ge=16, le=1024)]  # side of the images that photometric and silhouette compare
    render_images: PositiveInt  # images of a batch that they compare, at the most


class StageConfig(MixtureSection):
    """One training stage."""

    input_px: Annotated[int, Field(ge=32, le=2048, multiple_of=32)]  # the trunk's coarsest stride
    supervision: Literal["2d", "3d"]
    center: Literal["keypoints", "box", "root"]
    box_scale: PositiveFloat | None  # crop: the input's side over that of a hand's box; null: every image at its whole scale
    steps: PositiveInt
    batch_size: PositiveInt  # of all processes together, whatever fits a device
    optimizer: Literal["adam", "adamw"]
    lr: PositiveFloat
    backbone_lr_factor: PositiveFloat
    schedule: Literal["step", "cosine"]
    milestones: list[Fraction]  # step schedule: shares of `steps` after which lr is multiplied by 0.1
    warmup_steps: Annotated[int, Field(ge=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    grad_clip: PositiveFloat
    precision: Literal["32-true", "bf16-mixed", "16-mixed"]
    ema_decay: Annotated[float, Field(ge=0, lt=1)]  # 0: off
    nonfinite: Literal["stop", "skip"]  # what a step with a loss or gradient that is not finite does
    checkpoint_every: PositiveInt
    keep_checkpoints: PositiveInt  # the last ones, beside the best
    log_every: PositiveInt
    validate_every: Annotated[int, Field(ge=0)]  # steps; 0: off
    validate_data: str  # folder of shards, below data/
    validate_samples: PositiveInt
    select: Literal["last", "best"]  # the weights that become the model: best in validation
    compile: bool
    deterministic: bool
    gradient_checkpointing: bool  # of the trunk: less memory, one more forward pass
    augment: AugmentConfig
    loss: LossConfig

    @model_validator(mode="after")
    def _schedule(self) -> StageConfig:
        if list(self.milestones) != sorted(self.milestones):
            raise ValueError(f"milestones: expected ascending shares of steps, got {self.milestones}")
        self._needs_streams(self.batch_size)
        return self

    @model_validator(mode="after")
    def _selection(self) -> StageConfig:
        if self.select == "best" and not self.validate_every:
            raise ValueError("select: 'best' is chosen in validation, so validate_every must not be 0")
        return self


class TrainConfig(Section):
    seed: Annotated[int, Field(ge=0)]
    model: ModelConfig
    crop: StageConfig
    multi: StageConfig

    @model_validator(mode="after")
    def _views(self) -> TrainConfig:
        if self.multi.box_scale is not None:
            raise ValueError(f"multi.box_scale: expected null, since this stage is shown whole images, got {self.multi.box_scale}")
        return self


Protocol = Literal["aligned", "two-hands", "interhand", "scenes", "masks"]


class GroundTruthConfig(Section):
    """Labels published apart from the images, for shards without 3D labels: HO3D's evaluation frames."""

    folder: str  # with evaluation_xyz.json and evaluation_verts.json
    layout: Literal["freihand", "ho3d", "ho3d-v3"]  # their joint order and axes


class EvaluationConfig(Section):
    model: Literal["crop", "multi"]
    data: str
    mean_hand_data: str  # training shards of single hands whose 2D labels the mean-hand baseline is fitted to
    protocol: Protocol  # what a hand is matched by and which figures are the headline: docs/evaluation.md
    joints: Literal["trained", "model", "manopth", "freihand", "ho3d", "smplx", "interhand"]  # trained: as the model's labels had them
    ground_truth: GroundTruthConfig | None
    centers: Literal["true", "predicted"]
    batch_size: PositiveInt
    score_threshold: Fraction
    min_similarity: Annotated[float, Field(gt=0, le=1)]  # of a detection and its hand: keypoint similarity, or IoU where masks match
    max_samples: PositiveInt | None


class SubmissionConfig(Section):
    model: Literal["crop", "multi"]
    data: str
    layout: Literal["freihand", "ho3d", "ho3d-v3"]
    center: Literal["middle", "box", "label", "predicted"]  # where the hand is said to be: the image's middle, the published box, ...
    place: Literal["predicted", "scale", "wrist"]  # what the server's owners give: a bone's length (FreiHAND) or the wrist (HO3D)
    batch_size: PositiveInt

    @model_validator(mode="after")
    def _whole_images(self) -> SubmissionConfig:
        if self.model == "multi" and self.center != "predicted":
            raise ValueError(f"center: expected 'predicted' for model 'multi', which finds hands itself, got {self.center!r}")
        return self


class SpeedConfig(Section):
    """Time against the number of hands: models/multi on a whole image, models/crop on a crop of every hand."""

    data: str  # its first image is the one that is timed
    hands: Annotated[list[Annotated[int, Field(ge=1, le=32)]], Field(min_length=1)]
    repeats: PositiveInt  # of which the least time counts

    @model_validator(mode="after")
    def _ascending(self) -> SpeedConfig:
        if self.hands != sorted(set(self.hands)):
            raise ValueError(f"hands: expected ascending numbers of hands, got {self.hands}")
        return self


class ReportConfig(Section):
    num_samples: PositiveInt
    num_scenes: PositiveInt
    unregularized: Annotated[str, Field(min_length=1)]  # folder of a crop model trained without L_reg, for Fig. 10; need not be there


class Params(Section):
    """The whole of params.yaml."""

    preset: str  # where the values came from, for people
    ingest: IngestConfig
    compose: ComposeConfig
    train: TrainConfig
    evaluate: Annotated[dict[str, EvaluationConfig], Field(min_length=1)]
    submit: Annotated[dict[str, SubmissionConfig], Field(min_length=1)]
    speed: SpeedConfig
    report: ReportConfig

    @model_validator(mode="after")
    def _across(self) -> Params:
        ingested = {name for name in IngestConfig.model_fields if getattr(self.ingest, name) is not None}
        for key in ("train", "eval"):
            source = getattr(self.compose, key).source
            if source not in ingested:
                raise ValueError(f"compose.{key}.source: expected one of the ingested datasets {sorted(ingested)}, got {source!r}")
        if self.compose.eval.split == "train":
            raise ValueError("compose.eval.split: expected 'val' or 'eval', got 'train': evaluation must not see training hands")
        train, evaluation = self.compose.train, self.compose.eval
        if (train.source, train.split) == (evaluation.source, evaluation.split):
            raise ValueError(f"compose.eval: expected other hands than compose.train's, got {train.source}/{train.split} for both")
        folders = [f"ingest/{name}/{split}" for name in sorted(ingested) for split in ("train", "val", "eval")]
        folders += [f"scenes/{key}" for key in ComposeConfig.model_fields]
        for key, data in self._data_keys():
            if data not in folders:
                raise ValueError(f"{key}: expected one of {folders}, got {data!r}")
        known = [f"data/{folder}" for folder in folders]
        for key in ("crop", "multi"):
            for name, part in getattr(self.train, key).data.items():
                if not is_remote(part.path) and part.path not in known:
                    raise ValueError(f"train.{key}.data.{name}.path: expected a URL or one of {known}, got {part.path!r}")
        measured = {evaluation.data for evaluation in self.evaluate.values()}
        for key in ("crop", "multi"):
            stage: StageConfig = getattr(self.train, key)
            if stage.select == "best" and stage.validate_data in measured:
                raise ValueError(
                    f"train.{key}.select: 'best' would choose on {stage.validate_data!r}, which evaluate measures on: "
                    "expected 'last', or another validate_data"
                )
        return self

    def _data_keys(self) -> Iterator[tuple[str, str]]:
        yield "train.crop.validate_data", self.train.crop.validate_data
        yield "train.multi.validate_data", self.train.multi.validate_data
        for name, evaluation in self.evaluate.items():
            yield f"evaluate.{name}.data", evaluation.data
            yield f"evaluate.{name}.mean_hand_data", evaluation.mean_hand_data
        for name, submission in self.submit.items():
            yield f"submit.{name}.data", submission.data
        yield "speed.data", self.speed.data


def parse_params(tree: object, where: str) -> Params:
    """Validate a loaded YAML tree; raise ParamsError with one line that names the key and what was expected."""
    if not isinstance(tree, dict):
        raise ParamsError(f"{where}: expected a mapping of sections, got {type(tree).__name__}")
    try:
        # strict mode refuses YAML's lists where a tuple is meant; its JSON rules accept them and nothing looser
        return Params.model_validate_json(json.dumps(tree, default=str))
    except ValidationError as error:
        # an unknown key says more than the missing one beside it, which it often is, misspelt
        first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
        key = ".".join(str(part) for part in first["loc"])
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        if first["type"] == "extra_forbidden":
            raise ParamsError(f"{where}: {key}: unknown key{more}") from None
        message = first["msg"].removeprefix("Value error, ")
        got = "" if first["type"] in ("missing", "value_error") else f", got {first['input']!r}"
        raise ParamsError(f"{where}: {key + ': ' if key else ''}{message}{got}{more}") from None


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Read and validate params.yaml. Raises ParamsError (one line) for anything wrong with it."""
    try:
        # YAML 1.2, as DVC reads it: 1e-3 is a number here, and a string to a YAML 1.1 reader
        tree = YAML(typ="safe", pure=True).load(path.read_text())
    except FileNotFoundError:
        raise ParamsError(f"{path}: not found; run from the project's root, or write it with `python -m pipelines.preset demo`") from None
    except YAMLError as error:
        raise ParamsError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    return parse_params(tree, str(path))
