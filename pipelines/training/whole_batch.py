"""Several parts on several processes as one batch: the counts that each loss term of the whole divides by."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from handnet.batch import HandBatch
from handnet.losses.parts import BatchPart
from handnet.task import HandTask
from pipelines.training.processes import Group


class WholeBatch:
    """Makes the BatchPart of each part of a step's batch; one part on one process is the whole, and needs none."""

    def __init__(self, task: HandTask, group: Group, batch_size: int):
        self.task, self.group = task, group
        self.num_drawn = num_drawn(task, batch_size, group.rank, group.size)

    def parts_of(self, batches: Sequence[HandBatch]) -> list[BatchPart | None]:
        if self.group.size == 1 and len(batches) == 1:
            return [None]
        drawn = [self.num_drawn if i == 0 else 0 for i in range(len(batches))]
        with torch.no_grad():
            counts = [self.task.label_counts(batch, num) for batch, num in zip(batches, drawn, strict=True)]
            names = list(counts[0])
            total = self.group.sum(torch.stack([torch.stack([of_part[name] for name in names]) for of_part in counts]).sum(0))
        whole = dict(zip(names, total.unbind(), strict=True))
        return [
            BatchPart(
                counts=whole, num_drawn=num, first=i == 0, num_processes=self.group.size, sum_over_processes=self.group.sum
            )
            for i, num in enumerate(drawn)
        ]


def num_drawn(task: HandTask, batch_size: int, rank: int, num_processes: int) -> int:
    """How many images of a process photometric and silhouette draw: the whole batch's first are dealt out like its others."""
    if not (task.weights.photometric or task.weights.silhouette):
        return 0
    return len(range(rank, min(task.options.render_images, batch_size), num_processes))
