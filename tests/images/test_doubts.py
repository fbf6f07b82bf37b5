"""What is asked about examples before they are taught."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from fewseg.images.doubts import label_doubt, mask_doubt
from fewseg.inference.segmenter import Segmenter
from fewseg.inference.tiles import teach_tiled
from helpers.colour_method import ColourMethod, blob


def disc() -> np.ndarray:
    return blob("red")[1] // 255


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (disc(), ""),
        (1 - disc(), "inverted"),
        (np.ones((64, 96), np.uint8), "whole image"),
        (np.where(disc() == 1, 1, 255).astype(np.uint8), "whole image"),
        (np.pad(np.ones((40, 96), np.uint8), ((24, 0), (0, 0))), ""),  # the ground below a horizon
        (np.pad(np.ones((62, 94), np.uint8), 1), ""),  # an object that fills the image but for its edge
    ],
)
def test_masks(mask: np.ndarray, said: str) -> None:
    doubt = mask_doubt(mask)
    assert said in doubt
    assert bool(doubt) == bool(said)


@pytest.mark.parametrize(
    ("label", "known", "said"),
    [
        ("cat", ["dog"], ""),
        ("cat", ["Cat"], "case or blanks"),
        ("cat ", ["cat"], "case or blanks"),
        ("trafficlight", ["traffic light"], "case or blanks"),
        ("train", ["bus"], ""),
        ("train", ["valid"], "part of a data set"),
        ("Test", [], "part of a data set"),
    ],
)
def test_labels(label: str, known: list[str], said: str) -> None:
    doubt = label_doubt(label, known)
    assert said in doubt
    assert bool(doubt) == bool(said)


def test_doubts_are_said_once_and_can_be_silenced(caplog: pytest.LogCaptureFixture) -> None:
    image, mask = blob("red")
    for check in (False, True):
        segmenter = Segmenter(ColourMethod(), device="cpu")
        segmenter.teach("red", image, mask, check=check)
        segmenter.teach("Red", image, 255 - mask, check=check)
        teach_tiled(segmenter, "Red", image, 255 - mask, tile=40, check=check)
        lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        assert len(lines) == (3 if check else 0)
    assert all("if it is meant, say so with --accept-doubtful (in Python check=False)" in line for line in lines)
    assert segmenter.labels == ("red", "Red")
