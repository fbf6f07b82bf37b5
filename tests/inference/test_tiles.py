"""Tiles: they cover every pixel once, show no seam, and find what is too small for the whole image."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fewseg.batch import BatchOptions, segment_files
from fewseg.core.errors import InvalidOption, InvalidSupport
from fewseg.inference.segmenter import Segmenter
from fewseg.inference.tiles import segment_tiled, teach_tiled
from fewseg.inference.tiling import crops, spans
from helpers.colour_method import COLOURS, ColourMethod, blob, iou


@pytest.fixture
def segmenter() -> Segmenter:
    made = Segmenter(ColourMethod(), device="cpu")
    for name in ("red", "blue"):
        made.teach(name, *blob(name))
    return made


def scattered(size: tuple[int, int], radius: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A grey image (width, height) with small red discs, and where they are."""
    width, height = size
    pixels = np.full((height, width, 3), 128, np.uint8)
    rows, columns = np.mgrid[:height, :width]
    truth = np.zeros((height, width), bool)
    for x, y in np.random.default_rng(seed).random((12, 2)) * (width, height):
        truth |= (columns - x) ** 2 + (rows - y) ** 2 <= radius**2
    pixels[truth] = COLOURS["red"]
    return pixels, truth


@given(st.integers(1, 900), st.integers(32, 400), st.floats(0, 0.75))
def test_shares_add_up_to_one_everywhere(total: int, side: int, overlap: float) -> None:
    found = spans(total, side, overlap)
    whole = np.zeros(total, np.float32)
    for span in found:
        assert len(span.weights) == span.length == min(side, total)
        assert span.weights.min() > 0
        whole[span.start : span.end] += span.weights
    np.testing.assert_allclose(whole, 1, rtol=1.3e-6, atol=1e-5)
    assert (found[0].start, found[-1].end) == (0, total)
    for one, other in pairwise(found):
        assert one.end - other.start >= int(min(side, total) * overlap)
        assert other.start > one.start


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 150), st.integers(1, 150), st.integers(32, 100), st.floats(0, 0.75))
def test_blended_probabilities_are_the_weighted_mean(width: int, height: int, side: int, overlap: float) -> None:
    """Against a plain sum over all tiles at once."""
    made = Segmenter(ColourMethod(), device="cpu")
    made.teach("red", *blob("red"))
    pixels, _ = scattered((width, height), 9)
    found = segment_tiled(made, pixels, tile=side, overlap=overlap)
    total, weight = np.zeros((height, width)), np.zeros((height, width))
    for row in spans(height, side, overlap):
        for column in spans(width, side, overlap):
            here = np.s_[row.start : row.end, column.start : column.end]
            share = np.outer(row.weights, column.weights)
            total[here] += share * made.segment(pixels[here]).probabilities["red"]
            weight[here] += share
    np.testing.assert_allclose(found.probabilities["red"], total / weight, atol=1e-5)
    np.testing.assert_array_equal(found.masks["red"], found.probabilities["red"] >= 0.5)
    np.testing.assert_array_equal(found.label_map, found.masks["red"])


def test_one_tile_is_the_whole_image(segmenter: Segmenter) -> None:
    image, _ = blob("red", "blue", size=(120, 80))
    whole, tiled = segmenter.segment(image), segment_tiled(segmenter, image, tile=120)
    for label in segmenter.labels:
        np.testing.assert_allclose(tiled.probabilities[label], whole.probabilities[label], atol=1e-6)
        assert tiled.scores[label] == pytest.approx(whole.scores[label])
    assert tiled.present == whole.present


def test_small_objects_in_large_images(segmenter: Segmenter) -> None:
    pixels, truth = scattered((900, 700), 6)
    assert iou(segmenter.segment(pixels).masks["red"], truth) < 0.7
    for batch_size in (1, 5):
        found = segment_tiled(segmenter, pixels, batch_size=batch_size, probabilities=False)
        assert iou(found.masks["red"], truth) > 0.95
        assert not found.probabilities
        assert found.present == {"red": True, "blue": False}


def test_no_seams(segmenter: Segmenter) -> None:
    pixels = np.full((300, 300, 3), 128, np.uint8)
    pixels[:, 100:200] = COLOURS["blue"]
    found = segment_tiled(segmenter, pixels, tile=80).probabilities["blue"]
    np.testing.assert_allclose(found, np.broadcast_to(found[:1], found.shape), atol=1e-5)  # no tile's edge shows


def test_examples_are_cut_to_the_scale_of_tiles(segmenter: Segmenter) -> None:
    mask = np.zeros((1000, 1500), bool)
    mask[40:60, 700:730] = True
    mask[900:915, 100:120] = True
    found = crops(mask, 64)
    assert [box[2:] for box in found] == [(64, 64)] * 2
    for (left, top, width, height), (y, x) in zip(found, ((50, 715), (907, 110)), strict=True):
        assert left < x - 10 < x + 10 < left + width
        assert top < y - 8 < y + 8 < top + height
    assert crops(np.ones((30, 40), bool), 64) == [(0, 0, 40, 30)]
    made = Segmenter(ColourMethod(), device="cpu")
    pixels = np.full((1000, 1500, 3), 128, np.uint8)
    pixels[mask] = COLOURS["red"]
    assert teach_tiled(made, "red", pixels, mask) == made.shots("red") == 2
    assert iou(segment_tiled(made, pixels).masks["red"], mask) > 0.85


@given(st.integers(1, 200), st.integers(1, 200), st.integers(32, 150), st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_crops_lie_in_the_image(height: int, width: int, side: int, seed: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < 0.02
    boxes = crops(mask, side)
    assert 1 <= len(boxes) <= 4
    for left, top, wide, tall in boxes:
        assert 0 <= left <= width - wide
        assert 0 <= top <= height - tall
        assert (wide, tall) == (min(side, width), min(side, height))


def test_files(segmenter: Segmenter, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    pixels, truth = scattered((500, 400), 6)
    Image.fromarray(pixels).save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "broken.jpg").write_bytes(b"no")
    seen: list[tuple[int, int, str]] = []
    options = BatchOptions(tile="auto")
    report = segment_files(
        segmenter, [tmp_path / "in"], tmp_path / "out", options=options, progress=lambda *a: seen.append(a)
    )
    assert (report.done, report.skipped, [Path(p).name for p, _ in report.errors]) == (1, 0, ["broken.jpg"])
    assert seen[-1] == (2, 2, "broken.jpg")
    assert iou(np.asarray(Image.open(tmp_path / "out" / "masks" / "red" / "a.png")), truth) > 0.95
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (content["options"]["tile"], content["options"]["overlap"]) == (64, 0.25)
    assert segment_files(segmenter, [tmp_path / "in"], tmp_path / "out", options=options).skipped == 1
    other = BatchOptions(tile=100, overlap=0.5)
    assert segment_files(segmenter, [tmp_path / "in"], tmp_path / "out", options=other).done == 1


def test_bad_tiles(segmenter: Segmenter) -> None:
    image, _ = blob("red")
    for tile, overlap in ((5, 0.25), (0, 0.25), ("big", 0.25), (64, -0.1), (64, 0.9), (64, float("nan"))):
        with pytest.raises(InvalidOption, match=r"tiles of|overlap"):
            segment_tiled(segmenter, image, tile=tile, overlap=overlap)  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match="batch size"):
        segment_tiled(segmenter, image, batch_size=-1)
    with pytest.raises(InvalidSupport, match="nothing has been taught"):
        segment_tiled(Segmenter(ColourMethod(), device="cpu"), image)


def test_memory_is_that_of_masks_and_a_row_of_tiles() -> None:
    """An image of 96 MB, masks of 96 MB, a row of tiles of 72 MB: no second image and no second row."""
    program = """if True:
        import resource
        import torch
        from PIL import Image
        from fewseg.inference.segmenter import Segmenter
        from fewseg.inference.tiles import segment_tiled
        from helpers.colour_method import ColourMethod, blob

        torch.set_num_threads(1)
        made = Segmenter(ColourMethod(), device="cpu")
        for label in ("red", "blue"):
            made.teach(label, *blob(label))
        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        segment_tiled(made, Image.new("RGB", (1600, 1600)), tile=1500, probabilities=False)
        image = Image.new("RGB", (6000, 4000), (200, 30, 30))
        before = peak()
        segment_tiled(made, image, tile=1500, probabilities=False)
        print(peak() - before)
    """
    folder = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])},
    )
    assert int(done.stdout) < 96 + 72 + 80
