"""Mean IoU of one label for a growing number of shots, measured on held-out images.

    python examples/how_many_shots.py LABEL_FOLDER [--tests 5]

LABEL_FOLDER holds images and masks as for `fewseg segment` (name.jpg with name.png). The last images, by name, are
held out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import fewseg
from fewseg.images import read_mask


def iou(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    return float((found & truth).sum() / max((found | truth).sum(), 1))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tests", type=int, default=5, help="images held out for measuring")
    args = parser.parse_args()
    images = sorted(p for p in args.folder.glob("*.jpg") if p.with_suffix(".png").exists())
    if len(images) <= args.tests:
        print(f"{args.folder} has {len(images)} images with masks: need more than --tests {args.tests}")
        return 2
    shots, tests = images[: -args.tests], images[-args.tests :]
    segmenter = fewseg.Segmenter.from_pretrained()
    for number, image in enumerate(shots, 1):
        segmenter.teach("object", image, image.with_suffix(".png"))
        scores = [
            iou(segmenter.segment(test).masks["object"], read_mask(test.with_suffix(".png")) == 1) for test in tests
        ]
        print(f"{number} shots: mean IoU {np.mean(scores):.2f} over {len(tests)} images")
    return 0


if __name__ == "__main__":
    sys.exit(main())
