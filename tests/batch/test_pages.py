"""Pages of TIFFs and frames of animations as images of a run; endings; ranges of values."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewseg.batch import BatchOptions, BatchReport, segment_files
from fewseg.formats import write_results
from fewseg.images import set_range
from fewseg.inference.segmenter import Segmenter
from helpers.colour_method import ColourMethod, blob, iou


@pytest.fixture(autouse=True)
def _no_range() -> Iterator[None]:
    yield
    set_range(None)


@pytest.fixture
def segmenter() -> Segmenter:
    made = Segmenter(ColourMethod(), device="cpu")
    made.teach("red", *blob("red"))
    return made


def stack(path: Path, count: int = 3, kind: str | None = None) -> list[np.ndarray]:
    """A file of several images, each with the disc elsewhere; gives their masks."""
    pairs = [blob("red", place=0.3 + 0.2 * i) for i in range(count)]
    first, *others = [image for image, _ in pairs]
    first.save(path, kind, save_all=True, append_images=others)
    return [mask > 0 for _, mask in pairs]


def run(made: Segmenter, query: Path, out: Path, **options: object) -> BatchReport:
    return segment_files(made, [query], out, options=BatchOptions(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize("ending", ["tif", "webp"])
def test_every_page_is_an_image(tmp_path: Path, segmenter: Segmenter, ending: str) -> None:
    (tmp_path / "in").mkdir()
    masks = stack(tmp_path / "in" / f"q.{ending}")
    blob("red")[0].save(tmp_path / "in" / "one.tif")
    out = tmp_path / "out"
    assert run(segmenter, tmp_path / "in", out, pages=True).done == 4
    for number, mask in enumerate(masks):
        found = np.asarray(Image.open(out / f"masks/red/q-{number:06d}.png")) > 0
        assert iou(found, mask) > 0.7
    listed = json.loads((out / "results.json").read_text())["pictures"]
    assert [Path(entry["picture"]).name for entry in listed] == ["one.tif", *(f"q-{n:06d}.tif" for n in range(3))]
    write_results(out, ["yolo", "overlays"])  # which need the images
    assert run(segmenter, tmp_path / "in", out, pages=True).skipped == 4
    stack(tmp_path / "in" / f"q.{ending}", 2)
    os.utime(tmp_path / "in" / f"q.{ending}", (10**9, 10**9))
    assert run(segmenter, tmp_path / "in", out, pages=True).done == 2


def test_two_stacks_of_one_name_and_a_damaged_one(tmp_path: Path, segmenter: Segmenter) -> None:
    for folder in ("a", "b", "c"):
        (tmp_path / "in" / folder).mkdir(parents=True)
        stack(tmp_path / "in" / folder / "q.tif", 2)
    whole = (tmp_path / "in" / "c" / "q.tif").read_bytes()
    (tmp_path / "in" / "c" / "q.tif").write_bytes(whole[: len(whole) * 3 // 4])
    report = run(segmenter, tmp_path / "in", tmp_path / "out", pages=True)
    assert report.done >= 4
    assert len({p.name for p in (tmp_path / "out" / "labels").iterdir()}) == report.done
    assert not report.errors or "c/q.tif" in report.errors[0][0]


def test_without_pages_the_log_says_what_is_left_out(
    tmp_path: Path, segmenter: Segmenter, caplog: pytest.LogCaptureFixture
) -> None:
    stack(tmp_path / "q.tif", 10)
    with caplog.at_level(logging.WARNING):
        assert run(segmenter, tmp_path / "q.tif", tmp_path / "out").done == 1
    assert "q.tif: only the first of its 10 pages is used; fewseg segment --pages" in caplog.text


def test_endings_of_images(tmp_path: Path, segmenter: Segmenter, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "in").mkdir()
    for name, kind in (
        ("a.jfif", "JPEG"),
        ("b.avif", "AVIF"),
        ("c.JPE", "JPEG"),
        ("d.pnm", "PPM"),
        ("e.j2k", "JPEG2000"),
    ):
        blob("red")[0].save(tmp_path / "in" / name, kind)
    for name in ("f.dng", "g.psd", "h.psd", "i.npy", "notes.txt"):
        (tmp_path / "in" / name).write_bytes(b"x")
    with caplog.at_level(logging.WARNING):
        assert run(segmenter, tmp_path / "in", tmp_path / "out").done == 5
    assert (
        "left out: 1 .dng (save them as JPEG or TIFF), 1 .npy (save the arrays as PNG or TIFF), 2 .psd" in caplog.text
    )


def test_results_of_another_range_are_made_again(tmp_path: Path, segmenter: Segmenter) -> None:
    blob("red")[0].save(tmp_path / "q.png")
    assert run(segmenter, tmp_path / "q.png", tmp_path / "out").done == 1
    set_range((0, 4095))
    assert run(segmenter, tmp_path / "q.png", tmp_path / "out").done == 1
    assert run(segmenter, tmp_path / "q.png", tmp_path / "out").skipped == 1
    assert json.loads((tmp_path / "out/results.json").read_text())["options"]["range"] == [0, 4095]
