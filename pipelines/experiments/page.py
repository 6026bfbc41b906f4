"""Pages that need nothing but themselves: jinja templates with the report's style, written in one step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from pipelines.plotting import Chart
from pipelines.shards.manifest import write_atomic

_TEMPLATES = Path(__file__).parent / "templates"
_STYLE = Path(__file__).parents[1] / "reporting/templates/page.css"


def render(template: str, **content: Any) -> str:
    """A template with its content; text is escaped in HTML, charts are inserted as they are."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(css=Markup(_STYLE.read_text()), svg=_svg, **content)


def _svg(chart: Chart) -> Markup:
    return Markup(chart.svg)


def write_text(path: Path, text: str) -> Path:
    """Write a file under its name once it is whole; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.encode())
    return path
