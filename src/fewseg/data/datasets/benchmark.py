"""Base of the published benchmarks: prepared indexes, folds, lists of (image, class) pairs.

`fewseg prepare` reads every mask once and writes an index (which image holds which class on how many pixels) and, if
there are any, the published lists. A `Benchmark` reads only those, so that opening it takes no time.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fewseg.core.errors import InvalidDataset, InvalidImage, InvalidMask, InvalidOption
from fewseg.core.files import make_folder, write_text
from fewseg.core.prediction import IGNORE
from fewseg.images import decode as decoding
from fewseg.images.orientation import as_stored

Pair: TypeAlias = tuple[str, int]
"""An image's name and a class id."""

Part = Literal["train", "validation", "test"]

Areas: TypeAlias = dict[str, dict[int, int]]
"""Image name to the classes it holds, each with its number of pixels."""

Selection = Literal["hsnet", "sccan"]
"""Whose training images: HSNet and DCAMA keep images that also show novel classes (their pixels are background),
SCCAN drops them, and everywhere objects under `SCCAN_PIXELS`."""

SCCAN_PIXELS: Final = 2 * 32 * 32
"""The SCCAN family counts a class as shown by an image from this many pixels on."""

_FORMAT: Final = "fewseg.benchmark.1"


@dataclass(frozen=True)
class Index:
    """Contents of a benchmark's index file."""

    classes: tuple[str, ...]
    parts: dict[str, Areas]
    """Part to its images."""
    published: tuple[str, ...] = ()
    """Lists that were given as files instead of being computed: `test-0`, `train-3`."""


class Benchmark:
    """A prepared benchmark; a `fewseg.data.datasets.base.Dataset`.

    Images are as stored, without EXIF turns, as the published code reads them and as the masks are drawn.

    Args:
        root: the folder that `fewseg prepare` was given.
        fold: the fold that is tested. `names` of its novel classes are then test images, of the others training
            images. Without a fold, `opened` says which classes are novel.
        selection: whose rule for training images; see `Selection`.

    Raises:
        InvalidDataset: the folder is not prepared, or its index is damaged. InvalidOption: no such fold.
    """

    word: ClassVar[str]
    """Name on the command line."""
    prepared_as: ClassVar[str]
    """What `fewseg prepare` calls it."""
    folds: ClassVar[int] = 4
    min_pixels: ClassVar[int] = 1
    """Pixels from which an image counts as showing a class, where lists are computed."""
    class_by_class: ClassVar[bool] = True
    """Order of computed lists: all images of the first class, then of the next; or image by image."""

    def __init__(
        self, root: str | os.PathLike[str], fold: int | None = None, *, selection: Selection = "hsnet"
    ) -> None:
        self.root, self.fold, self.selection = Path(root), fold, selection
        self.index = read_index(self.root, self.prepared_as)
        self.classes = self.index.classes
        self.held_out = frozenset(self.novel(fold)) if fold is not None else frozenset()

    @property
    def name(self) -> str:
        """The word on the command line, with the fold: `pascal5i-fold0`."""
        return self.word if self.fold is None or self.folds == 1 else f"{self.word}-fold{self.fold}"

    def opened(self, *, fold: int | None = None, held_out: Collection[int] = ()) -> Self:
        """The same benchmark for another fold, or with other classes held out for testing."""
        other = copy.copy(self)
        other.__dict__.pop("_names", None)
        other.fold = fold
        other.held_out = frozenset(self.novel(fold) if fold is not None else held_out)
        return other

    def novel(self, fold: int) -> tuple[int, ...]:
        """The classes that fold `fold` tests."""
        raise NotImplementedError

    def base(self, fold: int) -> tuple[int, ...]:
        """The classes to train on when `fold` is tested."""
        novel = self.novel(fold)
        return tuple(c for c in range(len(self.classes)) if c not in novel)

    def test_pairs(self, fold: int) -> tuple[Pair, ...]:
        """(image, novel class) in the published list's order, or in that of the computed list."""
        return self._listed("test", fold) or self._computed("test", self.novel(fold))

    def train_pairs(self, fold: int) -> tuple[Pair, ...]:
        """(image, base class) to train on when `fold` is tested."""
        pairs = self._listed("train", fold) or self._computed("train", self.base(fold))
        return self._selected(pairs, self.novel(fold))

    def _selected(self, pairs: tuple[Pair, ...], novel: Collection[int]) -> tuple[Pair, ...]:
        """What the selection leaves of training pairs: sccan's has no images that show a novel class too."""
        if self.selection == "hsnet":
            return pairs
        areas, novel = self.index.parts["train"], frozenset(novel)
        return tuple((name, c) for name, c in pairs if novel.isdisjoint(areas[name]))

    def names(self, class_id: int) -> tuple[str, ...]:
        """Sorted test images of a novel class, training images of any other."""
        if not 0 <= class_id < len(self.classes):
            raise InvalidDataset(f"no class {class_id} in {self.word}: it has {len(self.classes)}, counted from 0")
        return self._names.get(class_id, ())

    def small_pairs(self, classes: Collection[int]) -> tuple[Pair, ...]:
        """(image, class) of images that are listed for others of the classes, and show this one on too few pixels."""
        listed = {c: frozenset(self.names(c)) for c in classes}
        images = sorted(frozenset().union(*listed.values()))
        return tuple(
            (name, c) for name in images for c in sorted(listed) if name not in listed[c] and self.shows(name, c)
        )

    def shows(self, name: str, class_id: int) -> bool:
        """Whether the image has a pixel of the class."""
        return any(class_id in areas.get(name, ()) for areas in self.index.parts.values())

    def image(self, name: str) -> Image.Image:
        """The image as stored, RGB."""
        path = self.image_path(name)
        with decoding.open_file(path, "image", InvalidImage) as image:
            return as_stored(decoding.decode(image, os.fspath(path), InvalidImage)).convert("RGB")

    def mask(self, name: str, class_id: int) -> NDArray[np.uint8]:
        """(H, W): 1 the class, 255 ignored, 0 everything else."""
        values = read_values(self.mask_path(name))
        result = (values == class_id + 1).astype(np.uint8)
        result[values == IGNORE] = IGNORE
        return result

    def files(self, name: str) -> tuple[Path, ...]:
        """See `Dataset`."""
        return self.image_path(name), self.mask_path(name)

    def image_path(self, name: str) -> Path:
        """Where the image lies."""
        raise NotImplementedError

    def mask_path(self, name: str) -> Path:
        """Where its mask lies: values are class ids + 1."""
        raise NotImplementedError

    @cached_property
    def _names(self) -> dict[int, tuple[str, ...]]:
        if self.fold is not None:
            pairs: Iterable[Pair] = (*self.train_pairs(self.fold), *self.test_pairs(self.fold))
        else:
            base = [c for c in range(len(self.classes)) if c not in self.held_out]
            train = self._selected(self._computed("train", base), self.held_out)
            pairs = (*train, *self._computed("test", self.held_out))
        return grouped(pairs)

    def _computed(self, part: Part, classes: Collection[int]) -> tuple[Pair, ...]:
        least = SCCAN_PIXELS if self.selection == "sccan" else self.min_pixels
        return computed_pairs(self.index.parts.get(part, {}), classes, least, class_by_class=self.class_by_class)

    def _listed(self, part: Part, fold: int) -> tuple[Pair, ...] | None:
        key = f"{part}-{fold}"
        if key not in self.index.published:
            return None
        least = SCCAN_PIXELS if self.selection == "sccan" else 0
        areas = self.index.parts[part]
        listed = _read_json(list_path(self.root, self.prepared_as, key), self.root, self.prepared_as)["pairs"]
        return tuple((name, c) for name, c in listed if areas[name].get(c, 0) >= least)


def check_fold(word: str, fold: int, folds: int) -> None:
    """Raises `InvalidOption` for a fold that does not exist."""
    if not 0 <= fold < folds:
        raise InvalidOption(f"{word} has no fold {fold}: choose one from 0 to {folds - 1}")


def computed_pairs(
    areas: Areas, classes: Collection[int], min_pixels: int, *, class_by_class: bool = True
) -> tuple[Pair, ...]:
    """Every image with each of `classes` that it shows on at least `min_pixels` pixels."""
    wanted = frozenset(classes)
    pairs = (
        (name, c)
        for name in sorted(areas)
        for c, pixels in sorted(areas[name].items())
        if c in wanted and pixels >= min_pixels
    )
    return tuple(sorted(pairs, key=lambda pair: pair[1])) if class_by_class else tuple(pairs)


def grouped(pairs: Iterable[Pair]) -> dict[int, tuple[str, ...]]:
    """The sorted images of every class."""
    found: dict[int, set[str]] = {}
    for name, class_id in pairs:
        found.setdefault(class_id, set()).add(name)
    return {class_id: tuple(sorted(names)) for class_id, names in found.items()}


def read_values(path: Path, most: int | None = None) -> NDArray[np.uint8]:
    """(H, W) values of an index mask; with `most`, values above it other than 255 raise `InvalidMask`."""
    with decoding.open_file(path, "mask", InvalidMask) as image:
        if image.mode not in ("L", "P"):
            raise InvalidMask(f"{path} is a {image.mode} image: masks are 8-bit PNGs whose values are class ids + 1")
        values: NDArray[np.uint8] = np.array(decoding.decode(image, os.fspath(path), InvalidMask))
    if most is not None:
        unknown = [int(v) for v in np.unique(values) if most < v < IGNORE]
        if unknown:
            raise InvalidMask(f"{path} holds value {unknown[0]}, expected 0 to {most} or 255: get the file again")
    return values


def prepared_folder(root: Path, prepared_as: str) -> Path:
    """Where index and lists are kept."""
    return root / "fewseg" / prepared_as


def list_path(root: Path, prepared_as: str, key: str) -> Path:
    """Where the published list `key` (`test-0`) is kept."""
    return prepared_folder(root, prepared_as) / f"{key}.json"


def write_index(root: Path, prepared_as: str, index: Index, lists: Mapping[str, Sequence[Pair]]) -> None:
    """Write lists and index, each atomically, the index last."""
    make_folder(prepared_folder(root, prepared_as))
    for key, pairs in lists.items():
        write_text(list_path(root, prepared_as, key), json.dumps({"format": _FORMAT, "pairs": pairs}))
    content = {
        "format": _FORMAT,
        "classes": index.classes,
        "published": sorted(lists),
        "parts": {part: dict(sorted(areas.items())) for part, areas in index.parts.items()},
    }
    write_text(prepared_folder(root, prepared_as) / "index.json", json.dumps(content))


def read_index(root: Path, prepared_as: str) -> Index:
    """What `write_index` wrote; raises `InvalidDataset` where there is none or it is damaged."""
    content = _read_json(prepared_folder(root, prepared_as) / "index.json", root, prepared_as)
    try:
        parts = {
            str(part): {name: {int(c): int(n) for c, n in held.items()} for name, held in areas.items()}
            for part, areas in content["parts"].items()
        }
        return Index(tuple(content["classes"]), parts, tuple(content["published"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(root, prepared_as, repr(error)) from error


def _read_json(path: Path, root: Path, prepared_as: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        reason = "" if isinstance(error, FileNotFoundError) else f" ({error.strerror or error})"
        raise InvalidDataset(f"{path} is missing{reason}: run fewseg prepare {prepared_as} --root {root}") from error
    except ValueError as error:
        raise _damaged(root, prepared_as, f"{path.name}: {error}") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise _damaged(root, prepared_as, f"{path.name} is of another version")
    return content


def _damaged(root: Path, prepared_as: str, reason: str) -> InvalidDataset:
    where = prepared_folder(root, prepared_as)
    return InvalidDataset(f"the index in {where} is damaged ({reason}): run fewseg prepare {prepared_as} --root {root}")
