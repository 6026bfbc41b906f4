"""One of the paper's ablations: every variant and seed as a DVC experiment, then a table beside the paper's numbers.

python -m pipelines.ablate losses|centers|supervision|augmentation [--seeds 0,1,2]; `--list` tells what each is.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import signal
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.markdown import Markdown

from pipelines.config import load_params
from pipelines.experiments.ablation_table import FOLDER, build_table, write_table
from pipelines.experiments.ablations import ABLATIONS, Ablation, Run
from pipelines.experiments.running import Planned, Study, evaluations_of, plan, run_experiment
from pipelines.experiments.runs import queued_names


def runs_of(ablation: Ablation, seeds: Sequence[int], overrides: Sequence[str]) -> dict[tuple[str, int], Run]:
    """All runs by (variant, seed); overrides of the user's own give them names of their own."""
    suffix = f"-{hashlib.sha256(json.dumps(sorted(overrides)).encode()).hexdigest()[:6]}" if overrides else ""
    found = {}
    for seed in seeds:
        for variant in ablation.variants:
            run = ablation.run(variant, seed)
            found[variant.name, seed] = Run(run.name + suffix, (*overrides, *run.overrides))
    return found


def study_of(ablation: Ablation, seeds: Sequence[int], overrides: Sequence[str]) -> Study:
    """The ablation on the current commit, with what is done of it. ValueError for params that do not fit."""
    evaluations = evaluations_of(ablation, load_params())
    runs = runs_of(ablation, seeds, overrides)
    planned = dict(zip(runs, plan(list(runs.values()), evaluations), strict=True))
    names = {run.name for run in runs.values()}
    return Study(
        ablation=ablation,
        seeds=tuple(seeds),
        overrides=tuple(overrides),
        evaluations=tuple(evaluations),
        planned=planned,
        seconds={name: value for name, value in _earlier_seconds(ablation).items() if name in names},
    )


def ablate(study: Study, *, queue: bool, only_table: bool) -> int:
    """Run or queue what is not done, and write the table; the exit code."""
    todo = study.todo()
    print(f"{study.ablation.title}: {len(study.planned)} runs, {len(study.planned) - len(todo)} of them done", flush=True)
    if queue and (queued := queued_names()):
        todo = {key: one for key, one in todo.items() if one.run.name not in queued}
    failed = [] if only_table else _run_all(study, todo, queue=queue)
    if queue:
        told = "`dvc queue start --jobs N` runs them; then this command again, without --queue"
        print(f"\n{len(todo) - len(failed)} runs queued: {told}")
    else:
        paths = write_table(build_table(study))
        show(paths[0].read_text())
        print(f"wrote {', '.join(str(path) for path in paths)}")
    if failed:
        print(f"error: {len(failed)} of {len(todo)} runs failed: {', '.join(failed)}; the same command tries again", file=sys.stderr)
    return 1 if failed else 0


def _run_all(study: Study, todo: dict[tuple[str, int], Planned], *, queue: bool) -> list[str]:
    """Run or queue them one after the other, the table up to date after each; the names of those that failed."""
    failed = []
    for number, (key, one) in enumerate(todo.items(), 1):
        print(f"\n== run {number} of {len(todo)}: {one.run.name}{_left(study.seconds, todo, number)}", flush=True)
        try:
            took = run_experiment(one.run, study.evaluations, queue=queue)
        except RuntimeError as error:
            print(f"error: {error}; going on with the others", file=sys.stderr)
            failed.append(one.run.name)
            continue
        if not queue:
            study.done(key, took)
            write_table(build_table(study))
    return failed


def show(markdown: str) -> None:
    """Print a table: drawn on a terminal, as it is where another program reads it."""
    console = Console()
    print()
    if console.is_terminal:
        console.print(Markdown(markdown))
    else:
        print(markdown)


def _earlier_seconds(ablation: Ablation) -> dict[str, float]:
    """Wall times that the last table had, so that runs done earlier keep theirs."""
    path = FOLDER / f"{ablation.name}.json"
    try:
        found = json.loads(path.read_text()).get("seconds", {})
    except FileNotFoundError:
        return {}
    except (json.JSONDecodeError, AttributeError):
        raise ValueError(f"{path}: expected an ablation's table as JSON; remove it to have it written again") from None
    return {str(name): float(value) for name, value in found.items()}


def _left(seconds: dict[str, float], todo: dict[tuple[str, int], Planned], number: int) -> str:
    timed = [seconds[one.run.name] for one in list(todo.values())[: number - 1] if one.run.name in seconds]
    if not timed:
        return ""
    minutes = (len(todo) - number + 1) * sum(timed) / len(timed) / 60
    return f" (about {minutes:.0f} min left at {sum(timed) / len(timed):.0f} s a run)"


def seed_list(text: str) -> list[int]:
    """Seeds as `0,1,2`."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts) or len(set(map(int, parts))) != len(parts):
        raise ValueError(f"--seeds: expected different numbers from 0 on such as 0,1,2, got {text!r}")
    return [int(part) for part in parts]


def describe() -> str:
    """The ablations, one line each."""
    width = max(map(len, ABLATIONS))
    lines = (f"{a.name:<{width}}  {a.title}: {len(a.variants)} runs a seed, evaluated: {', '.join(a.models)}" for a in ABLATIONS.values())
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; a mistake is one line on stderr and exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.ablate", description="One of the paper's ablations, and its table.")
    parser.add_argument("name", nargs="?", help=", ".join(ABLATIONS))
    parser.add_argument("--list", action="store_true", help="the ablations, one line each")
    parser.add_argument("--seeds", default="0,1,2", help="training seeds (default: 0,1,2)")
    parser.add_argument(
        "-S", "--set-param", action="append", default=[], metavar="PARAM=VALUE", help="an override of every run, as `dvc exp run` has it"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--queue", action="store_true", help="only put the runs in DVC's queue")
    what.add_argument("--table", action="store_true", help="only write the table, from the runs that are done")
    options = parser.parse_args(arguments)
    if options.list:
        print(describe())
        return 0
    try:
        if options.name not in ABLATIONS:
            raise ValueError(f"expected one of {', '.join(ABLATIONS)}, got {options.name!r}")
        study = study_of(ABLATIONS[options.name], seed_list(options.seeds), options.set_param)
        return ablate(study, queue=options.queue, only_table=options.table)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on: finished runs, stages and checkpoints are kept", file=sys.stderr)
        return 130


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):  # both, whatever started this command does with them
        signal.signal(number, signal.default_int_handler)
    sys.exit(main())
