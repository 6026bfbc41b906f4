"""JSON texts that must hold an object: descriptions, manifests, figures. What they hold is checked by those who read them."""

from __future__ import annotations

import json
from typing import Any


def parse_object(text: str | bytes, where: object, error: type[ValueError] = ValueError) -> dict[str, Any]:
    """The object in a JSON text. Raises `error`, one line that begins with `where`, for text that is no JSON or holds something else."""
    try:
        tree = json.loads(text)
    except RecursionError:
        raise error(f"{where}: not valid JSON: lists or objects nested too deeply") from None
    except ValueError as problem:  # not JSON, not UTF-8, or a number of thousands of digits
        raise error(f"{where}: not valid JSON: {problem}") from None
    if not isinstance(tree, dict):
        raise error(f"{where}: expected a JSON object, got {type(tree).__name__}")
    return tree
