"""Pickles as Python 2 wrote them, which is how MANO and HO3D are published."""

from __future__ import annotations

import io
import pickle
import struct
from typing import ClassVar


class Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 wrote its str, with Python 2's module names."""

    def save_byte_string(self, value):
        self.write(b"T" + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    dispatch: ClassVar[dict] = {**pickle._Pickler.dispatch, bytes: save_byte_string}


def python2_pickle(value: object) -> bytes:
    """Protocol 2, arrays' contents as latin-1 strings."""
    stream = io.BytesIO()
    Python2Pickler(stream, 2).dump(value)
    return stream.getvalue()
