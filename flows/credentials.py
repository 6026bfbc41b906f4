"""Secrets of a run: variables for its commands, from a Prefect block or the environment, and their removal from what is shown."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET_NAME = re.compile(
    r"(^|_)(SECRET|TOKEN|PASSWORD|PASSWD|PASSPHRASE|WEBHOOK)(_|$)|_KEY$|ACCESS_KEY|API_KEY|AUTH_STRING|CONNECTION_STRING", re.IGNORECASE
)
_USER_INFO = re.compile(r"(?<=://)[^/@\s]+@")
HIDDEN = "***"
# shorter values are words that occur by themselves
SHORTEST = 6


def from_block(name: str | None) -> dict[str, str]:
    """The variables that the Secret block `name` holds as a JSON object, such as {"AWS_ACCESS_KEY_ID": "..."}; none without a name.

    ValueError if there is no such block, or it holds something else; the message does not repeat what it holds.
    """
    if not name:
        return {}
    from prefect.blocks.system import Secret

    try:
        value = Secret.load(name).get()  # type: ignore[union-attr]
    except ValueError as error:
        raise ValueError(f"credentials: expected the name of a Secret block on the Prefect server, got {name!r}: {error}") from None
    wrong = f"Secret block {name!r}: expected a JSON object of variables and their texts"
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            raise ValueError(f"{wrong}, got text that is no JSON") from None
    if not isinstance(value, dict):
        raise ValueError(f"{wrong}, got {type(value).__name__}")
    for key, text in value.items():
        if not isinstance(key, str) or not _NAME.fullmatch(key):
            raise ValueError(f"{wrong}, got a name that no variable can have")
        if not isinstance(text, str):
            raise ValueError(f"{wrong}, got {type(text).__name__} for {key}")
    return dict(value)


def hidden(text: str, credentials: Mapping[str, str] | None = None) -> str:
    """`text` without the values of `credentials`, those of secret variables of this process, and users and passwords of URLs."""
    values = {*(credentials or {}).values(), *(value for name, value in os.environ.items() if _SECRET_NAME.search(name))}
    # output comes line by line, and so does a key of several lines
    secrets = values | {line.strip() for value in values for line in value.splitlines()}
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= SHORTEST:
            text = text.replace(secret, HIDDEN)
    return _USER_INFO.sub(f"{HIDDEN}@", text)
