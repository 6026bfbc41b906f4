"""Stage entry point: python -m pipelines.ingest NAME. Turns a dataset into shards, one folder per split.

Reads params section ingest.NAME, writes data/ingest/NAME/SPLIT; an interrupted run goes on where it was.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.config import IngestConfig, ParamsError, load_params
from pipelines.config_datasets import PublishedConfig
from pipelines.datasets.registry import ADAPTERS, ROOT, Dataset, find_adapter
from pipelines.datasets.sample import HandSample, SplitNotThereError
from pipelines.shards.build import DamagedSample, Plan, build_shards
from pipelines.shards.leaks import check_disjoint
from pipelines.shards.manifest import QUARANTINE, Counts, code_digest, load_manifest
from pipelines.stage_command import FINISHED_SHARDS_STAY, run_stage, usage_error

DATA = Path("data")
JPEG_QUALITY = 95  # for datasets of photographs, which are only packed; rendered ones say for themselves
SHARED_CODE = ("pipelines/datasets/sample.py", "pipelines/shards/headers.py", "pipelines/shards/schema.py", "pipelines/shards/writer.py")


@dataclass(frozen=True)
class DatasetSource:
    """One split as the source of shards."""

    dataset: Dataset
    sets_aside: bool  # damaged samples; made-up data has none

    def sample(self, index: int) -> HandSample:
        try:
            return self.dataset.sample(index)
        except ValueError as error:  # DataError is one, and so is what a label says about numbers that are none
            if not self.sets_aside:
                raise
            raise DamagedSample(*self.dataset.where(index), str(error)) from error

    def counts(self, index: int) -> Counts:
        return {}


@dataclass(frozen=True)
class OpenDataset:
    """Opens the split; a picklable call for worker processes."""

    name: str
    config: Any
    split: str
    cache: Path

    def __call__(self) -> DatasetSource:
        dataset = find_adapter(self.name).open(self.config, self.split, self.cache)
        return DatasetSource(dataset, isinstance(self.config, PublishedConfig))


def work_folder(name: str, data: Path) -> Path:
    """Where unfinished work lies: beside the stage's output, which the graph of stages may clear, not in it."""
    return data / "ingest" / f"{name}.partial"


def make_plan(name: str, config: Any, split: str, data: Path) -> Plan:
    """What ingesting one split of dataset `name` means."""
    adapter = find_adapter(name)
    work = work_folder(name, data)
    open_dataset = OpenDataset(name, config, split, work / "cache")
    return Plan(
        target=data / "ingest" / name / split,
        work=work / split,
        dataset=name,
        split=split,
        num_samples=len(open_dataset().dataset),
        samples_per_shard=config.samples_per_shard,
        jpeg_quality=getattr(config, "jpeg_quality", JPEG_QUALITY),
        config=config.model_dump(mode="json"),
        open_source=open_dataset,
        max_quarantined=config.max_quarantined if isinstance(config, PublishedConfig) else 0.0,
        code=code_digest([*adapter.code_paths(), *(ROOT / path for path in SHARED_CODE)]),
    )


def ingest(name: str, section: IngestConfig, *, data: Path = DATA, num_workers: int | None = None) -> list[Path]:
    """Make every split of dataset `name` that the copy has; the folders written.

    ParamsError if params.yaml has no such dataset. DataError if it cannot be read, if more of it is damaged than its
    max_quarantined allows, or if two splits share a source frame.
    """
    if name not in ADAPTERS:
        raise ParamsError(f"ingest.{name}: unknown dataset; expected one of {sorted(ADAPTERS)}")
    config = getattr(section, name)
    if config is None:
        raise ParamsError(f"params.yaml: ingest.{name}: missing, and it is the dataset to ingest")
    folders: list[Path] = []
    missing: list[SplitNotThereError] = []
    for split in ADAPTERS[name].splits(config):
        try:
            plan = make_plan(name, config, split, data)
        except SplitNotThereError as error:
            print(f"{data / 'ingest' / name / split}: not made, since this copy does not have it: {error}", file=sys.stderr)
            missing.append(error)
            continue
        made = build_shards(plan, num_workers=num_workers, description=f"ingest {name}/{split}")
        manifest = load_manifest(plan.target)
        aside = f", {manifest.num_quarantined:,} set aside in {QUARANTINE}" if manifest.num_quarantined else ""
        print(f"{plan.target}: {manifest.num_samples:,} samples{aside}{'' if made else ', unchanged'}", file=sys.stderr)
        folders.append(plan.target)
    for folder in (data / "ingest" / name).glob("*/"):
        if folder not in folders:
            shutil.rmtree(folder)  # of other params or of another copy: its frames may be those of a split made now
    if not folders:
        raise missing[0]
    check_disjoint(folders)
    shutil.rmtree(work_folder(name, data), ignore_errors=True)
    return folders


def main(arguments: list[str]) -> int:
    """Command line; a mistake is one line on stderr."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        return usage_error(f"python -m pipelines.ingest {'|'.join(sorted(ADAPTERS))}")

    def work() -> None:
        ingest(arguments[0], load_params().ingest)

    return run_stage(work, interrupted=FINISHED_SHARDS_STAY)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
