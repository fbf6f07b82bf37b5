"""Overlays and sheets."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from fewseg.core.errors import InvalidImage, InvalidMask
from fewseg.images.draw import PALETTE, contact_sheet, grown, label_colours, overlay
from fewseg.images.read import fitted
from fewseg.inference.postprocess import full_size_prediction
from fewseg.inference.segmenter import Segmenter
from helpers.colour_method import ColourMethod, blob


def test_fitted_grows_only_when_asked() -> None:
    image = Image.new("RGB", (40, 3))
    assert fitted(image, 80).size == (80, 6)
    assert fitted(image, 80, enlarge=False) is image
    assert fitted(image, 10, enlarge=False).size == (10, 1)


def test_masks_are_tinted_and_the_rest_is_left_alone() -> None:
    image, mask = blob("red")
    drawn = np.asarray(overlay(image, {"red": mask}, legend=False)).astype(int)
    before = np.asarray(image).astype(int)
    far = ~grown(mask > 0, 4)
    np.testing.assert_array_equal(drawn[far], before[far])
    centre = drawn[32, 48]
    expected = before[32, 48] * 0.55 + np.array(label_colours(["red"])["red"]) * 0.45
    assert np.abs(centre - expected).max() <= 1
    outline = (mask > 0) & grown(mask == 0, 1)
    assert (drawn[outline] == label_colours(["red"])["red"]).all()


def test_given_colours_and_opacity() -> None:
    image, mask = blob("red")
    drawn = np.asarray(overlay(image, {"red": mask > 0}, {"red": (1, 2, 3)}, opacity=1.0, legend=False))
    assert (drawn[mask > 0] == (1, 2, 3)).all()


def test_labels_that_are_not_present_are_outlines() -> None:
    image, _ = blob("red")
    segmenter = Segmenter(ColourMethod(sharpness=0.2), device="cpu", presence_threshold=1.0)
    segmenter.teach("red", *blob("red"))
    result = segmenter.segment(image)
    assert not result.present["red"]
    drawn = np.asarray(overlay(image, result, legend=False))
    assert drawn[32, 48].tolist() == np.asarray(image)[32, 48].tolist()
    assert (drawn != np.asarray(image)).any()


def test_overlapping_labels_do_not_hide_each_other() -> None:
    coarse = torch.tensor([[[0.9, 0.6]], [[0.6, 0.9]]])
    result = full_size_prediction(coarse, ["a", "b"], (80, 40))
    assert result.masks["a"].all() and result.masks["b"].all()  # noqa: PT018 - one premise
    drawn = np.asarray(overlay(Image.new("RGB", (80, 40)), result, {"a": (200, 0, 0), "b": (0, 200, 0)}))
    assert (drawn[20, 5, 0] > 80, drawn[20, 5, 1]) == (True, 0)
    assert (drawn[20, 75, 0], drawn[20, 75, 1] > 80) == (0, True)


def test_legend_only_where_there_is_room() -> None:
    image, mask = blob("red", size=(300, 200))
    legend, plain = (np.asarray(overlay(image, {"red": mask}, legend=on)).astype(int) for on in (True, False))
    assert np.abs(legend - plain)[-60:, :120].max() > 50
    assert np.abs(legend - plain)[:100].max() == 0
    tiny, tiny_mask = blob("red", size=(40, 30))
    np.testing.assert_array_equal(overlay(tiny, {"a": tiny_mask}), overlay(tiny, {"a": tiny_mask}, legend=False))


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (64, 64), (70, 3000)])
@pytest.mark.parametrize("labels", [1, 40])
def test_any_size_and_number_of_labels(size: tuple[int, int], labels: int) -> None:
    mask = np.ones((size[1], size[0]), bool)
    names = [f"a label with a very long name\n number {i} ünï" for i in range(labels)]
    assert overlay(Image.new("RGB", size), dict.fromkeys(names, mask)).size == size


def test_no_labels() -> None:
    assert overlay(Image.new("RGB", (90, 80)), {}).size == (90, 80)


def test_mask_of_another_size() -> None:
    with pytest.raises(InvalidMask, match="'a' is 5x4, the image 7x9"):
        overlay(Image.new("RGB", (7, 9)), {"a": np.ones((4, 5))})


def test_colours_are_distinct() -> None:
    colours = list(label_colours([str(i) for i in range(3 * len(PALETTE))]).values())
    assert min(np.abs(np.subtract(a, b)).sum() for a, b in itertools.combinations(colours, 2)) > 40


@pytest.mark.parametrize("radius", [1, 2, 5])
def test_grown(radius: int) -> None:
    mask = np.zeros((20, 30), bool)
    mask[9, 14] = mask[0, 0] = True
    expected = np.zeros_like(mask)
    expected[9 - radius : 10 + radius, 14 - radius : 15 + radius] = True
    expected[: radius + 1, : radius + 1] = True
    np.testing.assert_array_equal(grown(mask, radius), expected)


def test_sheet() -> None:
    images = [Image.new("RGB", (100, 50), "red"), Image.new("RGB", (50, 100), "blue"), np.zeros((30, 30), np.uint8)]
    sheet = contact_sheet(images, ["wide", "tall", "a very long title that does not fit at all"], columns=2, side=64)
    assert sheet.width == 2 * 64 + 3 * 2
    pixels = np.asarray(sheet).reshape(-1, 3).tolist()
    for colour in ([255, 0, 0], [0, 0, 255], [0, 0, 0], [255, 255, 255]):
        assert colour in pixels
    assert contact_sheet(images * 3, side=10).width == 3 * 10 + 4 * 2
    assert contact_sheet(images[:1], columns=9, side=10).width == 10 + 2 * 2


def test_sheet_errors() -> None:
    with pytest.raises(InvalidImage, match="no images"):
        contact_sheet([])
    with pytest.raises(InvalidImage, match="1 titles for 2 images"):
        contact_sheet([Image.new("L", (2, 2))] * 2, ["a"])
