"""One sample as the members of a tar, and back: which file holds what, and the version of that layout.

Everything three-dimensional has members of its own, so that weak supervision can leave them unread.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

import cv2
import numpy as np
import orjson
import simplejpeg
from numpy.typing import NDArray

from pipelines.datasets.sample import NUM_KEYPOINTS, NUM_MANO, NUM_VERTICES, SIDES, DataError, HandLabel, HandSample

SCHEMA = 2  # raised whenever a reader of the previous layout would go wrong

IMAGE, MASK, META, KEYPOINTS = "jpg", "mask.png", "json", "keypoints.npy"
KEYPOINTS_3D, VERTICES, MANO = "keypoints3d.npy", "vertices.npy", "mano.npy"
LABELS_3D = (KEYPOINTS_3D, MANO, VERTICES)
REQUIRED = (IMAGE, META, KEYPOINTS)
SUFFIXES = (*REQUIRED, MASK, *LABELS_3D)

# of each three-dimensional member: the field of HandLabel it holds, and one hand's shape
FIELDS_3D: dict[str, tuple[str, tuple[int, ...]]] = {
    KEYPOINTS_3D: ("keypoints_m", (NUM_KEYPOINTS, 3)),
    MANO: ("mano", (NUM_MANO,)),
    VERTICES: ("vertices_m", (NUM_VERTICES, 3)),
}


class ShardError(DataError):
    """A shard or manifest that cannot be used; the message names the file and, where there is one, the member."""


def encode_jpeg(image: NDArray[np.uint8], quality: int) -> bytes:
    """(H,W,3) uint8 RGB -> JPEG bytes."""
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return bytes(data)


_MASK_OPTIONS = [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE]


def encode_mask(mask: NDArray[np.uint8]) -> bytes:
    """(H,W) uint8 -> PNG bytes, lossless."""
    # a mask is long runs of few values: without PNG's search for the best filter of each row, this takes a third of the time
    _, data = cv2.imencode(".png", mask, [cv2.IMWRITE_PNG_COMPRESSION, 2, *_MASK_OPTIONS])
    return bytes(data)


_last_mask: tuple[NDArray[np.uint8], bytes] | None = None


def _mask_member(mask: NDArray[np.uint8]) -> bytes:
    """`encode_mask`, once for samples in a row that share a mask: one that nothing may write to."""
    global _last_mask
    if mask.flags.writeable:
        return encode_mask(mask)
    last = _last_mask
    if last is None or last[0] is not mask:
        last = _last_mask = (mask, encode_mask(mask))
    return last[1]


@lru_cache(maxsize=256)
def _array_header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"shape": shape, "fortran_order": False, "descr": np.lib.format.dtype_to_descr(dtype)})
    return stream.getvalue()


def encode_array(array: NDArray) -> bytes:
    """Array -> npy bytes; ValueError for an array of objects."""
    if array.dtype.hasobject:
        raise ValueError("expected numbers, got an array of objects")
    return _array_header(array.shape, array.dtype) + array.tobytes()


def encode_sample(sample: HandSample, jpeg_quality: int) -> dict[str, bytes]:
    """A sample as {suffix: bytes}. A three-dimensional member is written if any hand has it; hands without hold NaN."""
    hands = sample.hands
    meta = {
        "schema": SCHEMA,
        "height": sample.height_px,
        "width": sample.width_px,
        "K": sample.K.tolist(),
        "K_known": sample.K_known,
        "mask_source": sample.mask_source,
        "hands": [_encode_hand(hand) for hand in hands],
    }
    keypoints = np.zeros((len(hands), NUM_KEYPOINTS, 3), np.float32)
    for i, hand in enumerate(hands):
        keypoints[i, :, :2] = hand.keypoints_px
        keypoints[i, :, 2] = hand.visible
    members = {
        IMAGE: encode_jpeg(sample.image, jpeg_quality) if sample.encoded is None else sample.encoded,
        META: orjson.dumps(meta, option=orjson.OPT_SORT_KEYS),
        KEYPOINTS: encode_array(keypoints),
    }
    if sample.mask is not None:
        members[MASK] = _mask_member(sample.mask)
    for suffix, (field, shape) in FIELDS_3D.items():
        values = [getattr(hand, field) for hand in hands]
        if any(value is not None for value in values):
            rows = np.empty((len(hands), *shape), np.float32)
            for row, value in zip(rows, values, strict=True):
                row[...] = np.nan if value is None else value
            members[suffix] = encode_array(rows)
    return members


def _encode_hand(hand: HandLabel) -> dict[str, Any]:
    given: dict[str, Any] = {}
    if hand.given_wrist_m is not None:
        given["given_wrist_m"] = [float(v) for v in hand.given_wrist_m]
    if hand.given_scale_m is not None:
        given["given_scale_m"] = hand.given_scale_m
    return given | {
        "side": SIDES[hand.side],
        "box": hand.box_px.tolist(),
        "K": hand.K.tolist(),
        "source_id": hand.source_id,
        "identity": hand.identity,
        "affine": None if hand.affine is None else hand.affine.tolist(),
        "hand_model": hand.hand_model,
        "joint_convention": hand.joint_convention,
    }


# what the decoders raise for bytes that are not what they should be
DECODE_ERRORS = (ValueError, KeyError, IndexError, TypeError, EOFError)


def undecodable(where: str, error: Exception) -> ShardError:
    """One of DECODE_ERRORS as a ShardError that names the member."""
    reason = f"missing key {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
    return ShardError(f"{where}: cannot be decoded: {reason or type(error).__name__}")


def decode_image(data: bytes) -> NDArray[np.uint8]:
    """JPEG bytes -> (H,W,3) uint8 RGB."""
    image: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, colorspace="RGB")
    return image


def decode_image_into(data: bytes, pixels: NDArray[np.uint8]) -> None:
    """JPEG bytes -> pixels (H,W,4) uint8, red, green, blue and a meaningless one. ValueError for an image of another size."""
    decoded = simplejpeg.decode_jpeg(data, colorspace="RGBX", buffer=pixels)
    if decoded.shape != pixels.shape:
        raise ValueError(f"expected height, width {pixels.shape[:2]}, got {decoded.shape[:2]}")


def decode_mask(data: bytes) -> NDArray[np.uint8]:
    """PNG bytes -> (H,W) uint8."""
    plain = _plain_mask(data)
    if plain is not None:
        return plain
    mask = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    if mask is None or mask.ndim != 2 or mask.dtype != np.uint8:
        raise ValueError("expected a grey 8-bit PNG")
    return np.asarray(mask, np.uint8)


def _plain_mask(data: bytes) -> NDArray[np.uint8] | None:
    """A PNG as `encode_mask` writes it, grey and unfiltered, in half of OpenCV's time; None for any other, damaged ones among them."""
    if data[:16] != b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" or data[24:29] != b"\x08\0\0\0\0":
        return None
    parts, start = [], 8
    while data[start + 4 : start + 8] in (b"IHDR", b"IDAT"):
        end = start + 8 + int.from_bytes(data[start : start + 4], "big")
        if zlib.crc32(data[start + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return None
        parts.append(data[start + 8 : end])
        start = end + 4
    width, height = struct.unpack(">II", data[16:24])
    size = height * (width + 1)  # each row begins with the number of its filter
    inflater = zlib.decompressobj()
    try:
        rows = inflater.decompress(b"".join(parts[1:]), size + 1)
    except zlib.error:
        return None
    if data[start + 4 : start + 8] != b"IEND" or not inflater.eof or len(rows) != size:
        return None
    values = np.frombuffer(rows, np.uint8).reshape(height, width + 1)
    return None if values[:, 0].any() or width == 0 or height == 0 else values[:, 1:].copy()


@lru_cache(maxsize=256)
def _array_layout(header: bytes) -> tuple[tuple[int, ...], Literal["C", "F"], np.dtype, int]:
    """Shape, order, dtype and total size in bytes, from the start of an npy file. Shards repeat a few headers thousands of times."""
    stream = io.BytesIO(header)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("expected npy format version 1.0")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be loaded: they hold pickled code")
    return shape, "F" if fortran_order else "C", dtype, math.prod(shape) * dtype.itemsize


def decode_array(data: bytes) -> NDArray:
    """npy bytes -> array; object arrays are refused."""
    start = 10 + int.from_bytes(data[8:10], "little")
    shape, order, dtype, num_bytes = _array_layout(data[:start])
    if len(data) != start + num_bytes:
        raise ValueError(f"expected {math.prod(shape)} numbers of {dtype.itemsize} bytes for shape {shape}, got {len(data) - start} bytes")
    return np.ndarray(shape, dtype, data, start, order=order).copy()


def decode_meta(data: bytes) -> dict[str, Any]:
    """JSON bytes -> mapping, with its schema checked."""
    meta = orjson.loads(data)
    if not isinstance(meta, dict):
        raise ValueError(f"expected a JSON object, got {type(meta).__name__}")
    if meta.get("schema") != SCHEMA:
        raise ValueError(f"expected schema {SCHEMA}, got {meta.get('schema')!r}")
    return meta


def _is_missing(array: NDArray) -> bool:
    """Whether a hand has no such label: NaN throughout."""
    return math.isnan(array.item(0)) and bool(np.isnan(array).all())


def decode_hands(where: str, meta: Mapping[str, Any], keypoints: NDArray, arrays_3d: Mapping[str, NDArray]) -> tuple[HandLabel, ...]:
    """Hands from the decoded JSON, the (N,21,3) keypoints and the three-dimensional arrays that were read.

    `where` names shard and sample in errors. ShardError for counts or shapes that disagree.
    """
    entries = meta["hands"]
    expected = (len(entries), NUM_KEYPOINTS, 3)
    if keypoints.shape != expected:
        raise ShardError(f"{where}.{KEYPOINTS}: expected shape {expected}, got {keypoints.shape}")
    for suffix, array in arrays_3d.items():
        shape = (len(entries), *FIELDS_3D[suffix][1])
        if array.shape != shape:
            raise ShardError(f"{where}.{suffix}: expected shape {shape}, got {array.shape}")
    hands = []
    for i, entry in enumerate(entries):
        fields = {FIELDS_3D[suffix][0]: array[i] for suffix, array in arrays_3d.items() if not _is_missing(array[i])}
        try:
            hands.append(
                HandLabel(
                    side=SIDES.index(entry["side"]),
                    keypoints_px=keypoints[i, :, :2],
                    visible=keypoints[i, :, 2] > 0.5,
                    box_px=entry["box"],
                    K=entry["K"],
                    hand_model=entry["hand_model"],
                    joint_convention=entry["joint_convention"],
                    source_id=entry["source_id"],
                    identity=entry["identity"],
                    affine=entry["affine"],
                    given_wrist_m=entry.get("given_wrist_m"),
                    given_scale_m=entry.get("given_scale_m"),
                    **fields,
                )
            )
        except KeyError as error:
            raise ShardError(f"{where}.{META}: hand {i}: missing key {error}") from None
        except ValueError as error:
            raise ShardError(f"{where}: hand {i}: {error}") from None
    return tuple(hands)
