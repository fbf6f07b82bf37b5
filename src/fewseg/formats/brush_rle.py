"""Masks as Label Studio's brush run lengths.

A list of bytes, read as bits from the highest down: 32 bits say how many values follow, 5 the bits of a value less one,
four times 4 the bits of a length less one. Then blocks: a bit that says whether it is a run (1) or a list (0), 2 bits
that choose one of the four kinds of lengths, the length less one, and the run's value or the list's values. Values are
those of an RGBA image, row by row; the mask is where alpha is at least half of its greatest value: the editor's brush
has a soft edge, and masks that scripts imported may have 1 in place of 255.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fewseg.core.errors import InvalidMask

_LENGTH_BITS: Final = (3, 4, 8, 16)
_WORD: Final = 8
_CHANNELS: Final = 4


def encode(mask: NDArray[np.bool_]) -> list[int]:
    """The bytes of a mask (H, W): 255 in all four channels where it is, 0 elsewhere."""
    flat = mask.reshape(-1)
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]) + 1, flat.size)
    starts = np.append(0, ends[:-1])
    values = np.where(flat[starts], 255, 0)
    values, lengths = _split(values, (ends - starts) * _CHANNELS)
    kinds = np.searchsorted(1 << np.array(_LENGTH_BITS), lengths)
    sizes = np.array(_LENGTH_BITS)[kinds]
    # Each block is one number: 1, kind, length less one, value.
    blocks = (((4 + kinds) << sizes | (lengths - 1)) << _WORD) | values
    bits = np.concatenate([_header(flat.size * _CHANNELS), _as_bits(blocks, 3 + sizes + _WORD)])
    packed: list[int] = np.packbits(bits).tolist()
    return packed


def _split(values: NDArray[Any], lengths: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Runs longer than the longest kind as several."""
    longest = 1 << _LENGTH_BITS[-1]
    parts = -(-lengths // longest)
    last = np.cumsum(parts) - 1
    split = np.full(int(parts.sum()), longest, np.int64)
    split[last] = lengths - (parts - 1) * longest
    return np.repeat(values, parts), split


def _header(count: int) -> NDArray[np.uint8]:
    numbers = np.array([count, _WORD - 1, *(size - 1 for size in _LENGTH_BITS)], np.int64)
    return _as_bits(numbers, np.array([32, 5, 4, 4, 4, 4]))


def _as_bits(numbers: NDArray[Any], sizes: NDArray[Any]) -> NDArray[np.uint8]:
    """The lowest `sizes` bits of each number, highest first, one after the other."""
    last = np.repeat(np.cumsum(sizes), sizes)
    shifts = last - 1 - np.arange(int(sizes.sum()))
    bits: NDArray[np.uint8] = (np.repeat(numbers, sizes) >> shifts & 1).astype(np.uint8)
    return bits


def decode(rle: Sequence[int], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask (H, W) of an image of `size` (width, height); raises `InvalidMask` for anything damaged."""
    width, height = size
    try:
        data = np.asarray(rle)
        if data.ndim != 1 or data.dtype.kind != "i" or ((data < 0) | (data > 255)).any():
            raise InvalidMask("the brush mask is no list of bytes: send Label Studio's rle")
        bits = _Bits(np.unpackbits(data.astype(np.uint8)))
        count = bits.number(32)
        if count != width * height * _CHANNELS:
            raise InvalidMask(f"the brush mask has {count} values, {width}x{height} pixels need {width * height * 4}")
        alpha = np.zeros(width * height, np.uint8)
        _read(bits, count, alpha)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidMask(f"the brush mask is damaged ({error}): save the annotation again") from error
    opaque: NDArray[np.bool_] = alpha >= max(1, alpha.max() / 2)
    return opaque.reshape(height, width)


def _read(bits: _Bits, count: int, alpha: NDArray[np.uint8]) -> None:
    word = bits.number(5) + 1
    sizes = [bits.number(4) + 1 for _ in range(4)]
    place = 0
    while place < count:
        run = bits.number(1)
        end = place + 1 + bits.number(sizes[bits.number(2)])
        if end > count:
            raise ValueError("it has more values than it says")
        # Value 4 p + 3 is pixel p's alpha: those from `place` to `end` belong to pixels place // 4 to end // 4.
        if run:
            alpha[place // 4 : end // 4] = min(bits.number(word), 255)
        else:
            values = bits.numbers(end - place, word)
            alpha[place // 4 : end // 4] = values[(3 - place) % 4 :: 4].clip(max=255)
        place = end


class _Bits:
    """Bits that are read from the front; raises `ValueError` at their end."""

    def __init__(self, bits: NDArray[np.uint8]) -> None:
        self._text, self._bits, self._at = bits.tobytes().translate(_DIGITS), bits, 0

    def number(self, size: int) -> int:
        return int(self._take(size), 2)

    def numbers(self, count: int, size: int) -> NDArray[np.int64]:
        start = self._at
        self._take(count * size)
        weights: NDArray[np.int64] = 1 << np.arange(size - 1, -1, -1)
        numbers: NDArray[np.int64] = self._bits[start : self._at].reshape(count, size) @ weights
        return numbers

    def _take(self, size: int) -> bytes:
        start, self._at = self._at, self._at + size
        if self._at > len(self._text):
            raise ValueError("it is cut off")
        return self._text[start : self._at]


_DIGITS: Final = bytes([48, 49]) + bytes(range(2, 256))
"""Bits as the digits 0 and 1, which `int` reads faster than anything else here."""
