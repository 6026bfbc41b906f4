"""Who a hand belongs to: shape, skin and nails, drawn from (seed, split, number) and the same in all its images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.datasets.procedural.color import to_linear
from pipelines.datasets.procedural.surface import NUM_TONES, Surface

NUM_BETAS = 10
MAX_BETA = 2.2


@dataclass(frozen=True, kw_only=True)
class Identity:
    """One person's hand on the fine surface of N vertices."""

    name: str  # "train-0007"
    betas: NDArray[np.float32]  # (10,)
    albedo: NDArray[np.float32]  # (N,3) linear
    relief_m: NDArray[np.float32]  # (N,)
    gloss: NDArray[np.float32]  # (N,)


def make_identity(surface: Surface, name: str, rng: np.random.Generator) -> Identity:
    """Draw a person: body proportions, tone between the six of the skin, complexion, mottling, sometimes nail polish."""
    betas = np.clip(rng.normal(0, 0.9, NUM_BETAS), -MAX_BETA, MAX_BETA).astype(np.float32)
    tone = rng.uniform(0, NUM_TONES - 1)
    low = min(int(tone), NUM_TONES - 2)
    albedo = surface.tone_albedo[low] * (low + 1 - tone) + surface.tone_albedo[low + 1] * (tone - low)
    mottle = np.zeros(surface.num_vertices, np.float32)
    for frequency_per_m in np.repeat([50.0, 110.0, 230.0], 2):
        direction = rng.normal(size=3) * 2 * frequency_per_m
        mottle += np.sin(surface.rest_m @ direction.astype(np.float32) + rng.uniform(0, 2 * np.pi)) * 0.35
    redness = rng.uniform(0.3, 1.2) * 0.03 * mottle[:, None]
    albedo = to_linear(np.clip(albedo, 0, 1)) * (1 + redness * np.array([0.6, -1.0, -0.8], np.float32))
    # undertone: more or less yellow and red than the table's skin
    albedo *= np.exp(rng.normal(0, [0.05, 0.04, 0.08])).astype(np.float32)
    nail = surface.nail[:, None]
    gloss = surface.gloss * rng.uniform(0.6, 1.5)
    if rng.random() < 0.12:
        polish = to_linear(rng.random(3).astype(np.float32) * rng.uniform(0.3, 1.0))
        albedo = albedo * (1 - nail) + polish * nail
        gloss = np.maximum(gloss, surface.nail)
    relief = surface.relief_mm * rng.uniform(0.6, 1.5) / 1000
    return Identity(
        name=name,
        betas=betas,
        albedo=np.clip(albedo, 0.002, 0.95).astype(np.float32),
        relief_m=relief.astype(np.float32),
        gloss=np.clip(gloss, 0, 1).astype(np.float32),
    )
