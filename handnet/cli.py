"""The `handnet` command: groups of commands around the library; each group is one Typer app added at the end.

Commands import what they need when they run, so that `handnet --help` stays fast.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Hands in images: the hand model and its tools.", no_args_is_help=True, add_completion=False)
hand = typer.Typer(help="The MANO-schema hand model.", no_args_is_help=True)
app.add_typer(hand, name="hand")
mano = typer.Typer(help="A user's MANO files, where there are any.", no_args_is_help=True)
app.add_typer(mano, name="mano")

# differences up to this are rounding: the arrays are stored as float32, in metres or radians
SAME_WITHIN = 1e-6


@app.callback()
def main() -> None:
    """Hands in images: the hand model and its tools."""


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn a mistake in what the user gave into one line on stderr and exit code 2."""
    try:
        yield
    except (ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None


@hand.command("build")
def build_hand(
    out: Annotated[Path, typer.Argument(help="Where to write the right hand's .npz.")] = Path("free_hand.npz"),
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 if the result differs from the hand in this package.")] = False,
) -> None:
    """Build the free hand from its source (about 20 seconds) and compare it with the one in this package."""
    from handnet.hand.files import FREE_HAND_FILE
    from handnet.hand.generator.build import build_arrays, differences
    from handnet.hand.npz import read_npz, save_arrays

    with user_errors():
        if out.suffix != ".npz":
            raise ValueError(f"OUT: expected a path that ends in .npz, got {str(out)!r}")
        arrays = build_arrays(lambda part: typer.echo(f"building {part}", err=True))
        save_arrays(out, arrays)
        found = differences(arrays, read_npz(FREE_HAND_FILE))
    typer.echo(f"wrote {out} ({out.stat().st_size:,} bytes)")
    changed = {name: difference for name, difference in found.items() if difference > SAME_WITHIN}
    if not changed:
        typer.echo(f"same as the hand in this package (largest difference {max(found.values()):.1e})")
        return
    for name, difference in changed.items():
        typer.echo(f"differs from the hand in this package: {name} by up to {difference:.3e}")
    if check:
        raise typer.Exit(1)


@hand.command("info")
def show_hand(
    source: Annotated[Path | None, typer.Argument(help="A MANO-schema .npz, a MANO .pkl, or a folder with both sides.")] = None,
) -> None:
    """Check a hand model and show its measures; without SOURCE the free hand of this package."""
    from handnet.hand.doctor import describe
    from handnet.hand.files import load_hand

    with user_errors():
        lines = describe(load_hand(source))
    for line in lines:
        typer.echo(line)


@mano.callback()
def mano_group() -> None:
    """A user's MANO files, where there are any."""


@mano.command("doctor")
def examine(
    path: Annotated[Path | None, typer.Argument(help="A MANO file or folder; without it $HANDNET_MANO, else ./mano.")] = None,
) -> None:
    """Which MANO files are there, what is wrong with them, and which hand will be used; exit code 1 if something is wrong."""
    from handnet.hand.mano_doctor import examine_mano

    found = examine_mano(path)
    for line in found.lines:
        typer.echo(line)
    if found.wrong:
        raise typer.Exit(1)


@app.command("predict")
def predict_images(
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    model: Annotated[Path, typer.Option(help="A model folder, as training writes it.")] = Path("models/multi"),
    out: Annotated[Path, typer.Option(help="Folder for NAME.json and, where hands are found, NAME.glb.")] = Path("predictions"),
    focal_px: Annotated[float | None, typer.Option(help="Focal length in pixels; without it the one the model was trained with.")] = None,
    threshold: Annotated[float, typer.Option(help="Lowest score of a hand, 0 to 1.")] = 0.3,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    mano: Annotated[Path | None, typer.Option(help="MANO's files, for a model trained with them [$HANDNET_MANO or ./mano].")] = None,
) -> None:
    """Every hand of each image: 2D and 3D keypoints, MANO parameters, and meshes in one camera frame."""
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    from handnet.camera import intrinsics
    from handnet.export import write_glb, write_json
    from handnet.predict import Predictor

    with user_errors():
        predictor = Predictor.load(model, device, mano=mano)
        for path in images:
            try:
                with Image.open(path) as opened:
                    image = np.asarray(opened.convert("RGB"))
            except UnidentifiedImageError:
                raise ValueError(f"{path}: not an image") from None
            height, width = image.shape[:2]
            K = None if focal_px is None else intrinsics(focal_px, width, height).numpy()[None]
            hands = predictor.predict(image[None], K, score_threshold=threshold)[0]
            write_json(out / f"{path.stem}.json", hands)
            if hands:
                write_glb(out / f"{path.stem}.glb", hands, predictor.layer.both_faces.cpu().numpy())
            typer.echo(f"{path}: {len(hands)} hand{'' if len(hands) == 1 else 's'} -> {out / path.stem}.json")


if __name__ == "__main__":
    app()
