"""Examples whose images lie in one folder and whose masks in another, or beside them with Roboflow's list of classes.

- `images/name.jpg` and `masks/name.png` (or `name_mask.png`; TIFF and BMP too), in subfolders as well. `classes.txt`,
  or one of VOC's lists, names the classes: value v is the class on line v, 0 is background, 255 is ignored. Without a
  list the masks show one class, called `object`, or as the one name that the caller gives;
- `images/name.jpg` and `instances/name.png`, instance maps of one class, taken before masks: every value but 0 is one
  object. `classes.txt` may name the class;
- `masks/LABEL/name.png`, as `fewseg segment` writes them: a label a folder;
- Roboflow's semantic masks: `name.jpg`, `name_mask.png` and `_classes.csv`.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from fewseg.core.errors import FewsegError, InvalidSupport
from fewseg.formats.examples import SupportExample
from fewseg.formats.index_masks import ClassTable, pairs_by_name, read_index_masks
from fewseg.formats.parse import read_text
from fewseg.formats.reading import Reading, Request, augmented_source, images_below
from fewseg.formats.voc import class_table
from fewseg.images.kinds import MASK_SUFFIXES
from fewseg.images.masks import INSTANCES, mask_values
from fewseg.images.pairs import class_folders, images_in, pairs_in

_IMAGES: Final = ("images", "image", "imgs", "img", "Images", "pictures")
_MASKS: Final = ("masks", "mask", "Masks", "labels", "annotations")
_LISTS: Final = ("labelmap.txt", "class_names.txt", "classes.txt")
_INSTANCES: Final = "instances"
CSV: Final = "_classes.csv"
DEFAULT: Final = "object"
"""The label where nothing names it."""


def paired_folders(root: Path, images: Path | None) -> tuple[Path, Path] | None:
    """The folders of images and of masks in `root`, if it has both; images may also lie in the folder given."""
    pictures = images or next((root / name for name in _IMAGES if (root / name).is_dir()), None)
    named = (root / name for name in (_INSTANCES, *_MASKS))
    masks = next((folder for folder in named if folder.is_dir() and _holds_masks(folder)), None)
    return None if pictures is None or masks is None else (pictures, masks)


def _holds_masks(folder: Path) -> bool:
    return any(path.suffix.lower() in MASK_SUFFIXES for path in images_below(folder).values())


def read_paired_folders(root: Path, request: Request) -> Reading:
    """The examples of images/ and masks/ in a folder; raises `InvalidSupport`."""
    folders = paired_folders(root, request.images)
    assert folders is not None
    images, masks = folders
    listed = next((root / name for name in _LISTS if (root / name).is_file()), None)
    inner = class_folders(masks)
    if listed is None and inner and not images_in(masks) and not all((images / p.name).is_dir() for p in inner):
        return _by_label(images, inner, request)
    pairs = pairs_by_name(images, masks, request)
    if not pairs:
        raise request.left.nothing(f"{masks} has no mask of an image in {images}: give them one name")
    if masks.name == _INSTANCES:
        return _instance_maps(root, listed, pairs, request)
    if listed is not None:
        table = class_table(root)
        return Reading("images and masks", tuple(table.names.values()), read_index_masks(pairs, table, request))
    return _one_class(root, masks, pairs, request)


def _by_label(images: Path, folders: list[Path], request: Request) -> Reading:
    wanted = [f for f in folders if not request.labels or f.name in request.labels]
    pairs = ((folder.name, pair) for folder in wanted for pair in pairs_by_name(images, folder, request))
    found = (SupportExample(label, image, partial(Path, mask), mask_file=mask) for label, (image, mask) in pairs)
    return Reading("images and masks", tuple(folder.name for folder in folders), found)


def _instance_maps(root: Path, listed: Path | None, pairs: list[tuple[Path, Path]], request: Request) -> Reading:
    names = tuple(class_table(root).names.values()) if listed is not None else ()
    if len(names) > 1:
        raise InvalidSupport(
            f"{root / _INSTANCES} holds instance maps of one class and {listed} names {len(names)}: give each class a "
            "folder of images and maps, LABEL/name.jpg and LABEL/name.instances.png"
        )
    label = (names or request.labels or (DEFAULT,))[0]
    found = (SupportExample(label, image, partial(Path, file), INSTANCES, mask_file=file) for image, file in pairs)
    return Reading("images and instance maps", (label,), found)


def _one_class(root: Path, masks: Path, pairs: list[tuple[Path, Path]], request: Request) -> Reading:
    label = request.labels[0] if len(request.labels) == 1 else DEFAULT
    known: set[int] = set()
    usable = []
    for image, mask in pairs:
        try:
            known.update(mask_values(mask))
        except FewsegError as error:
            request.left.bad(error)
            continue
        if len(known) > 1:
            raise InvalidSupport(
                f"{masks} has masks of several values ({', '.join(map(str, sorted(known)[:6]))} ...): list the classes "
                f"in {root / 'classes.txt'}, one a line; line v names value v of the masks"
            )
        usable.append((image, mask))
    if label == DEFAULT:
        request.left.note(f"nothing names the class of {masks}: it is called {DEFAULT!r}; --labels NAME names it")
    found = (SupportExample(label, image, partial(Path, mask), mask_file=mask) for image, mask in usable)
    return Reading("images and masks", (label,), found)


def is_roboflow(folder: Path) -> bool:
    """Whether the folder has Roboflow's semantic masks, or a list of that name."""
    return (folder / CSV).is_file()


def read_roboflow(folder: Path, request: Request) -> Reading:
    """The examples of Roboflow's semantic masks; raises `InvalidSupport`."""
    names = _values(folder / CSV)
    found = pairs_in(folder).images
    pairs = [(image, masks[0]) for image, masks in _sources(found, request) if masks]
    if not pairs:
        raise InvalidSupport(f"{folder} has {CSV} and no masks beside its images (name_mask.png): export it again")
    background = {number for number, name in names.items() if number == 0 and name.lower() == "background"}
    table = ClassTable({n: name for n, name in names.items() if n not in background}, remedy=f"list it in {CSV}")
    return Reading("Roboflow masks", tuple(table.names.values()), read_index_masks(pairs, table, request))


def _sources(found: Mapping[Path, tuple[Path, ...]], request: Request) -> Iterator[tuple[Path, tuple[Path, ...]]]:
    """Images with their masks; of augmented versions of an image the first."""
    seen: set[str] = set()
    for image, masks in found.items():
        source = augmented_source(image.name)
        if source in seen:
            request.left.kind("further augmented versions of an image that is taken already", str(image))
            continue
        if source is not None:
            seen.add(source)
        yield image, masks


def _values(path: Path) -> dict[int, str]:
    """Value to class name."""
    rows = [[cell.strip() for cell in row] for row in csv.reader(read_text(path).splitlines()) if row]
    if not rows or rows[0][0].lower() != "pixel value":
        raise InvalidSupport(
            f"{path} lists no values of masks (it is that of another export, a classification): export 'Semantic "
            "Segmentation Masks'"
        )
    names: dict[int, str] = {}
    for row in rows[1:]:
        if len(row) < 2 or not row[0].isdecimal() or int(row[0][:6]) > 65535 or not row[1]:
            raise InvalidSupport(f"{path} has the line {','.join(row)!r:.60}: expected a value and a name")
        names[int(row[0])] = row[1]
    return names
