"""Pages that need nothing but themselves: jinja templates on the report's base and style, written in one step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

from pipelines.pages import page_environment
from pipelines.plotting import Chart
from pipelines.shards.manifest import write_atomic

_TEMPLATES = Path(__file__).parent / "templates"
_SHARED = Path(__file__).parents[1] / "reporting/templates"  # base.html and its style


def render(template: str, **content: Any) -> str:
    """A template with its content; text is escaped in HTML, charts are inserted as they are."""
    environment = page_environment(_TEMPLATES, _SHARED)
    return environment.get_template(template).render(css=Markup((_SHARED / "page.css").read_text()), svg=_svg, **content)


def _svg(chart: Chart) -> Markup:
    return Markup(chart.svg)


def write_text(path: Path, text: str) -> Path:
    """Write a file under its name once it is whole; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.encode())
    return path
