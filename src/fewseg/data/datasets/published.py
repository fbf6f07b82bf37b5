"""Reading the lists that the papers' repositories publish: text for PASCAL-5i and FSS-1000, pickles for COCO-20i.

Each reader takes the folder of one repository's lists and says nothing about images on disk.
"""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from fewseg.core.bounds import bounded
from fewseg.core.errors import InvalidDataset
from fewseg.data.datasets.benchmark import Pair, Part

FOLDERS: Final[dict[Part, tuple[str, ...]]] = {
    "train": ("trn", "train"),
    "validation": ("val",),
    "test": ("val", "test"),
}
"""Folders of a part's lists. The papers validate on what they test, so the tested lists are called `val`."""

_WITHIN: Final = ("", "splits", "lists", "data/splits")
"""Where in a given folder lists may lie, each also with the benchmark's own folder below it."""

_COCO_IMAGE: Final = re.compile(r"(COCO_((?:train|val)2014)_\d{12}\.jpg)$")

_PAIR: Final = re.compile(r"(?P<name>[^\s/]+)__(?P<value>\d{1,2})")


def find_file(folder: Path, own: Sequence[str], names: Iterable[str]) -> Path | None:
    """The first of `names` that exists in `folder`, its usual subfolders, or those of the benchmark (`own`)."""
    wanted = tuple(names)
    for within in _WITHIN:
        for below in ("", *own):
            for name in wanted:
                if (path := folder / within / below / name).is_file():
                    return path
    return None


def read_lines(path: Path) -> list[str]:
    """The lines that are not blank."""
    try:
        lines = [line.strip() for line in bounded(path).read_text("utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidDataset(f"cannot read {path} ({error}): get the list again") from error
    if not any(lines):
        raise InvalidDataset(f"{path} is empty: get the list again")
    return [line for line in lines if line]


@dataclass(frozen=True)
class PascalList:
    """One of PASCAL-5i's lists."""

    path: Path
    names: tuple[str, ...]
    """Image ids, line by line."""
    pairs: tuple[Pair, ...]
    """The same with their classes; empty where the lines name none."""


def read_pascal(path: Path) -> PascalList:
    """Lines `2007_000033__01` (class from 1), or `JPEGImages/ID.jpg MASKS/ID.png`, or `ID`.

    Lines of the other kinds name no class: every class of the fold that the image shows is meant.
    """
    lines = read_lines(path)
    if "__" in lines[0]:
        pairs = tuple(_pair(path, line) for line in lines)
        return PascalList(path, tuple(name for name, _ in pairs), pairs)
    for line in lines:
        if len(line.split()) > 2 or "__" in line:
            raise _unreadable(path, line)
    return PascalList(path, tuple(Path(line.split()[0]).stem for line in lines), ())


def _pair(path: Path, line: str) -> Pair:
    found = _PAIR.fullmatch(line)
    if found is None or not 1 <= int(found["value"]) <= 20:
        raise _unreadable(path, line)
    return found["name"], int(found["value"]) - 1


def _unreadable(path: Path, line: str) -> InvalidDataset:
    return InvalidDataset(
        f"{path}: line {line[:60]!r} is neither IMAGE__CLASS (class 01 to 20) nor an image's path with its mask's: "
        "give the published list as it is"
    )


def read_coco_images(path: Path) -> tuple[str, ...]:
    """SCCAN's lists of COCO-20i: lines of an image's path (`val2014/COCO_val2014_000000000042.jpg`) and its mask's."""
    lines = read_lines(path)
    found = [_COCO_IMAGE.search(line.split()[0]) for line in lines]
    wrong = next((line for line, image in zip(lines, found, strict=True) if image is None), None)
    if wrong is not None:
        raise InvalidDataset(
            f"{path}: line {wrong[:60]!r} names no image of COCO 2014: give the published list as it is"
        )
    return tuple(f"{image[2]}/{image[1]}" for image in found if image is not None)


def read_class_names(path: Path) -> tuple[str, ...]:
    """FSS-1000's lists: a class name a line; of `CLASS/1.jpg` the class counts."""
    return tuple(dict.fromkeys(line.replace("\\", "/").strip("/").split("/")[0] for line in read_lines(path)))


class _Plain(pickle.Unpickler):
    """Admits no global at all: what is left are Python's own containers and scalars."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, _: Any) -> NoReturn:
        raise pickle.UnpicklingError("it refers to something outside the file")


def read_pickle(path: Path) -> dict[int, tuple[str, ...]]:
    """COCO-20i's lists: class id to paths of images. Nothing but dict, list, str and int is admitted."""
    try:
        content = _Plain(io.BytesIO(bounded(path).read_bytes()), encoding="ASCII").load()
    except OSError as error:
        raise InvalidDataset(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # the unpickler raises anything on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InvalidDataset(
            f"{path} is not opened ({reason}): it must be a pickle of dict, list, str and int only, as published"
        ) from error
    if type(content) is not dict or not content:
        raise _not_lists(path, f"a {type(content).__name__}" if content else "an empty one")
    for key, names in content.items():
        if type(key) is not int or type(names) is not list or any(type(name) is not str for name in names):
            raise _not_lists(path, f"{key!r}: {type(names).__name__}"[:60])
    return {key: tuple(name.replace("\\", "/") for name in names) for key, names in content.items()}


def _not_lists(path: Path, got: str) -> InvalidDataset:
    return InvalidDataset(f"{path} must hold a dict of class id (int) to a list of image paths (str), not {got}")
