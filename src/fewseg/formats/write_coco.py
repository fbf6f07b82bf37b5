"""Results as COCO JSON, with polygons or run lengths."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from shapely import Polygon

from fewseg.core.errors import OutputError
from fewseg.core.files import make_folder, replacing
from fewseg.formats.manifest import COCO_MARK
from fewseg.formats.page import Labels, Page
from fewseg.formats.polygons import one_ring


class CocoWriter:
    """One file with images, annotations (with `score`) and categories (numbered from 1).

    Entries wait in temporary files without names, so memory does not grow with the images and a run that is killed
    leaves nothing behind.
    """

    def __init__(self, out: Path, labels: Labels, *, run_lengths: bool) -> None:
        self._path = out / ("coco_rle.json" if run_lengths else "coco.json")
        self._labels, self._run_lengths = labels, run_lengths
        make_folder(out)
        self._images, self._annotations = _Entries(out), _Entries(out)

    def add(self, page: Page) -> int:
        """Note the image and its annotations."""
        record = page.record
        width, height = record.size
        image_id = self._images.count + 1
        self._images.add({"id": image_id, "file_name": record.known_as, "width": width, "height": height})
        for label in page.masks:
            for segmentation, area, box in self._shapes(page, label):
                entry = {
                    "id": self._annotations.count + 1,
                    "image_id": image_id,
                    "category_id": self._labels.number(label) + 1,
                    "segmentation": segmentation,
                    "area": area,
                    "bbox": box,
                    "iscrowd": 0,
                    "score": round(record.score(label), 4),
                }
                self._annotations.add(entry)
        return 0

    def _shapes(self, page: Page, label: str) -> Iterator[tuple[Any, float, list[float]]]:
        """Segmentation, area and box of each annotation of a label."""
        size = page.record.size
        split = page.options.split
        if not self._run_lengths:
            found = page.regions(label)
            for group in ([region] for region in found) if split else [found] if found else []:
                yield _polygons(group), round(sum(region.area for region in group), 2), _box(group)
        elif split or page.options.min_area > 0:
            found = page.regions(label, exact=True)
            for group in ([region] for region in found) if split else [found] if found else []:
                yield rle_entry(rle_of_regions(group, size))
        else:
            yield rle_entry(rle_of_mask(page.masks[label]))

    def finish(self) -> int:
        """Write the file: all or nothing."""
        about = {"description": f"{COCO_MARK}: one category a label, `score` in [0, 1]", "version": "1.0"}
        categories = [
            {"id": i, "name": name, "supercategory": "object"} for i, name in enumerate(self._labels.names, 1)
        ]
        with replacing(self._path) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.write(f'{{"info": {json.dumps(about)},\n"categories": {json.dumps(categories)},\n"images": [\n')
            self._images.pour(file)
            file.write('],\n"annotations": [\n')
            self._annotations.pour(file)
            file.write("]}\n")
        return 1

    def close(self) -> None:
        """The temporary files vanish."""
        self._images.file.close()
        self._annotations.file.close()


class _Entries:
    """JSON values in a temporary file, joined by commas."""

    def __init__(self, folder: Path) -> None:
        self.count = 0
        try:
            self.file: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8", dir=folder)  # noqa: SIM115 - kept open
        except OSError as error:
            raise OutputError(f"cannot write in {folder}: {error.strerror or error}; choose another") from error

    def add(self, entry: dict[str, Any]) -> None:
        try:
            self.file.write((",\n" if self.count else "") + json.dumps(entry))
        except OSError as error:
            raise OutputError(f"cannot write annotations: {error.strerror or error}; free space") from error
        self.count += 1

    def pour(self, target: IO[str]) -> None:
        self.file.seek(0)
        shutil.copyfileobj(self.file, target)


def _polygons(group: list[Polygon]) -> list[list[float]]:
    # COCO unites the polygons of an annotation, so a hole cannot be one of them: it is cut into its region's outline.
    return [[round(float(value), 2) for value in one_ring(region).ravel()] for region in group]


def _box(group: list[Polygon]) -> list[float]:
    bounds = np.array([region.bounds for region in group])
    left, top = bounds[:, :2].min(0)
    right, bottom = bounds[:, 2:].max(0)
    return [round(float(value), 2) for value in (left, top, right - left, bottom - top)]


def rle_entry(rle: dict[str, Any]) -> tuple[dict[str, Any], float, list[float]]:
    """Compressed run lengths as JSON has them, their area, and their box (x, y, width, height)."""
    box = [float(value) for value in coco_mask.toBbox(rle)]
    counts = rle["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return {"size": [int(v) for v in rle["size"]], "counts": text}, float(coco_mask.area(rle)), box


def rle_of_mask(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """COCO's compressed run lengths of a mask (H, W)."""
    rle: dict[str, Any] = coco_mask.encode(np.asfortranarray(mask.view(np.uint8)))
    return rle


def rle_of_regions(group: list[Polygon], size: tuple[int, int]) -> dict[str, Any]:
    """COCO's compressed run lengths of regions in an image of `size` (width, height); exact for exact regions."""
    width, height = size
    rle: dict[str, Any] = coco_mask.merge(
        coco_mask.frPyObjects([one_ring(region).ravel().tolist() for region in group], height, width)
    )
    return rle
