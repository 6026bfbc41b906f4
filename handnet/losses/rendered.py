"""The terms that look at pixels: predicted hands drawn at the loss's own size against the image (Eq. 9) and against the hand mask."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from handnet.batch import MASK_IGNORE, HandBatch
from handnet.losses.reconstruction import photometric_loss, silhouette_loss
from handnet.rendering import render_hands, shade, soft_silhouette, vertex_normals

# A pixel of the small image is skin where more than this share of it is.
MIN_SKIN = 0.75
# Softness of the silhouette in pixels of the small image. A wider one swells it: its least is at hands 7.5 % too far away with 0.7 px, at
# 1.5 % with this (hands that fill 64 px).
SILHOUETTE_SIGMA_PX = 0.25


class View(NamedTuple):
    """The first N images of a batch at the loss's size h x w, and the L hands in them."""

    image: Float[Tensor, "N h w 3"]
    hand_share: Float[Tensor, "N h w"]  # share of the pixel that labelled hands cover, 0 in an image without a mask
    known: Float[Tensor, "N h w"]  # 1 where the image has a mask and no hand without a label touches the pixel
    K: Float[Tensor, "L 3 3"]
    image_index: Int[Tensor, " L"]

    @property
    def num_hands(self) -> int:
        return len(self.image_index)


def view_of(batch: HandBatch, width: int, max_images: int) -> View:
    """The first `max_images` images, `width` pixels wide. Hands lie image by image, so that theirs come first too."""
    num = min(max_images, len(batch.counts))
    hands = sum(batch.counts[:num])
    image = batch.image[:num].float()
    scale = width / image.shape[-1]
    size = (round(image.shape[-2] * scale), width)
    if batch.mask is None:
        hand = ignored = image.new_zeros(num, *image.shape[-2:])
    else:
        mask = batch.mask[:num]
        hand = ((mask > 0) & (mask < MASK_IGNORE)).float()
        ignored = (mask == MASK_IGNORE).float()
    small = F.interpolate(torch.cat([image, hand[:, None], ignored[:, None]], 1), size=size, mode="area")
    has_mask = batch.has_mask[:num, None, None].float()
    zoom = torch.tensor([scale, scale, 1.0], device=batch.K.device)
    index = batch.image_index[:hands]
    return View(
        image=small[:, :3].permute(0, 2, 3, 1),
        hand_share=small[:, 3] * has_mask,
        known=(small[:, 4] == 0) * has_mask,
        K=batch.K.float()[index] * zoom[:, None],
        image_index=index,
    )


def photometric_term(
    view: View, vertices_m: Tensor, faces: Tensor, albedo: Tensor, light: Tensor
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Eq. 9 of the view's hands, and the size of M: vertices_m (L,778,3), faces (L,F,3), albedo (L,778,3), light (L,27)."""
    num, height, width = view.hand_share.shape
    colors = shade(albedo, vertex_normals(vertices_m, faces), light)
    rendering = render_hands(vertices_m, faces, colors, view.K, view.image_index, num, height, width)
    compared = (view.hand_share > MIN_SKIN).float() * rendering.silhouette.detach()
    return photometric_loss(rendering.image, view.image, compared), compared.sum()


def silhouette_term(view: View, vertices_m: Tensor, faces: Tensor) -> Float[Tensor, ""]:
    """Soft silhouette of the view's hands against the labelled masks: vertices_m (L,778,3), faces (L,F,3)."""
    num, height, width = view.hand_share.shape
    drawn = soft_silhouette(vertices_m, faces, view.K, view.image_index, num, height, width, sigma_px=SILHOUETTE_SIGMA_PX)
    return silhouette_loss(drawn, view.hand_share, view.known)
