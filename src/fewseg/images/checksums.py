"""Checksums of images that somebody has written down: `SHA256SUMS`, as `sha256sum` writes it.

JPEG, WebP, GIF, AVIF and uncompressed pixels have no checksum of their own, so a changed bit there gives another image
and no error. Whoever wants to be told runs `sha256sum * > SHA256SUMS` among the images.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Final

from fewseg.core.files import sha256

NAME: Final = "SHA256SUMS"
_LINE: Final = re.compile(r"(\\?)([0-9a-fA-F]{64}) [ *](.+)")
_LARGEST: Final = 64 << 20
"""Bytes of a list that is read."""


def require_listed(path: str | os.PathLike[str]) -> None:
    """Raise `ValueError` for a file that is not the one of a `SHA256SUMS` in its folder or the folder above."""
    file = Path(os.path.abspath(path))
    for folder in file.parents[:2]:
        stated = _sums(folder / NAME).get(file.relative_to(folder).as_posix())
        if stated is None:
            continue
        if sha256(file) != stated:
            raise ValueError(f"its checksum is not the one in {folder / NAME}")
        return


def _sums(path: Path) -> dict[str, str]:
    """Checksums by file name, empty where there is no such file."""
    try:
        about = path.stat()
    except OSError:
        return {}
    return _read(path, about.st_mtime_ns, about.st_size) if path.is_file() else {}


@lru_cache(maxsize=64)
def _read(path: Path, changed: int, size: int) -> dict[str, str]:
    if size > _LARGEST:
        raise ValueError(f"{path} is over {_LARGEST >> 20} MB: remove it, or list fewer files")
    found = {}
    for line in path.read_text("utf-8", "surrogateescape").splitlines():
        if match := _LINE.fullmatch(line):
            escaped, digest, name = match.groups()
            if escaped:
                name = name.replace("\\n", "\n").replace("\\\\", "\\")
            found[name.removeprefix("./")] = digest.lower()
    return found
