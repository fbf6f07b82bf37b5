"""Damage that decoders pass over: what a file's own checksums and lengths say about its bytes.

PNG has a checksum for every part, and all are compared (Pillow compares none of the pixels'). TIFF and BMP have none
for what lies uncompressed, so what their headers say is compared with the file's length; deflate in a TIFF has a
checksum of its own, and LZW and PackBits must give as many bytes as the size needs. JPEG, WebP, GIF, AVIF and JPEG 2000
have nothing of the kind: where a changed bit leaves them decodable, the file alone does not tell (a check of the order
of a JPEG's markers told of 3 in 200 more). Masks are not read from such files, and `fewseg.images.checksums` tells of
every change in files whose checksums were written down.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import IO, Any, Final

from PIL import ImageFile

from fewseg.images.checksums import require_listed
from fewseg.images.streams import lzw_length, packbits_length

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_PIECE: Final = 1 << 20
_AFTER_PIXELS: Final = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")
"""Chunks that may hold the orientation."""

_LENGTHS: Final = {5: lzw_length, 32773: packbits_length}
"""By a TIFF's compression without checksums: how many bytes its data stands for."""
_COUNTED: Final = 1 << 18
"""Bytes of such data that are counted through, at most: masks have few, and photographs would take seconds."""
_SUBSAMPLED: Final = 6
"""PhotometricInterpretation of YCbCr, whose rows are not of the image's width."""


def require_whole(image: ImageFile.ImageFile) -> None:
    """Raise `ValueError` where the file of an image that is not decoded yet is seen to be damaged."""
    file = getattr(image, "fp", None)
    if file is None:
        return
    if (name := os.fsdecode(image.filename)) and os.path.isfile(name):
        require_listed(name)
    place = file.tell()
    try:
        if image.format == "PNG":
            _check_png(file)
        elif image.format == "TIFF":
            _check_tiff(file, image)
        elif image.format == "BMP":
            _check_bmp(file, image.size)
    finally:
        file.seek(place)


def tells_more_behind_pixels(image: ImageFile.ImageFile) -> bool:
    """Whether the tags of an undecoded PNG, which name its orientation, may stand behind its pixels."""
    file = getattr(image, "fp", None)
    if file is None or image.format != "PNG":
        return False
    place, pixels = file.tell(), False
    try:
        for kind, length in _chunks(file):
            if pixels and kind in _AFTER_PIXELS:
                return True
            pixels = pixels or kind == b"IDAT"
            file.seek(length + 4, os.SEEK_CUR)
    except ValueError:  # decoding tells
        return True
    finally:
        file.seek(place)
    return False


def _chunks(file: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """Kind and length of every chunk of a PNG; the reader moves on to the next."""
    file.seek(0)
    if file.read(8) != _PNG:
        return
    kind = b""
    while kind != b"IEND":
        head = file.read(8)
        if len(head) < 8:
            raise ValueError("it ends before its last chunk")
        length, kind = struct.unpack(">I4s", head)
        yield kind, length


def _check_png(file: IO[bytes]) -> None:
    for kind, length in _chunks(file):
        checksum = zlib.crc32(kind)
        for piece in _pieces(file, length):
            checksum = zlib.crc32(piece, checksum)
        if file.read(4) != checksum.to_bytes(4, "big"):
            raise ValueError(f"the checksum of its part {kind.decode('latin-1')} does not fit")


def _pieces(file: IO[bytes], length: int) -> Iterator[bytes]:
    while length:
        piece = file.read(min(length, _PIECE))
        if not piece:
            raise ValueError("it ends too early")
        length -= len(piece)
        yield piece


def _check_tiff(file: IO[bytes], image: Any) -> None:
    tags = image.tag_v2
    if not isinstance(tags.get(262), int):
        raise ValueError("it does not say what its values mean (PhotometricInterpretation)")
    width, height, tiled = tags.get(256, 0), tags.get(257, 0), 324 in tags
    across, down = (tags.get(322, 0), tags.get(323, 0)) if tiled else (width, min(tags.get(278, height), height))
    offsets, counts = (tags.get(324), tags.get(325)) if tiled else (tags.get(273), tags.get(279))
    if not offsets or not counts or not across or not down:
        return  # Pillow reads what it can of these
    samples, bits = tags.get(277, 1), tags.get(258, (1,))
    planes = samples if tags.get(284, 1) == 2 else 1
    needed = -(-width // across) * -(-height // down) * planes
    if len(offsets) != needed or len(counts) != needed:
        raise ValueError(f"it lists {len(offsets)} parts, and its size needs {needed}")
    _check_places(file, offsets, counts, _directory(file, tags))
    compression = tags.get(259, 1)
    row = -(-across * (sum(bits) if len(bits) > 1 else bits[0] * samples) // planes // 8)
    if compression == 1:
        if sum(counts) < row * (down * needed if tiled else height * planes):
            raise ValueError("its pixels are cut off")
    elif compression in _LENGTHS and tags.get(262) != _SUBSAMPLED and sum(counts) <= _COUNTED:
        rows = down if tiled or not height % down else height % down
        last = {needed - 1} if planes == 1 else set(range(needed // planes - 1, needed, needed // planes))
        for number, (offset, count) in enumerate(zip(offsets, counts, strict=True)):
            file.seek(offset)
            if _LENGTHS[compression](file.read(count)) not in (row * (rows if number in last else down), row * down):
                raise ValueError("its compressed pixels are not as many as its size needs")
    elif compression in (8, 32946):
        for offset, count in zip(offsets, counts, strict=True):
            file.seek(offset)
            _check_deflated(file, count)


def _check_places(file: IO[bytes], offsets: Sequence[int], counts: Sequence[int], tags: range) -> None:
    """The parts lie within the file, and not where the tags do."""
    end = file.seek(0, os.SEEK_END)
    for offset, count in zip(offsets, counts, strict=True):
        over_tags = offset < tags.stop and tags.start < offset + count
        if count and (offset < 8 or offset + count > end or over_tags):
            raise ValueError("its pixels are not where it says")


def _directory(file: IO[bytes], tags: Any) -> range:
    """Where in the file the tags stand; nowhere in a BigTIFF, whose head is another."""
    file.seek(0)
    order, version = ">" if file.read(2) == b"MM" else "<", file.read(2)
    if b"\x2b" in version:
        return range(0)
    start = getattr(tags, "_offset", None) or struct.unpack(order + "I", file.read(4))[0]
    file.seek(start)
    count = file.read(2)
    return range(start, start + 6 + 12 * struct.unpack(order + "H", count)[0]) if len(count) == 2 else range(0)


def _check_deflated(file: IO[bytes], length: int) -> None:
    stream = zlib.decompressobj()
    for piece in _pieces(file, length):
        left = piece
        while left:
            stream.decompress(left, _PIECE)
            left = stream.unconsumed_tail
    while not stream.eof and stream.decompress(b"", _PIECE):
        pass
    if not stream.eof:
        raise ValueError("its compressed pixels are cut off")


def _check_bmp(file: IO[bytes], size: tuple[int, int]) -> None:
    file.seek(0)
    head = file.read(54)
    if len(head) < 54 or head[:2] != b"BM":
        return
    offset, header, bits, compression = struct.unpack_from("<II8xxxHI", head, 10)
    used = struct.unpack_from("<I", head, 46)[0]
    if header < 40 or compression not in (0, 3):
        return
    end = file.seek(0, os.SEEK_END)
    last = offset + -(-size[0] * bits // 32) * 4 * size[1]
    palette = 4 * (used or 1 << bits) if bits <= 8 else 4 * used
    first = 14 + header + (12 if compression == 3 and header == 40 else 0) + palette
    if last > end or offset < first or (last != end and offset != first):
        raise ValueError("its header does not fit its length")
