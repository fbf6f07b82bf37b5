"""Examples from a folder as PASCAL VOC has it, CVAT's segmentation masks among them: JPEGImages/, SegmentationClass/.

Masks are palette images, whose indices are the classes, or RGB images in the classes' colours. 0 (black) is
background and 255 (or the colour 224, 224, 192) ignored. Names and colours come from labelmap.txt (as CVAT writes it,
its labels sorted, the background among them), names from class_names.txt (labelme) or classes.txt, where a line may
have its value in front (`7 train`); without any of these files they are VOC's own twenty. Images and masks may lie in
subfolders; the images are those of `--images` where there is no JPEGImages/.

Ignored pixels stay ignored (255) in the masks read here. Methods count what is not foreground in a support as
background, the ignored rim around VOC's objects too, as the papers do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from fewseg.core.errors import InvalidSupport
from fewseg.data.datasets.pascal5i import VOC_CLASSES, voc_colour
from fewseg.formats.index_masks import ClassTable, Colour, pairs_by_name, read_index_masks
from fewseg.formats.parse import read_text
from fewseg.formats.reading import Reading, Request

MASKS: Final = "SegmentationClass"
_IMAGES: Final = ("JPEGImages", "images", "Images")
_NAMES: Final = ("labelmap.txt", "class_names.txt", "classes.txt")
_BACKGROUND: Final = ("background", "bg")


def is_voc(folder: Path) -> bool:
    """Whether the folder has VOC's masks."""
    return (folder / MASKS).is_dir()


def read_voc(folder: Path, request: Request) -> Reading:
    """The examples in a VOC folder: every class in every mask; raises `InvalidSupport`."""
    images = request.images or next((folder / name for name in _IMAGES if (folder / name).is_dir()), None)
    if images is None:
        raise InvalidSupport(
            f"{folder} has {MASKS}/ and no JPEGImages/: put the images there, or give their folder with --images"
        )
    table = class_table(folder)
    pairs = pairs_by_name(images, folder / MASKS, request, _wanted(folder, request.split))
    if not pairs:
        raise request.left.nothing(f"{folder / MASKS} has no PNG masks: put one there for every labelled image")
    return Reading("VOC", tuple(dict.fromkeys(table.names.values())), read_index_masks(pairs, table, request))


def _wanted(folder: Path, split: str) -> frozenset[str] | None:
    """The names that a split lists; None for all."""
    if not split:
        return None
    lists = sorted(folder.glob("ImageSets/*/*.txt"))
    path = next((p for p in lists if p.stem.lower() == split.lower()), None)
    if path is None:
        there = ", ".join(dict.fromkeys(p.stem for p in lists)) or "none"
        raise InvalidSupport(f"{folder / 'ImageSets'} has no list of the split {split!r}: there are {there}")
    return frozenset(line.split()[0] for line in read_text(path).splitlines() if line.strip())


def class_table(folder: Path) -> ClassTable:
    """The classes that a file beside the masks lists, or VOC's own; raises `InvalidSupport` for a wrong list."""
    path = next((folder / name for name in _NAMES if (folder / name).is_file()), None)
    remedy = f"list the names in {' or '.join(_NAMES)}"
    if path is None:
        names = dict(enumerate(VOC_CLASSES, 1))
        return ClassTable(names, {voc_colour(i): i for i in (0, *names)}, remedy=remedy)
    lines = (line.strip() for line in read_text(path).splitlines())
    rows = [line.split(":") for line in lines if line and not line.startswith("#")]
    rows = [[row[0].strip(), *row[1:]] for row in rows if row[0].strip() != "__ignore__"]
    if numbered := _numbered([row[0] for row in rows]):
        return ClassTable(numbered, {voc_colour(i): i for i in (0, *numbered)}, remedy=remedy)
    ground = [i for i, row in enumerate(rows) if _is_background(row[0])]
    if len(ground) > 1:
        raise InvalidSupport(f"{path} has {len(ground)} lines of the background: keep one")
    others = [row for i, row in enumerate(rows) if i not in ground]
    names = dict(enumerate((row[0] for row in others), 1))
    if not names or len(names) > 254 or len(set(names.values())) != len(names):
        raise InvalidSupport(f"{path} must list 1 to 254 different class names, one a line")
    colours = {_colour(rows[ground[0]], 0, path) if ground else (0, 0, 0): 0}
    for number, row in enumerate(others, 1):
        colour = _colour(row, number, path)
        if colour in colours:
            other = names.get(colours[colour], "the background")
            raise InvalidSupport(f"{path} gives {row[0]} and {other} one colour, {colour}: export with other colours")
        colours[colour] = number
    return ClassTable(names, colours, only_colours=bool(ground and ground[0]), remedy=remedy)


def _numbered(lines: list[str]) -> dict[int, str] | None:
    """Value to name, where every line has its value in front: `7 train`."""
    parts = [line.split(maxsplit=1) for line in lines]
    if not all(len(part) == 2 and part[0].isdecimal() and int(part[0][:6]) < 256 for part in parts):
        return None
    return {int(value): name for value, name in parts if int(value) and not _is_background(name)}


def _is_background(name: str) -> bool:
    return name.strip("_").lower() in _BACKGROUND


def _colour(row: list[str], number: int, path: Path) -> Colour:
    if len(row) < 2 or not row[1].strip():
        return voc_colour(number)
    try:
        red, green, blue = (int(value) for value in row[1].split(","))
    except ValueError:
        raise InvalidSupport(f"{path} has the colour {row[1]!r:.40}: expected red,green,blue") from None
    return red, green, blue
