"""Bilinear warp of 8-bit colours with their tone, sixteen pixels at a time. OpenCV's takes twice as long and leaves the tone to do.

The vector code is written as LLVM's own instructions, which it turns into those of the processor at hand.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

LANES = 16
_I1, _I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
_INDEX = ir.VectorType(_I32, LANES)  # a number for each pixel, or its four bytes
_WORDS = ir.VectorType(_I16, 2 * LANES)  # two channels of each pixel
_PAIRS = ir.VectorType(_I64, LANES // 2)  # a pixel and its neighbour to the right
_ADDRESSES = ir.VectorType(ir.PointerType(_I64), LANES // 2)


def _all(value: int, kind: ir.VectorType = _INDEX) -> ir.Constant:
    return ir.Constant(kind, [value] * kind.count)


class _Emitter:
    """The instructions of one block of pixels."""

    def __init__(self, builder: Any):
        self.b = builder

    def spread(self, value: Any, kind: ir.VectorType = _INDEX) -> Any:
        """One number in every lane."""
        undefined = ir.Constant(kind, ir.Undefined)
        first = self.b.insert_element(undefined, value, ir.Constant(_I32, 0))
        return self.b.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_I32, kind.count), [0] * kind.count))

    def shuffle(self, first: Any, second: Any, lanes: list[int]) -> Any:
        return self.b.shuffle_vector(first, second, ir.Constant(ir.VectorType(_I32, len(lanes)), lanes))

    def words(self, value: Any) -> Any:
        return self.b.bitcast(value, _WORDS)

    def largest(self, one: Any, other: Any) -> Any:
        return self.b.select(self.b.icmp_signed(">", one, other), one, other)

    def smallest(self, one: Any, other: Any) -> Any:
        return self.b.select(self.b.icmp_signed("<", one, other), one, other)

    def absolute(self, value: Any) -> Any:
        return self.largest(value, self.b.sub(_all(0), value))

    def along(self, start: Any, step: Any, last: Any, border: bool) -> tuple[Any, Any]:
        """Pixels and fractions of 16 bits of coordinates start + step * lane in 16.16 bits, reflected into 0..last."""
        b = self.b
        places = b.add(self.spread(start), b.mul(self.spread(step), ir.Constant(_INDEX, list(range(LANES)))))
        if not border:
            return b.lshr(places, _all(16)), b.and_(places, _all(0xFFFF))
        end = self.spread(b.shl(last, ir.Constant(_I32, 16)))
        inside = b.sub(end, self.absolute(b.sub(end, self.absolute(places))))
        pixel = self.smallest(b.ashr(inside, _all(16)), self.spread(b.sub(last, ir.Constant(_I32, 1))))
        return pixel, b.sub(inside, b.shl(pixel, _all(16)))  # 0..65536: the last pixel is the right of a pair

    def twice(self, fraction: Any) -> Any:
        """A fraction as the words of both channels of its pixel."""
        return self.words(self.b.or_(fraction, self.b.shl(fraction, _all(16))))

    def high(self, one: Any, other: Any) -> Any:
        """The upper halves of the words' products. Written as a widened product, it is not seen to be one instruction."""
        name, found = f"llvm.umul.fix.v{2 * LANES}i16", self.b.module.globals
        function = found.get(name) or ir.Function(self.b.module, ir.FunctionType(_WORDS, [_WORDS, _WORDS, _I32]), name)
        return self.b.call(function, [one, other, ir.Constant(_I32, 16)])

    def gather(self, base: Any, index: Any) -> Any:
        """Each pixel at base + 4 * index and its neighbour."""
        name, found = "llvm.masked.gather.v8i64.v8p0", self.b.module.globals
        arguments = [_ADDRESSES, _I32, ir.VectorType(_I1, LANES // 2), _PAIRS]
        function = found.get(name) or ir.Function(self.b.module, ir.FunctionType(_PAIRS, arguments), name)
        everywhere = _all(1, ir.VectorType(_I1, LANES // 2))
        # one base and 32-bit steps are what the processor's own instruction takes
        addresses = self.b.gep(self.b.inttoptr(base, ir.PointerType(_I32)), [index], source_etype=_I32)
        addresses.type = _ADDRESSES  # llvmlite takes it for the type of a single one
        pairs = self.b.call(function, [addresses, ir.Constant(_I32, 4), everywhere, _all(0, _PAIRS)])
        return self.b.bitcast(pairs, _INDEX)

    def toned(self, value: Any, tone: Any) -> Any:
        """Words with eight bits after the point to bytes in words: value * gain + offset, in 0..255. tone: offset << 16 | gain."""
        b = self.b
        low, high = b.trunc(tone, _I32), b.trunc(b.lshr(tone, ir.Constant(_I64, 32)), _I32)
        gain, offset = self.words(self.spread(low)), self.words(self.spread(high))
        # biased so that what is above 255 ends at the largest word, and what is below zero at the bias
        biased = b.call(self._saturating("uadd"), [self.high(value, gain), offset])
        return b.lshr(b.call(self._saturating("usub"), [biased, _all(_TONE_BIAS, _WORDS)]), _all(_TONE_BITS, _WORDS))

    def _saturating(self, name: str) -> Any:
        name, found = f"llvm.{name}.sat.v{2 * LANES}i16", self.b.module.globals
        return found.get(name) or ir.Function(self.b.module, ir.FunctionType(_WORDS, [_WORDS, _WORDS]), name)


_TONE_BITS = 5  # after the point, while a colour is scaled: 255 at a gain below 4 stays within 15 bits
_TONE_BIAS = (1 << 16) - (256 << _TONE_BITS)


def _emit_block(b: Any, arguments: Any, border: bool) -> None:
    """Sixteen pixels from an address of four-byte pixels, `width` to a row, to an address of three-byte ones.

    arguments: that address, width, last column and row; coordinates of the first pixel and steps, 16.16 bits; tones; target. border:
    whether any of the pixels may lie outside.
    """
    source, width, right, bottom, x, dx, y, dy, red_blue, green, out = arguments
    e = _Emitter(b)
    column, across = e.along(x, dx, right, border)
    row, down = e.along(y, dy, bottom, border)
    index = b.add(b.mul(row, e.spread(width)), column)
    next_row = b.add(source, b.shl(b.zext(width, _I64), ir.Constant(_I64, 2)))
    down = b.bitcast(e.twice(b.lshr(down, _all(8))), _INDEX)
    halves = []
    for first in (0, LANES // 2):
        some = e.shuffle(index, index, list(range(first, first + LANES // 2)))
        upper, lower = e.gather(source, some), e.gather(next_row, some)
        fraction = e.words(e.shuffle(down, down, [first + lane // 2 for lane in range(LANES)]))
        rest = b.sub(_all(256, _WORDS), fraction)
        even = [e.words(b.and_(line, _all(0x00FF00FF))) for line in (upper, lower)]
        odd = [b.lshr(e.words(line), _all(8, _WORDS)) for line in (upper, lower)]
        halves.append([b.add(b.mul(above, rest), b.mul(below, fraction)) for above, below in (even, odd)])  # 8 bits after the point
    fraction = e.twice(e.smallest(across, _all(0xFFFF)) if border else across)
    rest = b.sub(_all(0xFFFF, _WORDS), fraction)
    channels = []
    for part, tone in ((0, red_blue), (1, green)):
        pairs = [b.bitcast(half[part], _INDEX) for half in halves]
        left, beside = (e.words(e.shuffle(pairs[0], pairs[1], [2 * lane + side for lane in range(LANES)])) for side in (0, 1))
        channels.append(e.toned(b.add(e.high(left, rest), e.high(beside, fraction)), tone))
    pixels = b.bitcast(b.or_(channels[0], b.shl(channels[1], _all(8, _WORDS))), ir.VectorType(_I8, 4 * LANES))
    packed = e.shuffle(pixels, pixels, [4 * lane + channel for lane in range(LANES) for channel in range(3)])
    b.store(packed, b.inttoptr(out, ir.PointerType(packed.type)), align=1)


def _block_of(border: bool) -> Any:
    def typed(typing, source, width, right, bottom, x, dx, y, dy, red_blue, green, out):  # type: ignore[no-untyped-def]
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            _emit_block(builder, arguments, border)
            return context.get_dummy_value()

        return types.void(source, width, right, bottom, x, dx, y, dy, red_blue, green, out), generate

    return intrinsic(typed)


_inner_block, _border_block = _block_of(border=False), _block_of(border=True)


@numba.njit(nogil=True)
def _tone_word(gain: float, offset: float, gain_above: float, offset_above: float) -> np.int64:
    """Gain and offset of a word's channel and of the one above it, as `_Emitter.toned` reads them; half a level rounds."""
    one = 2.0**_TONE_BITS
    gains = np.int64(round(gain * 256 * one)) | np.int64(round(gain_above * 256 * one)) << 16
    low, high = np.int64(round((offset + 0.5) * one)), np.int64(round((offset_above + 0.5) * one))
    nothing, most = np.int64(0), np.int64(0xFFFF)
    low, high = min(max(low + _TONE_BIAS, nothing), most), min(max(high + _TONE_BIAS, nothing), most)
    return gains | (low | high << 16) << 32


@numba.njit(cache=True, nogil=True, error_model="numpy")
def warp_colors(pixels: NDArray[np.uint8], affine: NDArray[np.float64], tone: NDArray[np.float64], out: NDArray[np.uint8]) -> bool:
    """Colours under an affine (2,3), source -> out in continuous pixels, times gain plus offset; the border repeats by reflection.

    pixels (H,W,4), the fourth channel unread; out (S,S,3), filled. tone (3,2): gain below 3.9 and offset, in levels, of each
    channel. False, with nothing done, where this is not made for it: a view that reaches further than one reflection does,
    and sizes below 16 or beyond 16,000.
    """
    height, width, size = pixels.shape[0], pixels.shape[1], out.shape[0]
    if min(height, width) < 2 or max(height, width) > 16000 or size < LANES:
        return False
    determinant = affine[0, 0] * affine[1, 1] - affine[0, 1] * affine[1, 0]
    xx, xy = affine[1, 1] / determinant, -affine[0, 1] / determinant
    yx, yy = -affine[1, 0] / determinant, affine[0, 0] / determinant
    # the kernel's pixel centres are whole numbers, ours lie half a pixel further
    x = xx * (0.5 - affine[0, 2]) + xy * (0.5 - affine[1, 2]) - 0.5
    y = yx * (0.5 - affine[0, 2]) + yy * (0.5 - affine[1, 2]) - 0.5
    reach = size - 1
    for j in (0, reach):
        for i in (0, reach):
            u, v = x + xx * j + xy * i, y + yx * j + yy * i
            if not (2 - width < u < 2 * width - 3 and 2 - height < v < 2 * height - 3):
                return False
    red_blue = _tone_word(tone[0, 0], tone[0, 1], tone[2, 0], tone[2, 1])
    green = _tone_word(tone[1, 0], tone[1, 1], 0.0, 0.0)
    one = 65536.0
    dx, dy = np.int32(round(xx * one)), np.int32(round(yx * one))
    source, target = pixels.ctypes.data, out.ctypes.data
    width_, right, bottom = np.int32(width), np.int32(width - 1), np.int32(height - 1)
    end_x, end_y = (width - 1) << 16, (height - 1) << 16
    # scaled once: by a power of two, so that no bit of the sums changes
    x, xx, xy, y, yx, yy = x * one, xx * one, xy * one, y * one, yx * one, yy * one
    for row in range(size):
        row_x, row_y = xy * row, yy * row
        for start in range(0, size, LANES):
            column = min(start, size - LANES)
            u, v = np.int32(x + xx * column + row_x), np.int32(y + yx * column + row_y)
            left, top = int(u), int(v)
            far_left, far_top = left + (LANES - 1) * int(dx), top + (LANES - 1) * int(dy)
            address = np.int64(target) + 3 * (row * size + column)
            if min(left, far_left, top, far_top) >= 0 and max(left, far_left) < end_x and max(top, far_top) < end_y:
                _inner_block(np.int64(source), width_, right, bottom, u, dx, v, dy, red_blue, green, address)
            else:
                _border_block(np.int64(source), width_, right, bottom, u, dx, v, dy, red_blue, green, address)
    return True
