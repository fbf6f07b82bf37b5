"""CVAT's auto-annotation function, driven by CVAT's own package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image, ImageDraw

from fewseg.core.errors import InvalidOption, InvalidSupport
from fewseg.inference.segmenter import Segmenter
from fewseg.integrations.cvat import FewsegFunction, create, encode_mask
from helpers.colour_method import COLOURS, ColourMethod, blob, iou, write_support
from helpers.touching import chain

sdk = pytest.importorskip("cvat_sdk.auto_annotation", reason="needs cvat-sdk: pip install 'fewseg[cvat]'")
masks = pytest.importorskip("cvat_sdk.masks")


@dataclass
class Context(sdk.DetectionFunctionContext):  # type: ignore[misc, name-defined]
    frame_name: str = "frame.png"
    conf_threshold: float | None = None
    conv_mask_to_poly: bool = False


def taught() -> Segmenter:
    segmenter = Segmenter(ColourMethod(), device="cpu")
    for label in ("red", "blue"):
        segmenter.teach(label, *blob(label))
    return segmenter


def function(**options: Any) -> FewsegFunction:
    return FewsegFunction(taught(), **options)


@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=12)).filter(lambda mask: mask.any()))
def test_masks_are_what_cvat_reads(mask: np.ndarray) -> None:
    height, width = mask.shape
    decoded = masks.decode_mask(encode_mask(mask), image_width=width, image_height=height)
    np.testing.assert_array_equal(decoded, mask)
    assert encode_mask(mask) == masks.encode_mask(mask)


def test_the_spec_names_the_labels() -> None:
    spec = function().spec
    assert isinstance(spec, sdk.DetectionFunctionSpec)
    assert [(label.name, label.id, label.type) for label in spec.labels] == [("red", 0, "mask"), ("blue", 1, "mask")]


def test_detects_masks() -> None:
    image, truth = blob("blue", size=(140, 90))
    (shape,) = [s for s in function().detect(Context(), image) if s.label_id == 1]
    assert (shape.type.value, shape.frame) == ("mask", 0)
    found = masks.decode_mask(shape.points, image_width=140, image_height=90)
    assert iou(found, truth) > 0.9


def test_polygons_where_cvat_asks_for_them() -> None:
    image, truth = blob("red", size=(140, 90))
    shapes = function().detect(Context(conv_mask_to_poly=True), image)
    drawn = Image.new("1", image.size)
    for shape in shapes:
        assert shape.type.value == "polygon"
        if shape.label_id == 0:
            ImageDraw.Draw(drawn).polygon(
                [(x - 0.5, y - 0.5) for x, y in zip(*[iter(shape.points)] * 2, strict=True)], fill=1
            )
    assert iou(np.asarray(drawn), truth) > 0.9


def test_cvats_threshold_counts() -> None:
    image = blob("red")[0]
    scores = taught().segment(image).scores
    assert scores["blue"] < scores["red"]
    between = (scores["blue"] + scores["red"]) / 2
    assert [s.label_id for s in function().detect(Context(conf_threshold=between), image)] == [0]
    assert function().detect(Context(conf_threshold=1.01), image) == []


def test_regions_can_be_shapes_of_their_own() -> None:
    image = blob("red", "red", "red", size=(200, 64))[0]
    together = [s for s in function().detect(Context(), image) if s.label_id == 0]
    apart = [s for s in function(split=True).detect(Context(), image) if s.label_id == 0]
    assert (len(together), len(apart)) == (1, 3)


def test_masks_fit_frames_whose_exif_says_turned() -> None:
    image = blob("red", size=(120, 60))[0]
    image.getexif()[0x0112] = 6
    for shape in function().detect(Context(), image):
        masks.decode_mask(shape.points, image_width=120, image_height=60)
    assert image.getexif()[0x0112] == 6


def test_cvats_driver_accepts_and_maps_what_is_found() -> None:
    driver = pytest.importorskip("cvat_sdk.auto_annotation.driver")
    models = pytest.importorskip("cvat_sdk.models")
    wrapped, image = function(), blob("red")[0]
    labels = [
        models.Label(name=name, id=70 + n, type="mask", attributes=[], sublabels=[])
        for n, name in enumerate(["red", "blue"])
    ]
    mapper = driver._AnnotationMapper(
        driver.logging.getLogger(), wrapped.spec.labels, labels, allow_unmatched_labels=False, conv_mask_to_poly=False,
        spec_nm=driver._SpecNameMapping(),
    )  # fmt: skip
    shapes = list(wrapped.detect(Context(), image))
    mapper.validate_and_remap(shapes, 5)
    assert shapes[0].label_id == 70
    assert shapes[0].frame == 5


def test_created_as_the_command_line_does(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="taught=str:FILE"):
        create()
    with pytest.raises(InvalidSupport, match="taught nothing"):
        FewsegFunction(Segmenter(ColourMethod(), device="cpu"))
    segmenter = Segmenter.from_pretrained(device="cpu")
    segmenter.teach("red", *blob("red"))
    segmenter.save(tmp_path / "taught.fewseg")
    made = create(taught=str(tmp_path / "taught.fewseg"), device="cpu")
    assert [label.name for label in made.spec.labels] == ["red"]


def test_labels_of_a_folder_with_enough_examples_are_adapted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted: list[str | None] = []
    monkeypatch.setattr(Segmenter, "adapt", lambda self, label=None, **options: fitted.append(label))
    monkeypatch.setattr(Segmenter, "from_pretrained", lambda *given, **options: Segmenter(ColourMethod(), **options))
    write_support(tmp_path, "red", shots=5)
    write_support(tmp_path, "blue", shots=2)
    create(support=str(tmp_path), device="cpu")
    assert fitted == ["red"]
    create(support=str(tmp_path), device="cpu", adapt=False)
    assert fitted == ["red"]


@pytest.mark.parametrize("polygons", [False, True])
def test_objects_that_touch_become_shapes_of_their_own(polygons: bool) -> None:
    pair = np.pad(chain(2, 14.0), 10)
    pixels = np.full((*pair.shape, 3), 128, np.uint8)
    pixels[pair > 0] = COLOURS["red"]
    segmenter = Segmenter(ColourMethod(), device="cpu")
    segmenter.teach("red", pixels, pair, value="instances")
    context, image = Context(conv_mask_to_poly=polygons), Image.fromarray(pixels)
    assert len(FewsegFunction(segmenter, split=True).detect(context, image)) == 2
    assert len(FewsegFunction(segmenter).detect(context, image)) == 1
    segmenter.set_kind("red", "stuff")
    assert len(FewsegFunction(segmenter, split=True).detect(context, image)) == 1
