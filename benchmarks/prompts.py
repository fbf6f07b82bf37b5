"""How well a first proposal fits: IoU of masks from one box, click or scribble, with nothing taught and one example.

    python benchmarks/prompts.py FOLDER --part validation
    python benchmarks/prompts.py FOLDER --part test --out prompts.jsonl

FOLDER holds a folder for each class, `image_XXXX.jpg` with the mask `image_XXXX.png` (0/255): Caltech-101 with its
polygons as masks. Everything is tuned on the classes of the validation part; the test part's are novel to the embedded
model. The seed shuffles the images of a class: the first is the example, the next ones are prompted. The object is the
largest connected component of a mask, and is prompted by

- `box`: the smallest one;
- `click`: the pixel deepest inside; `inner click`: a random one at least 0.3 as deep;
- `scribble`: a straight line through the deepest pixel, 0.3 of the longer side of the box long, in the direction with
  the most of it inside;
- `3 clicks`: the first one, then twice the pixel deepest in the larger wrong component, inside or outside.

Prints the mean IoU of every class as Markdown, and the mean CPU time of the proposals; the first ones in an image
include what is computed once for it: superpixels with the click, those of the window with the box.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from fewseg.images.prompts import Prompt
from fewseg.inference.segmenter import Segmenter

PARTS = {
    "validation": ("ant", "beaver", "crab", "crocodile", "emu", "flamingo"),
    "test": ("butterfly", "dolphin", "elephant", "kangaroo", "panda"),
}
KINDS = ("box", "click", "inner click", "scribble", "3 clicks")
Mask = NDArray[np.bool_]
Ask = Callable[..., Mask]


def largest(mask: Mask) -> Mask:
    """The largest connected component."""
    parts, count = ndimage.label(mask)
    return mask if count < 2 else parts == 1 + np.bincount(parts.ravel())[1:].argmax()


def depth(mask: Mask) -> NDArray[np.float64]:
    """Of every pixel the distance to the mask's border, and the image's."""
    inner: NDArray[np.float64] = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    return inner


def deepest(mask: Mask) -> tuple[float, float]:
    """x, y."""
    row, column = np.unravel_index(depth(mask).argmax(), mask.shape)
    return float(column) + 0.5, float(row) + 0.5


def box_of(mask: Mask) -> tuple[int, int, int, int]:
    """The smallest box."""
    rows, columns = np.nonzero(mask)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def inner_click(mask: Mask, rng: np.random.Generator) -> tuple[float, float]:
    """A random pixel that is not at the border."""
    inner = depth(mask)
    row, column = np.unravel_index(rng.choice(np.flatnonzero(inner >= 0.3 * inner.max())), mask.shape)
    return float(column) + 0.5, float(row) + 0.5


def line_of(mask: Mask) -> list[tuple[float, float]]:
    """A short straight scribble."""
    x0, y0, x1, y1 = box_of(mask)
    x, y = deepest(mask)
    lines = []
    for angle in np.arange(12) * np.pi / 12:
        along = np.linspace(-0.15, 0.15, 9) * max(x1 - x0, y1 - y0)
        places = [(x + a * np.cos(angle), y + a * np.sin(angle)) for a in along]
        lines.append([(px, py) for px, py in places if x0 <= px < x1 and y0 <= py < y1 and mask[int(py), int(px)]])
    return max(lines, key=len)


def corrected(ask: Ask, mask: Mask, made: Mask) -> Mask:
    """What comes of two corrections of a click."""
    points = [(*deepest(mask), 1)]
    for _ in range(2):
        wrong = max((largest(w) for w in (mask & ~made, made & ~mask) if w.any()), key=np.sum, default=None)
        if wrong is None:
            break
        points.append((*deepest(wrong), int((mask & wrong).any())))
        made = ask(points=points)
    return made


def proposals(ask: Ask, mask: Mask, seed: str) -> Iterator[tuple[str, Mask]]:
    """The first proposal of every kind of prompt."""
    rng = np.random.default_rng(list(seed.encode()))
    clicked = ask(points=[(*deepest(mask), 1)])
    yield "click", clicked
    yield "box", ask(box=box_of(mask))
    yield "inner click", ask(points=[(*inner_click(mask, rng), 1)])
    yield "scribble", ask(scribble=line_of(mask))
    yield "3 clicks", corrected(ask, mask, clicked)


def read(path: Path) -> tuple[Image.Image, Mask]:
    """An image and its object."""
    with Image.open(path) as image, Image.open(path.with_suffix(".png")) as mask:
        return image.convert("RGB"), largest(np.asarray(mask.convert("L")) > 127)


def measure(segmenter: Segmenter, folder: Path, count: int, seed: int) -> Iterator[dict[str, Any]]:
    """IoU of every proposal in the images of a class, and its CPU seconds: those after the image is encoded."""
    paths = sorted(folder.glob("*.jpg"))
    random.Random(f"{seed} {folder.name}").shuffle(paths)
    segmenter.teach("object", *read(paths[0]))
    for path in paths[1 : 1 + count]:
        image, mask = read(path)
        for examples in (0, 1):
            mask_of = segmenter.prompter(image, "object" if examples else None)
            begin = time.process_time()
            for kind, made in proposals(lambda **prompt: mask_of(Prompt.of(**prompt)), mask, path.stem):  # noqa: B023
                line = {"class": folder.name, "image": path.stem, "seed": seed, "examples": examples, "kind": kind}
                now = time.process_time()
                yield line | {
                    "iou": round(float((made & mask).sum() / (made | mask).sum()), 4),
                    "seconds": round(now - begin, 3),
                }
                begin = now
    segmenter.forget("object")


def table(lines: list[dict[str, Any]]) -> str:
    """Mean IoU of every kind and class."""
    classes = list(dict.fromkeys(line["class"] for line in lines))
    rows = [f"| prompt | examples | {' | '.join(classes)} | mean |", "|---|---" + "|---" * (len(classes) + 1) + "|"]
    for kind in KINDS:
        for examples in (0, 1):
            some = [line for line in lines if line["kind"] == kind and line["examples"] == examples]
            means = [np.mean([line["iou"] for line in some if line["class"] == name]) for name in classes]
            cells = " | ".join(f"{100 * v:.1f}" for v in (*means, np.mean(means)))
            rows.append(f"| {kind} | {examples} | {cells} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--part", choices=PARTS, default="validation")
    parser.add_argument("--model", default="default")
    parser.add_argument("--images", type=int, default=10, help="prompted images of each class")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="every proposal as a line of JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    segmenter = Segmenter.from_pretrained(args.model, device="cpu")
    lines: list[dict[str, Any]] = []
    for name in PARTS[args.part]:
        lines += list(measure(segmenter, args.folder / name, args.images, args.seed))
        if args.out:
            args.out.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    print(table(lines))
    took = {kind: np.mean([line["seconds"] for line in lines if line["kind"] == kind]) for kind in KINDS}
    print("\nCPU seconds:", ", ".join(f"{kind} {seconds:.2f}" for kind, seconds in took.items()))


if __name__ == "__main__":
    main()
