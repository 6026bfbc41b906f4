"""Flow benchmark: the scripts of benchmarks/, one after another so that they do not disturb each other."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from prefect import State, flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.states import Completed

from flows import gpus
from flows.naming import artifact_key
from flows.processes import Processes, StageError, stop_every_stage
from flows.running import follow, stage_environment

FOLDER = Path("benchmarks")


@task(name="benchmark script", cache_policy=NO_CACHE, persist_result=False)
def run_script(script: Path) -> str:
    """What a script printed, on all GPUs of the machine."""
    logger = get_run_logger()
    printed: list[str] = []

    def say(line: str) -> None:
        logger.info("%s", line)
        printed.append(line)

    with gpus.reserved("all") as devices:
        environment = stage_environment(Path.cwd(), devices)
        tail, code = follow([sys.executable, str(script)], Path.cwd(), Processes(), say, environment, ())
    if code != 0:
        raise StageError(str(script), code, list(tail))
    return "\n".join(printed)


@flow(name="benchmark", persist_result=False)
def benchmark(names: list[str] | None = None) -> State[Any]:
    """Run benchmark scripts and show what they print. names: files in benchmarks/ without .py; none: all."""
    scripts = {path.stem: path for path in sorted(FOLDER.glob("*.py"))}
    wrong = sorted(set(names or ()) - set(scripts))
    if wrong:
        raise ValueError(f"names: expected some of {sorted(scripts)}, got {wrong}")
    chosen = names or list(scripts)
    try:
        for name in chosen:
            printed = run_script.with_options(name=name, task_run_name=name)(scripts[name])
            create_markdown_artifact(f"```\n{printed}\n```", key=artifact_key("benchmark", name), description=str(scripts[name]))
    finally:
        stop_every_stage()
    return Completed(message=f"{len(chosen)} scripts")
