"""What a check says of a package."""

from __future__ import annotations

from typing import NamedTuple


class Finding(NamedTuple):
    """One line for people; `is_doubt` where a poor network can cause it too, so that the package is still of the right form."""

    text: str
    is_doubt: bool = False
