"""Tables of the single objects of a run, made from the entries of results.json.

    counts.csv   image, label, count: a line for every image and label, 0 where there is none
    objects.csv  image, label, object (its value in objects/LABEL/NAME.png), area_px, left, top, right, bottom,
                 centroid_x, centroid_y, score; with a pixel size also area, in square units, behind area_px

Boxes and centroids are in pixels, x to the right and y down; right and bottom lie just beyond the object.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from fewseg.batch.earlier import Record
from fewseg.core.files import replacing

OBJECTS: Final = "objects.csv"
COUNTS: Final = "counts.csv"

_BOX: Final = ("left", "top", "right", "bottom")


def write_tables(root: Path, records: Sequence[Record], pixel_size: float | None) -> dict[str, int]:
    """Write both tables, none where no label has objects; gives the objects of each label. Raises `OutputError`.

    `pixel_size` is the side of a pixel in units of the user's.
    """
    totals: Counter[str] = Counter()
    for record in records:
        for label, about in _counted(record):
            totals[label] += len(about["objects"])
    for name in (OBJECTS, COUNTS):
        if not totals:
            (root / name).unlink(missing_ok=True)  # of an earlier run, with labels that have objects
    if totals:
        area = () if pixel_size is None else ("area",)
        head = ("image", "label", "object", "area_px", *area, *_BOX, "centroid_x", "centroid_y", "score")
        _write(root / OBJECTS, head, (row for record in records for row in _objects(record, pixel_size)))
        counted = ((record, *labelled) for record in records for labelled in _counted(record))
        rows = ((record["picture"], label, len(about["objects"])) for record, label, about in counted)
        _write(root / COUNTS, ("image", "label", "count"), rows)
    return dict(totals)


def _counted(record: Record) -> Iterator[tuple[str, dict[str, Any]]]:
    """The labels of an image whose objects were told apart."""
    return ((label, about) for label, about in record["labels"].items() if "objects" in about)


def _objects(record: Record, pixel_size: float | None) -> Iterator[tuple[Any, ...]]:
    for label, about in _counted(record):
        for number, one in enumerate(about["objects"], 1):
            area = () if pixel_size is None else (f"{one['area'] * pixel_size**2:.6g}",)
            yield record["picture"], label, number, one["area"], *area, *one["box"], *one["centroid"], one["score"]


def _write(path: Path, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(head)
        table.writerows(rows)
