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


if __name__ == "__main__":
    app()
