"""PCK curves over any number of hands, added part by part."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from handnet.metrics import pck_counts

Array = NDArray[np.float64]


class PckCounter:
    """Counts correct points at each threshold; `curve` is then `handnet.metrics.pck` of everything that was added."""

    def __init__(self, thresholds: Array) -> None:
        self.thresholds = thresholds
        self.counts: NDArray[np.int64] | None = None
        self.totals: NDArray[np.int64] | None = None

    def add(self, errors: Array, valid: NDArray[np.bool_] | None = None) -> None:
        """Errors (H, P) of some hands; with `valid` (H, P) only those points count."""
        counts, totals = pck_counts(errors, self.thresholds, valid)
        self.counts = counts if self.counts is None else self.counts + counts
        self.totals = totals if self.totals is None else self.totals + totals

    def curve(self) -> Array:
        """(T,) shares of correct points; 0 everywhere when there was no point to count."""
        if self.counts is None or self.totals is None or not self.totals.any():
            return np.zeros(len(self.thresholds))
        seen = self.totals > 0
        return np.asarray((self.counts[seen] / self.totals[seen, None]).mean(axis=0))
