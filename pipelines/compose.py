"""Stage entry point: python -m pipelines.compose train|eval. Composes scenes of several hands from single ones.

Reads params section compose.SET and the shards of data/ingest/SOURCE/SPLIT, writes data/scenes/SET, resumable, and what they look like
for people, data/scene_reports/SET.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

from pipelines.composition.backgrounds import list_images
from pipelines.composition.engine import PLACES, SceneComposer
from pipelines.config import ComposeConfig, SceneSetConfig, load_params
from pipelines.shards.build import Plan, build_shards
from pipelines.shards.leaks import check_disjoint
from pipelines.shards.manifest import MANIFEST, code_digest, digest, sha256_file
from pipelines.stage_command import FINISHED_SHARDS_STAY, run_stage, usage_error

DATA = Path("data")
SETS = ("train", "eval")
HERE = Path(__file__).parent
CODE = ("composition", "datasets/sample.py", "shards/headers.py", "shards/schema.py", "shards/writer.py")


@dataclass(frozen=True)
class OpenComposer:
    """Opens the composer; a picklable call for worker processes."""

    config: SceneSetConfig
    source: Path

    def __call__(self) -> SceneComposer:
        return SceneComposer(self.config, self.source)


def make_plan(name: str, config: SceneSetConfig, data: Path) -> Plan:
    """What composing set `name` means. DataError if its source is missing or does not fit."""
    source = data / "ingest" / config.source / config.split
    open_composer = OpenComposer(config, source)
    open_composer()  # whatever is wrong with the source is said here, before any worker starts
    sources = {f"{config.source}/{config.split}": sha256_file(source / MANIFEST)}
    if config.backgrounds_dir:
        sources["backgrounds"] = _folder_digest(Path(config.backgrounds_dir))
    return Plan(
        target=data / "scenes" / name,
        work=data / "scenes" / f"{name}.partial",
        dataset=f"scenes/{config.source}",
        split=name,
        num_samples=config.num_scenes,
        samples_per_shard=config.scenes_per_shard,
        jpeg_quality=config.jpeg_quality,
        config=config.model_dump(mode="json"),
        open_source=open_composer,
        sources=sources,
        code=code_digest(HERE / path for path in CODE),
    )


def _folder_digest(folder: Path) -> str:
    """sha256 over names and contents of the images below a folder."""
    return digest([[str(p.relative_to(folder)), hashlib.sha256(p.read_bytes()).hexdigest()] for p in list_images(folder)])


def check_sources(section: ComposeConfig, data: Path) -> None:
    """DataError if two scene sets are made of the same source frames. What is not there yet is compared when it is."""
    sets: list[SceneSetConfig] = [getattr(section, name) for name in SETS]
    folders = [data / "ingest" / config.source / config.split for config in sets]
    check_disjoint([folder for folder in folders if (folder / MANIFEST).is_file()])


def compose(name: str, section: ComposeConfig, *, data: Path = DATA, num_workers: int | None = None) -> Path:
    """Compose scene set "train" or "eval"; the folder written. DataError if the source does not fit."""
    config: SceneSetConfig = getattr(section, name)
    plan = make_plan(name, config, data)
    check_sources(section, data)
    made = build_shards(plan, num_workers=num_workers, description=f"compose {name}")
    from pipelines.scene_report.page import write_scene_report  # drawing is slow to load, and workers draw nothing

    write_scene_report(plan.target, data / "scene_reports" / name, PLACES)
    print(f"{plan.target}: {plan.num_samples} scenes{'' if made else ', unchanged'}", file=sys.stderr)
    return plan.target


def main(arguments: list[str]) -> int:
    """Command line; a mistake is one line on stderr."""
    if len(arguments) != 1 or arguments[0] not in SETS:
        return usage_error(f"python -m pipelines.compose {'|'.join(SETS)}")

    def work() -> None:
        compose(arguments[0], load_params().compose)

    return run_stage(work, interrupted=FINISHED_SHARDS_STAY)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
