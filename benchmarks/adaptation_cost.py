"""Seconds of a fit and of a query, and the peak memory of the process, against the number of examples.

    python benchmarks/adaptation_cost.py SETS/nuclei_dsb2018 --examples 20

The images and masks of a set, as `benchmarks/domains.py` reads them, are brought to 640 x 480; the first are taught as
one label, the last eight are the queries. One number of examples a process, so that the memory is its own.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

import fewseg
from domains import read_set

SIZE, QUERIES = (640, 480), 8


def median_seconds(segmenter: fewseg.Segmenter, images: Sequence[Image.Image]) -> float:
    """Seconds of a query, after one that is not counted."""
    segmenter.segment(images[0])
    seconds = []
    for image in images:
        began = time.perf_counter()
        segmenter.segment(image)
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds))


def main() -> None:
    """Measure, and print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--examples", type=int, default=20)
    args = parser.parse_args()
    pairs = read_set(args.folder)
    segmenter = fewseg.Segmenter.from_pretrained()
    for image, mask in pairs[: args.examples]:
        segmenter.teach(
            "label", image.resize(SIZE), Image.fromarray(mask).resize(SIZE, Image.Resampling.NEAREST), value=1
        )
    queries = [image.resize(SIZE) for image, _ in pairs[-QUERIES:]]
    frozen = median_seconds(segmenter, queries)
    began = time.perf_counter()
    segmenter.adapt(force=True)
    fit = time.perf_counter() - began
    adapted = median_seconds(segmenter, queries)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{args.examples} examples of {SIZE[0]} x {SIZE[1]}: fit {fit:.1f} s, query {frozen:.3f} s as taught, "
        f"{adapted:.3f} s adapted, peak memory {memory:.1f} GiB"
    )


if __name__ == "__main__":
    main()
