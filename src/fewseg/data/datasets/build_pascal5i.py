"""Preparing PASCAL-5i: VOC's and SBD's masks into one folder of index PNGs, the index, the lists."""

from __future__ import annotations

import functools
import io
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import scipy.io
from numpy.typing import NDArray

from fewseg.core.errors import FewsegError, InvalidDataset, InvalidMask
from fewseg.core.files import make_folder, remove_leftovers
from fewseg.core.progress import ProgressCallback
from fewseg.data.datasets.benchmark import Areas, Index, Pair, Part, computed_pairs, read_values, write_index
from fewseg.data.datasets.pascal5i import AUGMENTED, VOC_CLASSES, Pascal5i, sbd_folder, voc_folder
from fewseg.data.datasets.prepare import (
    Archive,
    areas_of,
    check_image,
    in_processes,
    made_from,
    require,
    save_mask,
    sound,
    unpack,
    unpacking_marker,
)
from fewseg.data.datasets.published import FOLDERS, PascalList, find_file, read_lines, read_pascal

log = logging.getLogger(__name__)

VOC: Final = Archive(
    "VOCtrainval_11-May-2012.tar",
    "VOCdevkit/VOC2012",
    "the home page of the PASCAL Visual Object Classes Challenge 2012, Development kit",
)
SBD: Final = Archive(
    "benchmark.tgz",
    "benchmark_RELEASE/dataset",
    "Berkeley's home page of the Semantic Boundaries Dataset, Semantic Contours from Inverse Detectors",
)

_OWN: Final = ("pascal", "fss_list")
_FILES: Final = ("fold{}.txt", "data_list_{}.txt")
_ALL_FOLDS: Final[dict[Part, tuple[str, ...]]] = {
    "train": ("train.txt", "voc_sbd_merge_noduplicate.txt"),
    "test": ("val.txt",),
}


@dataclass(frozen=True)
class _Folders:
    voc: Path
    sbd: Path | None
    whole: bool
    """Decode every image instead of looking at its ends."""


def build(root: Path, lists: Path | None, workers: int, whole: bool, progress: ProgressCallback) -> None:
    """Check, merge, index; raises `InvalidDataset` that names what is missing or damaged."""
    folders = _find(root, whole, progress)
    published = _published(lists or root, given=lists is not None)
    names = {"train": _training(folders), "test": _ids(folders.voc / "ImageSets/Segmentation/val.txt")}
    make_folder(folders.voc / AUGMENTED)
    remove_leftovers(folders.voc / AUGMENTED, spare_running=True)
    everything = [*names["train"], *names["test"]]
    found = in_processes(functools.partial(_prepare, folders), everything, workers, progress, "masks")
    areas = dict(sound(found))
    parts: dict[str, Areas] = {part: {name: areas[name] for name in ids} for part, ids in names.items()}
    pairs = {f"{part}-{fold}": _pairs(part, fold, published, parts[part]) for part, fold in published}
    write_index(root, Pascal5i.prepared_as, Index(VOC_CLASSES, parts), pairs)


def _find(root: Path, whole: bool, progress: ProgressCallback) -> _Folders:
    if voc_folder(root) is None or unpacking_marker(root, VOC).exists():
        unpack(root, VOC, progress)
    voc = voc_folder(root)
    merged = voc is not None and (voc / AUGMENTED).is_dir()
    if sbd_folder(root) is None or unpacking_marker(root, SBD).exists():
        unpack(root, SBD, progress)
    sbd = sbd_folder(root)
    whole_voc = voc is not None and not unpacking_marker(root, VOC).exists()
    whole_sbd = sbd is not None and not unpacking_marker(root, SBD).exists()
    require(root, [(VOC, whole_voc), (SBD, whole_sbd or merged)])
    assert voc is not None
    needed = ("SegmentationClass", "ImageSets/Segmentation/train.txt", "ImageSets/Segmentation/val.txt")
    require(voc, [], [name for name in needed if not (voc / name).exists()])
    return _Folders(voc, sbd, whole)


def _ids(path: Path) -> tuple[str, ...]:
    return tuple(line.split()[0] for line in read_lines(path))


def _training(folders: _Folders) -> tuple[str, ...]:
    """Everything that VOC or SBD segments and VOC does not validate on: 10582 images."""
    sets = folders.voc / "ImageSets/Segmentation"
    names = set(_ids(sets / "train.txt"))
    if folders.sbd is not None:
        for part in ("train.txt", "val.txt"):
            names.update(_ids(folders.sbd / part))
    else:  # masks merged elsewhere are all there is
        names.update(path.stem for path in (folders.voc / AUGMENTED).glob("*.png"))
    return tuple(sorted(names - set(_ids(sets / "val.txt"))))


def _prepare(folders: _Folders, name: str) -> tuple[str, dict[int, int]] | FewsegError:
    """Make the merged mask of one image unless it is there, check both, count its classes."""
    try:
        size = check_image(folders.voc / "JPEGImages" / f"{name}.jpg", whole=folders.whole)
        values = _merged(folders, name)
        if values.shape != size[::-1]:
            path = folders.voc / AUGMENTED / f"{name}.png"
            height, width = values.shape
            raise InvalidMask(f"{path} is {width}x{height}, its image {size[0]}x{size[1]}: get both again")
        return name, areas_of(values)
    except FewsegError as error:
        return error


def _merged(folders: _Folders, name: str) -> NDArray[np.uint8]:
    """VOC's own mask where there is one, else SBD's; what lies in the folder of merged masks is kept."""
    target = folders.voc / AUGMENTED / f"{name}.png"
    own = folders.voc / "SegmentationClass" / f"{name}.png"
    origin = own if own.exists() else folders.sbd and folders.sbd / "cls" / f"{name}.mat"
    source = origin.read_bytes() if origin and origin.is_file() else b""
    if target.exists():
        try:
            values = read_values(target, len(VOC_CLASSES))
            if not source or made_from(target, source) is not False:
                return values
            log.info("%s was made from another file than %s and is made again", target, origin)
        except InvalidMask:
            if origin is None:
                raise
            log.info("%s is damaged and is made again", target)
    if origin is None:
        raise InvalidMask(f"{target} is missing: get it again, or put {SBD.file} into the root")
    values = read_values(own, len(VOC_CLASSES)) if origin == own else read_sbd(origin)
    save_mask(target, values, source)
    return values


def read_sbd(path: Path) -> NDArray[np.uint8]:
    """(H, W) class values of one of SBD's .mat files (`GTcls.Segmentation`)."""
    if not path.is_file():
        raise InvalidMask(f"{path}: no such file; get it again from {SBD.file}")
    try:
        found = scipy.io.loadmat(io.BytesIO(path.read_bytes()), variable_names=["GTcls"])
        values = np.asarray(found["GTcls"]["Segmentation"][0, 0])
        if values.ndim != 2 or values.dtype.kind not in "uif":
            raise ValueError(f"Segmentation is {values.dtype} of shape {values.shape}")
    except Exception as error:  # scipy's reader raises anything on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InvalidMask(f"{path} is damaged or cut off ({reason}): get it again from {SBD.file}") from error
    if values.min(initial=0) < 0 or values.max(initial=0) > len(VOC_CLASSES):
        raise InvalidMask(f"{path} holds class {values.max():g}, expected 0 to 20: get it again from {SBD.file}")
    return values.astype(np.uint8)


def _published(folder: Path, *, given: bool) -> dict[tuple[Part, int], PascalList]:
    """Published lists found in `folder`, by part and fold."""
    found: dict[tuple[Part, int], PascalList] = {}
    parts: tuple[Part, ...] = ("train", "test")
    for part in parts:
        for fold in range(Pascal5i.folds):
            names = [f"{place}/{file.format(fold)}" for place in FOLDERS[part] for file in _FILES]
            path = find_file(folder, _OWN, [*names, *_ALL_FOLDS[part]])
            if path is not None:
                found[part, fold] = read_pascal(path)
    if given and not found:
        raise InvalidDataset(
            f"{folder} has no list of PASCAL-5i: expected trn/fold0.txt ... and val/fold0.txt ... (lines "
            "2007_000033__01), or train.txt and val.txt (lines of two paths)"
        )
    if any(listed.pairs for (part, _), listed in found.items() if part == "train"):
        lacking = [fold for fold in range(Pascal5i.folds) if ("train", fold) not in found]
        if lacking:
            raise InvalidDataset(f"{folder} has no training list of fold {lacking[0]}: give all four, or none")
    return found


def _pairs(part: Part, fold: int, found: dict[tuple[Part, int], PascalList], areas: Areas) -> tuple[Pair, ...]:
    """What to train on, or test, when `fold` is tested; a training list of pairs holds its own fold's classes."""
    listed = found[part, fold]
    if part == "test":
        return _known(listed, areas, _fold_classes(fold))
    others = [other for other in range(Pascal5i.folds) if other != fold]
    if listed.pairs:
        return tuple(pair for other in others for pair in _known(found[part, other], areas, _fold_classes(other)))
    return _known(listed, areas, frozenset(c for other in others for c in _fold_classes(other)))


def _fold_classes(fold: int) -> frozenset[int]:
    return frozenset(range(5 * fold, 5 * fold + 5))


def _known(listed: PascalList, areas: Areas, classes: frozenset[int]) -> tuple[Pair, ...]:
    """The list as pairs, every image known and every class one of `classes`."""
    unknown = next((name for name in listed.names if name not in areas), None)
    if unknown is not None:
        raise InvalidDataset(f"{listed.path} lists {unknown}, which is not here: give the lists of this dataset")
    wrong = next((pair for pair in listed.pairs if pair[1] not in classes), None)
    if wrong is not None:
        pair = f"{wrong[0]}__{wrong[1] + 1:02d}"
        raise InvalidDataset(f"{listed.path}: {pair} is not of its fold: give the lists as published")
    if listed.pairs:
        return listed.pairs
    shown: dict[str, list[Pair]] = {}
    for name, c in computed_pairs(areas, classes, Pascal5i.min_pixels, class_by_class=False):
        shown.setdefault(name, []).append((name, c))
    return tuple(pair for name in listed.names for pair in shown.get(name, ()))
