"""The `procedural` dataset: single hands rendered with the free hand, fully labelled, as many as wanted."""

from pipelines.datasets.procedural.dataset import Procedural

__all__ = ["Procedural"]
