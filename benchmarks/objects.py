"""Single objects: panoptic quality and error of the count, against connected components and plain watershed.

    python benchmarks/objects.py --nuclei FOLDER --out objects.json

FOLDER holds `images/ID.jpg|png` and instance maps `instances/ID.png`. Of its images in the order of their names every
other one belongs to the tuning part, from which the examples are taken as well; numbers are of the others. Without it
only the demo's coins and generated touching discs and ellipses are measured. Every set is measured from true masks
(separation alone); nuclei and coins also from those that the segmenter finds, as taught and adapted.

Panoptic quality (Kirillov et al. 2019) of an image is the sum of the IoU of matched objects (IoU above 0.5) over
matched ones and half of those without a match; the mean over images is given, and the mean absolute error of the count.
Plain watershed floods the distance transform from its local maxima, `least distance` apart: the distance with the
lowest error of the count on the tuning part.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.segmentation import watershed

from fewseg.images import read_image
from fewseg.images.masks import read_instances
from fewseg.inference.objects.examples import ExampleObjects
from fewseg.inference.objects.separate import separate
from fewseg.inference.objects.shape import ObjectShape
from fewseg.inference.objects.typical import typical_object
from fewseg.inference.segmenter import Segmenter
from fewseg.tools.demo.photographs import tasks

Map = NDArray[np.int32]
Mask = NDArray[np.bool_]
Way = Callable[[Mask], Map]

EIGHT = np.ones((3, 3), np.bool_)
DISTANCES = (3, 5, 7, 10, 14, 20)
"""Least distances between maxima, in pixels, that plain watershed is tuned over."""


@dataclass(frozen=True)
class Case:
    """A mask to separate, true or found, and the true objects of its image."""

    mask: Mask
    truth: Map


def panoptic_quality(found: Map, truth: Map) -> float:
    """Of one image; 1 where neither holds an object."""
    n, m = int(found.max()), int(truth.max())
    if n == m == 0:
        return 1.0
    joint = np.bincount((truth.astype(np.int64) * (n + 1) + found).ravel(), minlength=(n + 1) * (m + 1))
    joint = joint.reshape(m + 1, n + 1)
    both = joint[1:, 1:]
    iou = both / (joint.sum(1)[1:, None] + joint.sum(0)[None, 1:] - both)
    matched = iou > 0.5
    return float(iou[matched].sum() / (matched.sum() + (n + m - 2 * matched.sum()) / 2))


def components(mask: Mask) -> Map:
    """Connected regions."""
    numbered: Map = ndimage.label(mask, EIGHT, output=np.int32)[0]
    return numbered


def plain_watershed(mask: Mask, distance: int) -> Map:
    """Basins of the distance transform around maxima that are some pixels apart."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    seeds = np.zeros(mask.shape, np.int32)
    places = peak_local_max(depth, min_distance=distance, labels=components(mask), exclude_border=False)
    seeds[tuple(places.T)] = np.arange(1, len(places) + 1)
    basins: Map = watershed(-depth, seeds, mask=mask, connectivity=2).astype(np.int32)
    return basins


def score(way: Way, cases: Sequence[Case]) -> dict[str, float]:
    """Panoptic quality in per cent, mean absolute error and mean error of the count."""
    found = [way(case.mask) for case in cases]
    errors = [int(f.max()) - int(case.truth.max()) for f, case in zip(found, cases, strict=True)]
    quality = [panoptic_quality(f, case.truth) for f, case in zip(found, cases, strict=True)]
    values = {"pq": 100 * np.mean(quality), "count_error": np.mean(np.abs(errors)), "bias": np.mean(errors)}
    return {key: round(float(value), 2) for key, value in values.items()}


def ways(tuning: Sequence[Case], examples: Sequence[Map]) -> Iterator[tuple[str, Way]]:
    """Every way by its name."""
    yield "connected components", components
    best = min(DISTANCES, key=lambda d: score(lambda mask: plain_watershed(mask, d), tuning)["count_error"])
    yield f"watershed, least distance {best}", lambda mask: plain_watershed(mask, best)
    yield "fewseg, no examples", lambda mask: separate(mask, ObjectShape())
    binary = typical_object([ExampleObjects.of(example > 0) for example in examples])
    yield "fewseg, binary examples", lambda mask: separate(mask, binary)
    shape = typical_object([ExampleObjects.of(example > 0, example) for example in examples])
    yield "fewseg, instance maps", lambda mask: separate(mask, shape)


def measured(name: str, tuning: Sequence[Case], cases: Sequence[Case], examples: Sequence[Map]) -> list[dict[str, Any]]:
    """A row for each way, printed as well."""
    rows = []
    for way, separation in ways(tuning, examples):
        row = {"set": name, "images": len(cases), "way": way, **score(separation, cases)}
        print(f"{name:32s} {way:32s} PQ {row['pq']:6.2f}  count error {row['count_error']:6.2f} ({row['bias']:+.2f})")
        rows.append(row)
    return rows


# ------------------------------------------------------------------------------------------------ generated shapes


def generated(seed: int, count: int, most: float) -> list[Case]:
    """Images of 8 to 40 ellipses, the longer radius up to `most` times the shorter, of which most touch others.

    A new one overlaps those that are there by at most a quarter of its own area.
    """
    random = np.random.default_rng(seed)
    cases = []
    for _ in range(count):
        truth = np.zeros((256, 256), np.int32)
        y, x = np.mgrid[:256, :256] + 0.5
        typical, wanted, placed = random.uniform(8, 16), int(random.integers(8, 41)), 0
        for _ in range(4000):
            if placed == wanted:
                break
            cx, cy, angle = random.uniform(0, 256), random.uniform(0, 256), random.uniform(0, math.pi)
            short, long = typical * random.uniform(0.8, 1.25), random.uniform(1, most)
            u, v = (
                (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle),
                (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle),
            )
            own = (u / (short * long)) ** 2 + (v / short) ** 2 <= 1
            covered = np.count_nonzero(truth[own])
            touches = covered > 0 or np.count_nonzero(truth[ndimage.binary_dilation(own, iterations=2)]) > 0
            if own.sum() < 60 or covered > 0.25 * own.sum() or (placed > 4 and not touches):
                continue
            placed += 1
            truth[own & (truth == 0)] = placed
        cases.append(Case(truth > 0, truth))
    return cases


def generated_rows() -> list[dict[str, Any]]:
    """Discs and ellipses, from true masks."""
    rows = []
    for name, most in (("discs", 1.0), ("ellipses", 2.0)):
        tuning, cases = generated(0, 10, most), generated(1, 30, most)
        rows += measured(f"{name}, true masks", tuning, cases, [case.truth for case in tuning[:3]])
    return rows


# ------------------------------------------------------------------------------------------------ nuclei and coins


def found_masks(segmenter: Segmenter, label: str, images: Sequence[Any]) -> list[Mask]:
    """The label's mask in each image."""
    return [segmenter.segment(image, probabilities=False).masks[label] for image in images]


def nuclei_rows(folder: Path, examples: int) -> list[dict[str, Any]]:
    """Nuclei from true and found masks."""
    instances = sorted((folder / "instances").glob("*.png"))
    images = [next((folder / "images").glob(f"{path.stem}.*")) for path in instances]
    truths = [read_instances(path) for path in instances]
    true = [Case(truth > 0, truth) for truth in truths]
    chosen = list(range(0, len(true), 2))[:: max(1, len(true) // 2 // examples)][:examples]
    taught = [truths[i] for i in chosen]
    rows = measured("nuclei, true masks", true[0::2], true[1::2], taught)
    segmenter = Segmenter.from_pretrained(device="cpu")
    for i in chosen:
        segmenter.teach("nucleus", images[i], instances[i], value="instances")
    tuned = [i for i in range(0, len(true), 2) if i not in chosen]
    for name in ("as taught", "adapted"):
        if name == "adapted":
            print(segmenter.adapt()["nucleus"])
        tuning, cases = (
            [Case(mask, truths[i]) for i, mask in zip(which, masks, strict=True)]
            for which in (tuned, range(1, len(true), 2))
            for masks in [found_masks(segmenter, "nucleus", [images[i] for i in which])]
        )
        rows += measured(f"nuclei, {name}", tuning, cases, taught)
    return rows


def coin_rows() -> list[dict[str, Any]]:
    """The demo's coins, which do not touch: what is told apart must stay whole."""
    task = next(task for task in tasks() if task.name == "coins")
    shown = [(window.image(), window.mask("coin")) for window in task.support["coin"]]
    asked = [(query.image(), query.mask("coin")) for query in task.queries]
    truths = [components(mask > 0) for _, mask in asked]
    examples = [components(mask > 0) for _, mask in shown]
    tuning = [Case(example > 0, example) for example in examples]
    rows = measured("coins, true masks", tuning, [Case(truth > 0, truth) for truth in truths], examples)
    segmenter = Segmenter.from_pretrained(device="cpu")
    for (image, _), example in zip(shown, examples, strict=True):
        segmenter.teach("coin", image, example, value="instances")
    masks = found_masks(segmenter, "coin", [image for image, _ in asked])
    cases = [Case(mask, truth) for mask, truth in zip(masks, truths, strict=True)]
    return rows + measured("coins, as taught", tuning, cases, examples)


def draw(folder: Path, out: Path) -> None:
    """An image of the measured part, its connected components and its objects, side by side, from the true mask."""
    instances = sorted((folder / "instances").glob("*.png"))
    truths = [read_instances(path) for path in instances]
    example = [ExampleObjects.of(truth > 0, truth) for truth in truths[0:16:4]]
    most = max(range(1, len(truths), 2), key=lambda i: truths[i].max() - components(truths[i] > 0).max())
    mask, top = truths[most] > 0, (256, 256)
    panels = [read_image(next((folder / "images").glob(f"{instances[most].stem}.*")))]
    random = np.random.default_rng(3)
    for numbered in (components(mask), separate(mask, typical_object(example))):
        colours = random.integers(60, 256, (int(numbered.max()) + 1, 3), dtype=np.uint8)
        colours[0] = 0
        panels.append(Image.fromarray(colours[numbered]))
    sheet = Image.new("RGB", (3 * top[0] + 16, top[1]), "white")
    for place, panel in enumerate(panels):
        sheet.paste(panel.crop((0, 0, *top)), (place * (top[0] + 8), 0))
    sheet.save(out)


def main() -> None:
    """Measure, print, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nuclei", type=Path, help="folder with images/ and instances/")
    parser.add_argument("--examples", type=int, default=8, help="images of nuclei that are taught")
    parser.add_argument("--figure", type=Path, help="PNG file: draw an image of nuclei instead of measuring")
    parser.add_argument("--out", type=Path, help="JSON file for the rows")
    chosen = parser.parse_args()
    if chosen.figure:
        draw(chosen.nuclei, chosen.figure)
        return
    rows = generated_rows() + coin_rows() + (nuclei_rows(chosen.nuclei, chosen.examples) if chosen.nuclei else [])
    if chosen.out:
        chosen.out.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
