"""How many bytes compressed data stands for: a damaged stream mostly stands for another number."""

from __future__ import annotations

from typing import Final

_CLEAR: Final = 256
_STOP: Final = 257
_WIDEST: Final = 12
"""Bits of the longest code of TIFF's LZW."""


def packbits_length(data: bytes) -> int:
    """The number of bytes that PackBits data stands for; raises `ValueError` where it ends within a run."""
    place = total = 0
    while place < len(data):
        head = data[place]
        count = head + 1 if head < 128 else 257 - head
        place += 1 + (count if head < 128 else head > 128)
        total += count if head != 128 else 0
    if place > len(data):
        raise ValueError("its compressed pixels end within a run")
    return total


def lzw_length(data: bytes) -> int:
    """The number of bytes that LZW data of a TIFF stands for; raises `ValueError` for what no encoder writes.

    That is a code without a meaning, and a string that enters the table twice: encoders take the longest that is there.
    """
    lengths, firsts = [1] * 256 + [0, 0], [*range(256), 0, 0]
    known = set[tuple[int, int]]()
    total, width, before = 0, 9, -1
    held = bits = 0
    for byte in data:
        held, bits = held << 8 | byte, bits + 8
        if bits < width:
            continue
        bits -= width
        code, held = held >> bits, held & (1 << bits) - 1
        if code == _STOP:
            return total
        if code == _CLEAR:
            del lengths[258:], firsts[258:]
            known.clear()
            width, before = 9, -1
            continue
        if before >= 0:
            lengths.append(lengths[before] + 1)
            firsts.append(firsts[before])
            if code >= len(lengths):
                raise ValueError("its compressed pixels have an impossible code")
            entry = before, firsts[code]
            if entry in known:
                raise ValueError("its compressed pixels repeat a string that was known")
            known.add(entry)
        elif code >= _CLEAR:
            raise ValueError("its compressed pixels have an impossible code")
        total, before = total + lengths[code], code
        if len(lengths) + 1 >= 1 << width and width < _WIDEST:
            width += 1
    return total
