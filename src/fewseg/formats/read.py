"""Labelled examples read from a file or folder in any known format.

A module a format: label folders with masks (`mask_folders`), images/ with masks/ and Roboflow's masks
(`paired_folders`), COCO (`coco`), labelme (`labelme`), YOLO (`yolo`), CVAT's XML (`cvat`), Label Studio
(`label_studio`), VIA (`via`), GeoJSON (`geojson`), VOC and CVAT's masks (`voc`); zip archives of these (`archives`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Final

from fewseg.core.errors import InvalidOption, InvalidSupport
from fewseg.formats import coco, cvat, geojson, label_studio, labelme, paired_folders, via, voc, yolo
from fewseg.formats.archives import unpacked
from fewseg.formats.examples import SupportExample, Supports, choose_examples
from fewseg.formats.left_out import LeftOut
from fewseg.formats.mask_folders import is_prompts, read_mask_folders
from fewseg.formats.parse import parse_json
from fewseg.formats.reading import SPLITS, Reading, Request
from fewseg.images.kinds import MASK_SUFFIXES
from fewseg.images.masks import INSTANCES, MaskValue
from fewseg.images.pairs import INSTANCES_ENDING, class_folders, images_in
from fewseg.images.prompts import read_prompts

_KNOWN: Final = (
    "mask folders (LABEL/name.jpg and LABEL/name.png), images/ with masks/, COCO JSON, labelme JSON, GeoJSON, an "
    "export of Label Studio or VIA, a YOLO data set (data.yaml), CVAT XML, VOC (JPEGImages/, "
    "SegmentationClass/), or their zip"
)
_KEYS: Final = (
    *("shapes", "images", "annotations", "categories", "imageData", "completions", "annotation_id", "regions"),
    *("_via_img_metadata", "features", "objects", "dm_format_version"),
)
"""Keys of the JSON formats."""

_OTHERS: Final = {
    "Datumaro": {"dm_format_version"},
    "Supervisely": {"size", "objects"},
    "Supervisely's list of classes": {"classes", "projectType"},
    "Cityscapes": {"imgHeight", "objects"},
    "Segment Anything": {"image", "annotations"},
}
"""Formats that are told by keys of their JSON, and not read."""

ENDINGS: Final = frozenset({".json", ".geojson", ".xml", ".yaml", ".yml", ".csv", ".zip"})
"""Endings, in lower case, of files with examples."""

_Reader = Callable[[Request], Reading]


def read_supports(
    path: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    labels: Sequence[str] = (),
    shots: int = 0,
    split: str = "",
    strict: bool = False,
) -> Supports:
    """The labelled examples at a path, whatever the format (this module lists them), each checked: its image can be
    read, its mask fits. Data sets in parts (train, valid, test) are read whole.

    Entries that cannot be used (a polygon without area, an image that is missing, damaged run lengths) are left out
    with a line in the log that names them.

    Args:
        path: file or folder.
        images: where the images of annotation files are; found beside the file if not given.
        labels: only these, in this order; all if empty.
        shots: at most so many examples a label, 0 for all: the first whose label covers at least 2 % of the image,
            then those where it covers most.
        split: only this part of a data set: train, val, test ...
        strict: an entry that cannot be used is an error.

    Raises:
        InvalidSupport: nothing of the kind is there, or nothing of it can be used.
    """
    root, folder = Path(path), None if images is None else Path(images)
    if shots < 0:
        raise InvalidOption(f"{shots} shots: give 1 or more, or 0 for all")
    left = LeftOut(strict)
    request = Request(left, folder, tuple(labels), split)
    try:
        if folder is not None and not folder.is_dir():
            raise InvalidSupport(f"folder of images {folder} does not exist: check --images")
        readers = _readers(root, request)
        found = [reader(request) for reader in readers]
        known = chain.from_iterable(reading.labels for reading in found)
        every = chain.from_iterable(reading.examples for reading in found)
        examples = choose_examples(every, known, request.labels, shots, left)
    except OSError as error:
        raise InvalidSupport(f"cannot read {error.filename or root}: {error.strerror or error}") from error
    if not examples:
        raise left.nothing(f"{root} has masks without any class: they show background only")
    left.say()
    return Supports(found[0].kind, examples)


def _readers(root: Path, request: Request) -> list[_Reader]:
    """The readers of what is at a path: one, or one for each part of a data set."""
    if root.is_file():
        if root.suffix.lower() != ".zip":
            return [_of_files([root], request)]
        root = unpacked(root)
    if not root.is_dir():
        raise InvalidSupport(f"support folder or file {root} does not exist: give {_KNOWN}")
    reader = _of_folder(root, request)
    if reader is not None:
        return [reader]
    parts = [p for p in sorted(root.iterdir()) if p.is_dir() and p.name.lower() in SPLITS]
    found = [(part, inner) for part in parts if (inner := _of_part(part, request)) is not None]
    if found:
        wanted = [(part, inner) for part, inner in found if request.wants_split(part.name)]
        if not wanted:
            there = ", ".join(part.name for part, _ in found)
            raise InvalidSupport(f"{root} has no part {request.split!r}: there are {there}")
        if len(wanted) > 1:
            names = ", ".join(part.name for part, _ in wanted)
            request.left.note(f"{root} has the parts {names}: all are read; --split {wanted[0][0].name} reads one")
        return [inner for _, inner in wanted]
    return [_below(root, request) or partial(_mask_folders, root)]


def _of_folder(root: Path, request: Request) -> _Reader | None:
    """The reader of a folder by the files that tell formats; None where there are none."""
    described = yolo.yolo_file(root)
    if described is not None:
        return partial(yolo.read_yolo, described)
    if voc.is_voc(root):
        return partial(voc.read_voc, root)
    if paired_folders.is_roboflow(root):
        return partial(paired_folders.read_roboflow, root)
    if (root / cvat.NAME).is_file() and cvat.is_cvat(root / cvat.NAME):
        return partial(cvat.read_cvat, root / cvat.NAME)
    for files in (_annotation_files(root), _annotation_files(root / "annotations")):
        if known := [file for file in files if _looks_known(file)]:
            return _of_files(known, request)
    if paired_folders.paired_folders(root, request.images) is not None:
        return partial(paired_folders.read_paired_folders, root)
    return None


def _of_part(part: Path, request: Request) -> _Reader | None:
    """The reader of train/, valid/ ..., which may hold label folders, too."""
    if (reader := _of_folder(part, request)) is None and not images_in(part) and _has_masks(class_folders(part)):
        return partial(_mask_folders, part)
    return reader


def _below(root: Path, request: Request) -> _Reader | None:
    """The reader of annotation files, or of a VOC folder, one folder down."""
    folders = [inner for inner in sorted(root.iterdir()) if inner.is_dir() and not inner.name.startswith(".")]
    inner = [folder for folder in folders if voc.is_voc(folder)]
    if len(inner) == 1:
        return partial(voc.read_voc, inner[0])
    if _has_masks(folders):
        return None
    files = [file for folder in folders for file in _annotation_files(folder)]
    known = [file for file in files if _looks_known(file)]
    return _of_files(known, request) if known else None


def _mask_folders(root: Path, request: Request) -> Reading:
    try:
        pairs = read_mask_folders(root, request.left)
    except InvalidSupport as error:
        raise InvalidSupport(f"{error} (looked for: {_KNOWN})") from error
    wanted = [label for label in pairs if not request.labels or label in request.labels]
    found = (_in_folder(label, image, mask) for label in wanted for image, mask in pairs[label])
    return Reading("mask folders", tuple(pairs), found)


def _in_folder(label: str, image: Path, mask: Path) -> SupportExample:
    if is_prompts(mask):
        return SupportExample(label, image, None, load_prompts=lambda: read_prompts(mask))
    value: MaskValue | None = INSTANCES if mask.stem.endswith(INSTANCES_ENDING) else None
    return SupportExample(label, image, lambda: mask, value, mask_file=mask)


def _of_files(files: Sequence[Path], request: Request) -> _Reader:
    """The reader of annotation files of one format; what labelme did not write among its files is left out."""
    if len(files) == 1:
        single: dict[str, Callable[[Path, Request], Reading]] = {
            ".xml": cvat.read_cvat,
            ".yaml": yolo.read_yolo,
            ".yml": yolo.read_yolo,
            ".csv": via.read_via_csv,
        }
        ending = files[0].suffix.lower()
        if ending in single:
            return partial(single[ending], files[0])
        if ending not in (".json", ".geojson"):
            raise InvalidSupport(f"support {files[0]} is a file, not a folder, and no JSON either: give {_KNOWN}")
    parsed: list[tuple[Path, Any]] = []
    for file in files:
        try:
            parsed.append((file, parse_json(file)))
        except InvalidSupport as error:
            request.left.bad(error)
    for name, known, read in (
        ("COCO", coco.is_coco, coco.read_coco),
        ("Label Studio", label_studio.is_label_studio, label_studio.read_label_studio),
        ("VIA", via.is_via, via.read_via),
    ):
        whole = [pair for pair in parsed if known(pair[1])]
        if len(whole) > 1 and not (name == "VIA" and via.are_alike([content for _, content in whole])):
            names = ", ".join(str(file) for file, _ in whole[:4])
            raise InvalidSupport(f"{len(whole)} {name} files ({names}): give the path of one")
        if whole:
            return partial(read, *whole[0])
    for known, read_all in ((labelme.is_labelme, labelme.read_labelme), (geojson.is_geojson, geojson.read_geojson)):
        drawn = [pair for pair in parsed if known(pair[1])]
        if drawn:
            return partial(read_all, drawn)
    for name, keys in _OTHERS.items():
        if any(isinstance(content, dict) and keys <= set(content) for _, content in parsed):
            raise InvalidSupport(f"{parsed[0][0]} is of {name}, which is not read: export it as COCO, or as masks")
    raise request.left.nothing(
        f"{files[0]} is neither COCO JSON (images, annotations, categories) nor labelme JSON (shapes, imagePath), "
        f"nor of Label Studio or VIA; give {_KNOWN}"
    )


def _annotation_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    files = sorted(p for p in folder.iterdir() if not p.name.startswith(".") and p.is_file())
    found = [p for p in files if p.suffix.lower() == ".json"] or [p for p in files if p.suffix.lower() == ".geojson"]
    return found or [p for p in files if p.suffix.lower() == ".csv"][:1]


def _looks_known(file: Path) -> bool:
    """Whether its beginning has a key of one of the formats; other JSON files may lie about."""
    if file.suffix.lower() == ".csv":
        return via.is_via_csv(file)
    with file.open("rb") as stream:
        start = stream.read(1 << 20).replace(b"\0", b"")  # UTF-16 as well
    return any(f'"{key}"'.encode() in start for key in _KEYS)


def _has_masks(folders: Sequence[Path]) -> bool:
    return any(p.suffix.lower() in MASK_SUFFIXES for inner in folders for p in inner.iterdir())
