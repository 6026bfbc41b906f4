"""Names that Prefect, git and file systems all take."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


def artifact_key(*parts: str) -> str:
    """A Prefect artifact key: small letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


def experiment_name(name: str) -> str:
    """The name, checked: it becomes a folder, and a DVC experiment's. ValueError otherwise."""
    if not _NAME.fullmatch(name) or ".." in name or name.endswith((".lock", ".")):
        raise ValueError(f"experiment: expected up to 80 letters, digits, dots, dashes or underscores, got {name!r}")
    return name


def name_of_overrides(overrides: Sequence[str]) -> str:
    """The name of a run that was given params but no name: the same params go on in the same workspace."""
    return "params-" + hashlib.sha256("\n".join(overrides).encode()).hexdigest()[:10]
