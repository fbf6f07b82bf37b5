"""What tiles bring where the image is far larger than the model's input.

    python scripts/measure_tiles.py [--model default]

Large images with known masks are mosaics of turned and brightened copies of the demo's photographs, so this shows the
effect of scale, not what other images will give. Prints Markdown.
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray

from fewseg.inference.segmenter import Segmenter
from fewseg.inference.tiles import segment_tiled, teach_tiled
from fewseg.tools.demo.photographs import PhotoWindow, sources

OpenedImage = tuple[NDArray[np.uint8], NDArray[np.bool_]]

CASES = {"coins": ("coin", 5, 5), "tissue": ("gland", 3, 3)}
"""Photograph to label, columns and rows of its mosaic."""


def photograph(name: str, label: str) -> OpenedImage:
    """A whole photograph of the demo and the label's mask."""
    view = PhotoWindow(name, (0, 0, *sources()[name].size))
    return np.asarray(view.image()), view.mask(label) > 0


def mosaic(image: OpenedImage, columns: int, rows: int, seed: int) -> OpenedImage:
    """Copies beside each other, each turned by half, mirrored or not, and of another brightness."""
    rng = np.random.default_rng(seed)
    pixels, mask = image
    large, truth = [], []
    for _ in range(rows):
        row, here = [], []
        for _ in range(columns):
            down, across = (int(rng.choice((-1, 1))) for _ in range(2))
            brighter = rng.uniform(0.8, 1.2)
            row.append((pixels[::down, ::across] * brighter).clip(0, 255).astype(np.uint8))
            here.append(mask[::down, ::across])
        large.append(np.concatenate(row, 1))
        truth.append(np.concatenate(here, 1))
    return np.concatenate(large), np.concatenate(truth)


def iou(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> str:
    """Two digits."""
    return f"{(found & truth).sum() / (found | truth).sum():.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default")
    segmenter = Segmenter.from_pretrained(parser.parse_args().model)
    print("| image | example | whole image | tiles | no overlap | overlap of a half |\n|---|---|---|---|---|---|")
    for name, (label, columns, rows) in CASES.items():
        one = photograph(name, label)
        image, truth = mosaic(one, columns, rows, seed=0)
        other = mosaic(one, columns, rows, seed=1)
        for how in ("one photograph", "a mosaic, taught whole", "a mosaic, taught in crops"):
            if how.endswith("crops"):
                teach_tiled(segmenter, label, *other)
            else:
                segmenter.teach(label, *(one if how == "one photograph" else other))
            whole = segmenter.segment(image, probabilities=False).masks[label]
            tiled = [
                segment_tiled(segmenter, image, overlap=overlap, probabilities=False).masks[label]
                for overlap in (0.25, 0.0, 0.5)
            ]
            cells = [f"{name}, {image.shape[1]} x {image.shape[0]}", how, *(iou(m, truth) for m in (whole, *tiled))]
            print("| " + " | ".join(cells) + " |", flush=True)
            segmenter.forget(label)


if __name__ == "__main__":
    main()
