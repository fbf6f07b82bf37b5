"""A sheet of images before and after adaptation, of one class of a folder as `benchmarks/domains.py` reads it.

    python scripts/show_adaptation.py SETS/nuclei_dsb2018 --label nucleus --examples 20 --out sheet.webp

The images are those that the benchmark sets aside with that seed, in order of what adaptation gains: the best, some
between, and the worst. Columns: image, true mask, default model as taught, adapted.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import fewseg
from fewseg.images.draw import contact_sheet, overlay

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from domains import read_set, tasks_of


def main() -> None:
    """Teach, adapt, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--label", required=True)
    parser.add_argument("--examples", type=int, default=20)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    pairs = read_set(args.folder)
    tasks = tasks_of(args.folder, [mask for _, mask in pairs], args.seed, 0.005)
    task = next(task for task in tasks if task.label == args.label)

    segmenter = fewseg.Segmenter.from_pretrained()
    taught = task.pool[: args.examples]
    segmenter.teach(args.label, [pairs[i][0] for i in taught], [pairs[i][1] for i in taught], value=task.value)
    before = [segmenter.segment(pairs[i][0]).masks[args.label] for i in task.queries]
    print(segmenter.adapt()[args.label])
    after = [segmenter.segment(pairs[i][0]).masks[args.label] for i in task.queries]

    truth = [pairs[i][1] == task.value for i in task.queries]
    scores = [(iou(b, t), iou(a, t)) for b, a, t in zip(before, after, truth, strict=True)]
    order = sorted(range(len(scores)), key=lambda i: scores[i][0] - scores[i][1])
    images: list[Image.Image] = []
    titles: list[str] = []
    for number in (order[round(place)] for place in np.linspace(0, len(order) - 1, args.rows)):
        image = pairs[task.queries[number]][0]
        masks = (truth[number], before[number], after[number])
        images += [image, *(overlay(image, {args.label: mask}, legend=False) for mask in masks)]
        old, new = scores[number]
        titles += ["image", "true mask", f"as taught: IoU {old:.2f}", f"adapted: IoU {new:.2f}"]
    contact_sheet(images, titles, columns=4).save(args.out)


def iou(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Intersection over union."""
    return float((found & truth).sum() / max(1, (found | truth).sum()))


if __name__ == "__main__":
    main()
