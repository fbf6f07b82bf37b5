"""Pages of TIFFs and frames of animations as images of their own, in `pages/` of the output folder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from fewseg.core.errors import InvalidImage
from fewseg.core.files import cut_name, free_name, make_folder, replacing
from fewseg.images import decode as decoding
from fewseg.images.pages import holds_several, read_pages

PAGES: Final = "pages"
"""Folder within the output folder."""


def with_pages(files: Iterable[Path], out: Path) -> list[Path]:
    """The files, those of several pages replaced by one file a page: `OUT/pages/NAME-000012.tif`, counted from 0.

    Pages that an earlier run wrote of the same file stay. A file that cannot be read stays in the list, to be reported.
    Raises `OutputError` where they cannot be written.
    """
    found: list[Path] = []
    taken: set[str] = set()
    for file in files:
        try:
            with decoding.open_file(file, "image", InvalidImage) as image:
                several = holds_several(image)
            found += _pages(file, Path(os.path.abspath(out)) / PAGES, taken) if several else [file]
        except InvalidImage:
            found.append(file)
    return found


def _pages(file: Path, folder: Path, taken: set[str]) -> Iterator[Path]:
    name = free_name(cut_name(file.stem), taken.__contains__, cut_name(f"{file.parent.name}_{file.stem}"))
    taken.add(name)
    changed = file.stat().st_mtime_ns
    make_folder(folder)
    for number, page in enumerate(read_pages(file)):
        path = folder / f"{name}-{number:06d}.tif"
        if not (path.is_file() and path.stat().st_mtime_ns == changed):
            with replacing(path) as temporary:
                page.save(temporary, "TIFF", compression="tiff_adobe_deflate")
                os.utime(temporary, ns=(changed, changed))  # a page that did not change is not segmented again
        yield path
