"""The results of `fewseg segment` in other formats, made from its folder without segmenting again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fewseg.core.errors import InvalidMask, InvalidOption, OutputError
from fewseg.core.locks import FolderLock
from fewseg.core.objects import Objects
from fewseg.core.progress import ProgressCallback, silent
from fewseg.formats.records import ExportOptions, ExportReport, MaskRecord, check_formats
from fewseg.formats.write import export_masks
from fewseg.images import decode as decoding


def write_results(
    folder: str | os.PathLike[str],
    formats: Sequence[str],
    *,
    options: ExportOptions | None = None,
    progress: ProgressCallback = silent,
) -> ExportReport:
    """Write the masks of an output folder of `fewseg segment` into the same folder in other formats too.

    Covers all images that results.json lists, those of earlier runs too, so the files are complete however often
    segmenting was interrupted. `png` is there already. One image is in memory at a time.

    Raises:
        OutputError: the folder is not one of `fewseg segment`, or cannot be written. InvalidMask: a mask in it is gone
            or damaged. InvalidImage: an image that a format needs is gone. InvalidOption: an unknown format, or absent
            labels are wanted of a folder that was written without them.
    """
    root = Path(folder)
    wanted = [name for name in check_formats(tuple(formats)) if name != "png"]
    content = _results(root / "results.json")
    images, labels = content["pictures"], tuple(content["support"])
    if (options or ExportOptions()).absent and content.get("options", {}).get("absent") is False:
        raise InvalidOption(f"{root} holds no masks of absent labels: segment again with --export.absent")
    if not wanted:
        return ExportReport(len(images), 0, 0)
    with FolderLock(root):
        return export_masks(
            _records(root, images), root, wanted, labels=labels, options=options, total=len(images), progress=progress
        )


def _results(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content["pictures"], list) or not isinstance(content["support"], dict):
            raise TypeError("not as expected")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(
            f"{path} is no list of results ({error}): give a folder that `fewseg segment` wrote"
        ) from error
    results: dict[str, Any] = content
    return results


def _records(root: Path, images: Sequence[dict[str, Any]]) -> Iterator[MaskRecord]:
    paths = [Path(entry["picture"]) for entry in images]
    common = Path(os.path.commonpath([path.parent for path in paths])) if paths else Path()
    for entry, path in zip(images, paths, strict=True):
        width, height = entry["size"]
        labels = entry["labels"]
        yield MaskRecord(
            name=entry["name"],
            size=(width, height),
            masks={label: _mask(root / about["mask"]) for label, about in labels.items()},
            scores={label: about["score"] for label, about in labels.items()},
            present={label: about["present"] for label, about in labels.items()},
            objects={label: _objects(root, about) for label, about in labels.items() if "objects" in about},
            image=root / entry["saved"] if "saved" in entry else path,
            file_name=entry["saved"] if "saved" in entry else path.relative_to(common).as_posix(),
        )


def _objects(root: Path, about: dict[str, Any]) -> Objects:
    """The objects of a label, from its instance map and what its entry says of them."""
    numbered = _values(root / about["instances"]).astype(np.int32)
    scores = [float(one["score"]) for one in about["objects"]]
    if int(numbered.max(initial=0)) != len(scores):
        raise InvalidMask(f"{root / about['instances']} has other objects than results.json: segment again")
    return Objects(numbered, scores=scores)


def _mask(path: Path) -> np.ndarray:
    return _values(path) > 0


def _values(path: Path) -> np.ndarray:
    try:
        with decoding.open_file(path, "mask", InvalidMask) as image:
            decoded: Image.Image = decoding.decode(image, str(path), InvalidMask)
            return np.asarray(decoded)
    except InvalidMask as error:  # its remedy is for files that others made
        raise InvalidMask(f"{str(error).rpartition(': ')[0] or error}: segment again with --overwrite") from error
