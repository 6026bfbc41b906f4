"""The jinja environment of every page that is written: text escaped in HTML, a name that is not given an error, no stray blank lines."""

from __future__ import annotations

from pathlib import Path

import jinja2


def page_environment(*templates: Path) -> jinja2.Environment:
    """Reads the templates of these folders, looked for in this order; those that end in .html are escaped."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
