"""The `handnet` command: the library's groups of commands, and those around data.

Commands import what they need when they run, so that `handnet --help` stays fast.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from handnet.cli import app, user_errors

data = typer.Typer(help="Datasets: look at them before they are ingested.", no_args_is_help=True)
app.add_typer(data, name="data")

DATASETS = "freihand, ho3d, rhd, interhand, egohands, coco, photos"


@data.command("check")
def check_data(
    name: Annotated[str, typer.Argument(help=f"Which dataset: {DATASETS}.")],
    path: Annotated[Path, typer.Argument(help="The extracted folder, an archive (zip, tar, tar.gz), or a folder of archives.")],
    samples: Annotated[int, typer.Option(min=1, help="Samples to look at in every split, evenly spread.")] = 200,
    sheet: Annotated[Path | None, typer.Option(help="Where to draw some of them; without it checks/NAME.jpg.")] = None,
    cells: Annotated[int, typer.Option(min=0, help="How many to draw.")] = 24,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """What of a dataset is there, beside what is published, and whether its labels fit its pictures; exit code 1 if it cannot be used."""
    from pipelines.inspection.sheet import write_sheet
    from pipelines.inspection.survey import survey
    from pipelines.inspection.text import describe
    from pipelines.shards.manifest import to_json

    with user_errors(), tempfile.TemporaryDirectory() as scratch:
        found = survey(name, str(path), Path(scratch), num_samples=samples, num_cells=cells)
        picture = sheet if sheet is not None else Path("checks") / f"{name}.jpg"
        if found.cells:
            write_sheet(picture, found.cells)
        if as_json:
            typer.echo(to_json({**found.to_dict(), "sheet": str(picture) if found.cells else None}), nl=False)
        else:
            for line in describe(found):
                typer.echo(line)
            if found.cells:
                typer.echo(f"{len(found.cells)} samples drawn in {picture}")
    if found.problems:
        raise typer.Exit(1)


LAYOUTS = "freihand, ho3d or ho3d-v3"
Package = Annotated[Path, typer.Argument(help="The package: a zip with pred.json at its root.")]
LayoutName = Annotated[str, typer.Option("--layout", help=f"Which server's: {LAYOUTS}.")]


@app.command("score")
def score(
    predictions: Annotated[Path, typer.Argument(help="pred.zip, or the pred.json of one.")],
    gt: Annotated[Path, typer.Option(help="Folder with evaluation_xyz.json and evaluation_verts.json, as their owners publish them.")],
    layout: LayoutName,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Score a submission as its server would, by the server's names, and beside it without the reflections that servers allow."""
    from pipelines.shards.manifest import to_json
    from pipelines.submission.command import scores_text
    from pipelines.submission.geometry import geometry_findings
    from pipelines.submission.layouts import find_layout
    from pipelines.submission.reading import read_truth
    from pipelines.submission.repeats import truth_order_findings
    from pipelines.submission.scoring import PackageError, load_submission, score_submission

    with user_errors():
        of_layout = find_layout(layout)
        try:
            xyz, verts = load_submission(predictions)
        except PackageError as error:
            for line in error.findings:
                typer.echo(f"error: {line}", err=True)
            raise typer.Exit(1) from None
        gt_xyz, gt_verts = read_truth(gt)
        scores = score_submission((xyz, verts), gt_xyz, gt_verts, layout)
    for finding in geometry_findings(xyz, verts, of_layout) + truth_order_findings(xyz, gt_xyz):
        typer.echo(f"note: {finding.text}", err=True)
    if as_json:
        typer.echo(to_json({"layout": layout, "num_samples": len(xyz), "server": scores.server, "ours": scores.ours}), nl=False)
    else:
        typer.echo(scores_text(scores, layout, len(xyz)))


@app.command("check-submission")
def check_package(
    package: Package,
    layout: LayoutName,
    count: Annotated[int | None, typer.Option(min=1, help="Samples to expect; without it as many as the server does.")] = None,
    gt: Annotated[Path | None, typer.Option(help="Folder with the published truth: the order of samples is then looked at too.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Everything a server would reject, and what it would take and score badly, a line each; exit code 1 if there is any."""
    from pipelines.shards.manifest import to_json
    from pipelines.submission.checking import checked_for, find_problems
    from pipelines.submission.layouts import find_layout

    with user_errors():
        of_layout = find_layout(layout)
        found = find_problems(package, of_layout, count, gt)
    problems = [finding.text for finding in found if not finding.is_doubt]
    doubts = [finding.text for finding in found if finding.is_doubt]
    checks = checked_for(of_layout, count, with_truth=gt is not None)
    if as_json:
        typer.echo(to_json({"layout": layout, "problems": problems, "doubts": doubts, "checked": checks}), nl=False)
    else:
        for kind, lines in (("problem", problems), ("doubt", doubts)):
            for line in lines:
                typer.echo(f"{kind}: {line}")
        if not found:
            typer.echo(f"{package}: nothing found wrong. Checked for {layout}: {'; '.join(checks)}")
    if problems:
        raise typer.Exit(1)


@app.command("compare")
def compare_runs(
    revisions: Annotated[list[str] | None, typer.Argument(metavar="[REV]", help="Commits, branches, tags, experiments, workspace.")] = None,
    page: Annotated[Path, typer.Option(help="Where the page with the curves goes.")] = Path("comparisons/index.html"),
) -> None:
    """Params and figures of runs side by side, changes from the first; without REV: HEAD, the workspace and HEAD's experiments."""
    from pipelines.compare import compare

    with user_errors():
        typer.echo(f"page: {compare(revisions or [], page)}")


if __name__ == "__main__":
    app()
