"""What boxes, points and scribbles cost against full masks: 1-shot mIoU on novel classes.

    python scripts/measure_weak.py DATA --model default --model SCCAN.safetensors [--out runs/weak.jsonl] [--seed 0]

DATA holds `coco_mini/` and `caltech101_24/`. Every model gets the same seeded episodes; in each the support's mask is
replaced by what `fewseg.inference.interactive` makes of marks simulated from it. A mask is cut into its parts
(connected, from 5 % of the label's area), and of every part is given

- `box`: the smallest box around it;
- `1 click`: the place deepest inside (farthest from its border and the image's);
- `3 clicks`: the same for the largest part, then twice the place deepest inside the largest wrong area of what has come
  of it so far, as inside or outside: what a person who watches would click;
- `scribble`: a line between the two ends of the part that are farthest apart, kept well inside.

Every model, episode and way is a line in OUT that is not measured again. Prints Markdown; `--sheet FILE` draws masks.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage, stats
from skimage.graph import MCP_Geometric, route_through_array

from fewseg.core.errors import InvalidMask
from fewseg.core.types import Episode
from fewseg.data.episodes.draw import draw_test_episodes
from fewseg.data.episodes.sources import OpenSource, open_source
from fewseg.evaluation.metrics.iou import intersection_and_union
from fewseg.images.draw import contact_sheet, overlay
from fewseg.images.prompts import Prompt
from fewseg.inference.segmenter import Segmenter
from split import MIN_AREA, sources  # the script beside this one

Mask = NDArray[np.bool_]
WAYS: Final = ("mask", "box", "1 click", "3 clicks", "scribble", "filled box")
PART: Final = 0.05


def parts(mask: Mask) -> list[Mask]:
    """Connected parts that are not small, the largest first."""
    labels, count = ndimage.label(mask)
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    kept = [i for i in np.argsort(-areas) if areas[i] >= PART * areas.sum()]
    return [labels == i + 1 for i in kept]


def depth(area: Mask) -> NDArray[np.float64]:
    """Of every pixel the distance to the area's border, and the image's."""
    inner: NDArray[np.float64] = ndimage.distance_transform_edt(np.pad(area, 1))[1:-1, 1:-1]
    return inner


def deepest(area: Mask) -> tuple[float, float]:
    """x, y."""
    row, column = np.unravel_index(depth(area).argmax(), area.shape)
    return float(column) + 0.5, float(row) + 0.5


def box(part: Mask) -> Prompt:
    """The smallest one."""
    rows, columns = np.nonzero(part)
    return Prompt.of(box=(columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))


def scribble(part: Mask) -> Prompt:
    """A line along the part: from the place farthest from the deepest to that farthest from there, deep inside."""
    inner = depth(part)
    core = inner >= 0.4 * inner.max()
    labels, _ = ndimage.label(core)
    core = labels == labels[np.unravel_index(inner.argmax(), inner.shape)]
    costs = np.where(core, 1.0, -1.0)
    ends = [np.unravel_index(inner.argmax(), inner.shape)]
    for _ in range(2):
        far, _ = MCP_Geometric(costs).find_costs([ends[-1]])
        ends.append(np.unravel_index(np.where(core, far, -1).argmax(), core.shape))
    path, _ = route_through_array(np.where(core, 1 / np.maximum(inner, 1), -1.0), ends[1], ends[2])
    return Prompt.of(scribble=[(x + 0.5, y + 0.5) for y, x in path[:: max(1, len(path) // 20)]])


def corrected(segmenter: Segmenter, image: Image.Image, mask: Mask) -> Mask:
    """What comes of three clicks, two of them corrections."""
    points = [(*deepest(parts(mask)[0]), 1)]
    for _ in range(2):
        made = segmenter.mask_from_prompt(image, points=points)
        wrong = max(parts(mask & ~made)[:1] + parts(made & ~mask)[:1], key=np.sum, default=None)
        if wrong is None:
            return made
        points.append((*deepest(wrong), int((mask & wrong).any())))
    return segmenter.mask_from_prompt(image, points=points)


def derived(way: str, segmenter: Segmenter, image: Image.Image, mask: Mask) -> Mask:
    """The support's mask, as it comes of a way of marking."""
    if way == "mask":
        return mask
    if way == "3 clicks":
        return corrected(segmenter, image, mask)
    if way == "filled box":
        filled = np.zeros_like(mask)
        for part in parts(mask):
            rows, columns = np.nonzero(part)
            filled[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
        return filled
    make: dict[str, Callable[[Mask], Prompt]] = {
        "box": box,
        "scribble": scribble,
        "1 click": lambda part: Prompt.of(points=[(*deepest(part), 1)]),
    }
    return segmenter.mask_from_prompts(image, [make[way](part) for part in parts(mask)])


def overlap(made: Mask, truth: NDArray[np.uint8]) -> list[int]:
    """Intersection and union of the foreground."""
    both, either = intersection_and_union(made, truth)
    return [int(both[1]), int(either[1])]


def measure(segmenter: Segmenter, opened: OpenSource, episode: Episode, shown: list[Image.Image]) -> dict[str, Any]:
    """What the masks derived of one support are, and what they teach; appends them to the images shown."""
    image, target = opened.dataset.image(episode.support[0]), opened.dataset.mask(episode.query, episode.class_id)
    truth = opened.dataset.mask(episode.support[0], episode.class_id)
    line: dict[str, Any] = {"class": episode.class_id, "parts": len(parts(truth == 1)), "support": {}}
    for label in segmenter.labels:
        segmenter.forget(label)
    for way in WAYS:
        made = derived(way, segmenter, image, truth == 1)
        line["support"][way] = overlap(made, truth)
        shown.append(overlay(image, {way: made}))
        try:
            segmenter.teach(way, image, made)
        except InvalidMask:  # nothing is left at the model's size
            continue
    query = segmenter.preprocess(opened.dataset.image(episode.query))
    found = segmenter.postprocess(
        segmenter.predict(segmenter.encode([query]))[0], query.size, probabilities=False
    ).masks
    line["query"] = {way: overlap(found.get(way, np.zeros(target.shape, bool)), target) for way in WAYS}
    return line


def by_class(lines: Sequence[dict[str, Any]], what: str, way: str) -> NDArray[np.float64]:
    """IoU in percent of every class, pixels summed over its episodes."""
    sums: dict[tuple[str, int], NDArray[np.int64]] = {}
    for line in lines:
        key = (line["data"], line["class"])
        sums[key] = sums.get(key, np.zeros(2, np.int64)) + np.array(line[what][way])
    return np.array([100 * both / max(1, either) for _, (both, either) in sorted(sums.items())])


def report(lines: Sequence[dict[str, Any]]) -> None:
    """Print a table for every model and collection."""
    for model, data in dict.fromkeys((line["model"], line["data"]) for line in lines):
        own = [line for line in lines if (line["model"], line["data"]) == (model, data)]
        exact = by_class(own, "query", "mask")
        marked = np.mean([line["parts"] for line in own])
        print(f"\n{model}, {data}: {len(own)} episodes, {len(exact)} classes, {marked:.1f} parts a support\n")
        print("| support | mIoU of its mask | 1-shot mIoU | against full masks |\n|---|---|---|---|")
        for way in WAYS:
            scores = by_class(own, "query", way)
            change = scores - exact
            width = stats.t.ppf(0.975, len(change) - 1) * change.std(ddof=1) / np.sqrt(len(change))
            price = "" if way == "mask" else f"{change.mean():+.1f} ± {width:.1f}"
            print(f"| {way} | {by_class(own, 'support', way).mean():.1f} | {scores.mean():.1f} | {price} |")


def main() -> None:
    """Measure what is missing, then print."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", action="append", default=None, help="default, or a file; several times")
    parser.add_argument("--out", type=Path, default=Path("runs/weak.jsonl"))
    parser.add_argument("--per-class", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=15.0, help="processor time after which nothing new is begun")
    parser.add_argument("--sheet", type=Path, default=None, help="draw the masks of the first episodes here")
    args = parser.parse_args()
    torch.set_num_threads(1)  # equal everywhere
    lines = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.is_file() else []
    known = {line["key"] for line in lines}
    shown: list[Image.Image] = []
    models = {name: Segmenter.from_pretrained(name, device="cpu") for name in args.model or ["default"]}
    for opened in [open_source(source, min_area=MIN_AREA) for source in reversed(sources(args.data))]:
        episodes = draw_test_episodes(opened.dataset, opened.novel, 1, args.per_class, args.seed)
        for number, episode in enumerate(episodes):
            for model, segmenter in models.items():
                key = f"{model} {opened.dataset.name} {args.per_class} {args.seed} {number}"
                if key in known or time.process_time() > 60 * args.minutes:
                    continue
                line = {"key": key, "model": model, "data": opened.dataset.name}
                line |= measure(segmenter, opened, episode, shown)
                lines.append(line)
                with args.out.open("a") as stream:
                    stream.write(json.dumps(line) + "\n")
                if args.sheet is not None and len(shown) <= 24 * len(WAYS):
                    contact_sheet(shown, columns=len(WAYS)).save(args.sheet)
    report(lines)


if __name__ == "__main__":
    main()
