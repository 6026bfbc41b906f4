"""JSON files that must hold an object: whatever else is in them is one line that names the file."""

from __future__ import annotations

import pytest

from handnet.json_object import parse_object
from pipelines.shards import ShardError


def test_an_object_is_read() -> None:
    assert parse_object(b'{"a": [1, 2.5, null]}', "x.json") == {"a": [1, 2.5, None]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not valid JSON: Expecting value"),
        (b'{"a": 1', "not valid JSON: Expecting ',' delimiter"),
        (b"\xff\xfe\x00", "not valid JSON: "),
        (b"[" * 200_000, "not valid JSON: lists or objects nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON: Exceeds the limit"),
        (b"[1]", "expected a JSON object, got list"),
        (b"null", "expected a JSON object, got NoneType"),
    ],
)
def test_anything_else_is_named_in_a_line(text: bytes, message: str) -> None:
    with pytest.raises(ShardError) as failure:
        parse_object(text, "data/x.json", ShardError)
    assert str(failure.value).startswith(f"data/x.json: {message}")
    assert "\n" not in str(failure.value)
