"""Preparing FSS-1000: every image and mask checked, the split by class names read, the index."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Final

import numpy as np

from fewseg.core.errors import FewsegError, InvalidDataset, InvalidMask
from fewseg.core.progress import ProgressCallback
from fewseg.data.datasets.benchmark import Areas, Index, Part, write_index
from fewseg.data.datasets.fss1000 import PER_CLASS, Fss1000, class_folders, read_binary
from fewseg.data.datasets.prepare import Archive, check_image, in_processes, require, sound, unpack, unpacking_marker
from fewseg.data.datasets.published import find_file, read_class_names

ARCHIVE: Final = Archive("fewshot_data.zip", "fewshot_data", "the home page of FSS-1000 (HKUSTCV on GitHub)")

LISTS: Final[dict[Part, tuple[str, ...]]] = {
    "train": ("trn.txt", "train.txt"),
    "validation": ("val.txt",),
    "test": ("test.txt", "fss_test_set.txt"),
}

_OWN: Final = ("fss", "fss1000", "fss-1000")


def build(root: Path, lists: Path | None, workers: int, whole: bool, progress: ProgressCallback) -> None:
    """Check, read the split, index; raises `InvalidDataset` that names what is missing or damaged."""
    if class_folders(root) is None or unpacking_marker(root, ARCHIVE).exists():
        unpack(root, ARCHIVE, progress)
    folder = class_folders(root)
    require(root, [(ARCHIVE, folder is not None and not unpacking_marker(root, ARCHIVE).exists())])
    assert folder is not None
    classes = tuple(sorted(path.name for path in folder.iterdir() if (path / "1.jpg").is_file()))
    split = _split(lists or root, classes, given=lists is not None)
    items = [(c, number) for c in range(len(classes)) for number in range(1, PER_CLASS + 1)]
    work = functools.partial(_check, folder, classes, whole)
    areas = sound(in_processes(work, items, workers, progress, "images and masks"))
    parts: dict[str, Areas] = {part: {} for part in LISTS}
    for name, class_id, pixels in areas:
        part = split.get(classes[class_id])
        if part is not None:
            parts[part][name] = {class_id: pixels}
    write_index(root, Fss1000.prepared_as, Index(classes, parts), {})


def _split(folder: Path, classes: tuple[str, ...], *, given: bool) -> dict[str, Part]:
    """Class name to the part it belongs to; classes in no list are not used."""
    split: dict[str, Part] = {}
    for part, names in LISTS.items():
        path = find_file(folder, _OWN, names)
        if path is None:
            where = folder if given else f"{folder} (or give --lists FOLDER)"
            raise InvalidDataset(
                f"no {names[0]} in {where}: FSS-1000 is split by lists of class names, trn.txt (520), val.txt (240) "
                "and test.txt (240), one name a line; HSNet's repository carries them as splits/fss"
            )
        for name in read_class_names(path):
            if name not in classes:
                raise InvalidDataset(f"{path} lists {name}, which is no folder of FSS-1000 here: give its lists")
            if name in split:
                raise InvalidDataset(f"{path} lists {name}, which another list has too: give lists of one split")
            split[name] = part
    return split


def _check(
    folder: Path, classes: tuple[str, ...], whole: bool, item: tuple[int, int]
) -> tuple[str, int, int] | FewsegError:
    """Name, class and foreground pixels of one image."""
    class_id, number = item
    name = f"{classes[class_id]}/{number}.jpg"
    try:
        size = check_image(folder / name, whole=whole)
        path = (folder / name).with_suffix(".png")
        mask = read_binary(path)
        if mask.shape != size[::-1]:
            got, expected = f"{mask.shape[1]}x{mask.shape[0]}", f"{size[0]}x{size[1]}"
            raise InvalidMask(f"{path} is {got}, its image {expected}: get both again")
        return name, class_id, int(np.count_nonzero(mask))
    except FewsegError as error:
        return error
