"""Boxes, points and scribbles in place of masks: what they are read from, what they become, what is refused."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fewseg.core.errors import FewsegError, InvalidMask, InvalidOption, InvalidSupport
from fewseg.formats import read_supports
from fewseg.formats.mask_folders import read_mask_folders
from fewseg.images import open_image
from fewseg.images.prompts import Prompt, read_prompts
from fewseg.inference.segmenter import Segmenter
from fewseg.inference.self_support import SelfSupport, region_features
from fewseg.models.backbones.capture import maps_seen
from fewseg.models.methods import FewShotMethod
from helpers.colour_method import ColourMethod, blob, iou

pytest.importorskip("skimage")

SIZE = (240, 160)
BOX = (40, 30, 120, 120)
WAYS: dict[str, dict[str, Any]] = {
    "box": {"box": BOX},
    "points": {"points": [(80, 75, 1), (200, 75, 0)]},
    "scribble": {"scribble": [(60, 75), (80, 60), (100, 75)]},
    "two lines": {"scribble": [[(60, 75), (80, 60)], [(100, 75)]]},
}


def scene(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A red disc on blue noise, and where it is."""
    rng = np.random.default_rng(seed)
    pixels = rng.normal((40, 60, 200), 8, (SIZE[1], SIZE[0], 3))
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    disc = (x - 80) ** 2 + (y - 75) ** 2 <= 38**2
    pixels[disc] += (170, -30, -170)
    return pixels.clip(0, 255).astype(np.uint8), disc


def segmenter() -> Segmenter:
    return Segmenter(ColourMethod(), device="cpu")


@pytest.fixture(scope="module")
def embedded() -> FewShotMethod:
    return Segmenter.from_pretrained(device="cpu").method


# ------------------------------------------------------------------------------------------------- teaching


@pytest.mark.parametrize("way", WAYS)
def test_what_is_marked_is_outlined_and_taught(way: str, embedded: FewShotMethod) -> None:
    pixels, disc = scene()
    made = Segmenter(embedded, device="cpu")
    mask = made.mask_from_prompt(pixels, **WAYS[way])
    assert mask.shape == disc.shape
    assert mask.dtype == bool
    assert iou(mask, disc) > (0.95 if way == "box" else 0.8)  # the box itself: 0.63
    made.teach("disc", pixels, **WAYS[way])
    made.teach("painted", pixels, mask)
    assert made._supports["disc"].digests == made._supports["painted"].digests  # the very same example
    assert iou(made.segment(scene(1)[0]).masks["disc"], disc) > 0.8


def test_a_rough_mask_is_an_example_of_its_own_image(embedded: FewShotMethod) -> None:
    """What `SelfSupport` computes with shared maps is what teaching and segmenting the same image give."""
    pixels, disc = scene()
    rough = disc & (np.mgrid[: SIZE[1], : SIZE[0]][1] < 85)
    plain = Segmenter(embedded, device="cpu")
    square = Image.fromarray(pixels).resize((384, 384), Image.Resampling.BILINEAR)
    small = np.asarray(Image.fromarray(rough.astype(np.uint8)).resize((384, 384), Image.Resampling.NEAREST))
    plain.teach("disc", square, small, value=1)
    expected = plain.predict(plain.encode([plain.preprocess(square)]))[0][0].numpy()
    known = SelfSupport(embedded, open_image(square))
    values = known.like(small == 1)
    assert values is not None
    np.testing.assert_allclose(values, expected, atol=1e-4)
    half = known.like(small[:, :288] == 1, (0, 0, 0.75, 1))  # cut out of the whole image
    np.testing.assert_allclose(half, values[:, :288], atol=1e-4)
    assert known.like(np.zeros((384, 384), bool)) is None
    corner = (0.25, 0.25, 0.5, 0.75)  # encoded by itself
    part = known.like(np.ones((20, 10), bool), corner)
    assert part is not None
    assert part.shape == (20, 10)


@pytest.mark.parametrize("way", WAYS)
def test_what_a_label_was_taught_helps(way: str, embedded: FewShotMethod) -> None:
    """The prompted disc is half red and half green; only an example tells that both halves belong to it."""
    pixels, disc = scene()
    two = pixels.copy()
    right = disc & (np.mgrid[: SIZE[1], : SIZE[0]][1] >= 85)
    two[right] = (200, 190, 40)
    made = Segmenter(embedded, device="cpu")
    made.teach("disc", two[::-1].copy(), disc[::-1].copy())
    alone, helped = made.mask_from_prompt(two, **WAYS[way]), made.mask_from_prompt(two, **WAYS[way], label="disc")
    assert iou(helped, disc) > 0.9
    assert iou(helped, disc) >= iou(alone, disc) - 0.02
    again = Segmenter(embedded, device="cpu").with_supports(made.supports)
    again.teach("disc", two, **WAYS[way])  # by its own examples, too
    made.teach("disc", two, helped)
    assert again.fingerprint == made.fingerprint


def test_a_label_that_was_not_taught_is_refused(embedded: FewShotMethod) -> None:
    made = segmenter()
    with pytest.raises(InvalidSupport, match="no label 'disc'"):
        made.mask_from_prompt(scene()[0], box=BOX, label="disc")


def test_a_place_outside_takes_back_what_is_like_it(embedded: FewShotMethod) -> None:
    pixels, disc = scene()
    made = Segmenter(embedded, device="cpu")
    pixels[60:100, 150:190] = (60, 160, 60)
    wide = [(80, 75, 1), (170, 80, 1)]
    mask = made.mask_from_prompt(pixels, points=wide)
    assert mask[80, 170]
    narrow = made.mask_from_prompt(pixels, points=[(80, 75, 1), (170, 80, 0)])
    assert not narrow[62:98, 152:188].any()
    assert iou(narrow, disc) > 0.8


def test_regions_are_told_apart_by_the_models_features(embedded: FewShotMethod) -> None:
    made = Segmenter(embedded, device="cpu")
    pixels, _ = scene()
    inputs = made.preprocess(pixels).inputs[0][None]
    with maps_seen(made.method.backbone) as maps:
        made.method.encode_query(inputs)
    features = region_features(maps, inputs)
    assert features.shape[1] > 3  # not colours
    torch.testing.assert_close(features.float().norm(dim=1), torch.ones(1, *features.shape[2:]), atol=2e-3, rtol=0)
    assert not made.method.backbone._forward_hooks


def test_features_are_not_mixed_up_between_threads(embedded: FewShotMethod) -> None:
    """A server outlines and segments with one backbone at the same time."""
    made = Segmenter(embedded, device="cpu", precision="float32")  # or this calls the backbone in another
    mine, others = (made.preprocess(scene(seed)[0]).inputs[0][None] for seed in (0, 1))
    with torch.no_grad():
        expected = made.method.backbone(mine)
        with maps_seen(made.method.backbone) as maps:
            other = threading.Thread(target=made.method.encode_query, args=(others,))
            other.start()
            other.join()
            assert not maps
            made.method.encode_query(mine)
    assert len(maps) == len(expected)
    for seen, right in zip(maps, expected, strict=True):
        torch.testing.assert_close(seen, right)


def test_coordinates_are_of_the_upright_image(tmp_path: Path, embedded: FewShotMethod) -> None:
    pixels, disc = scene()
    exif = Image.Exif()
    exif[274] = 6  # shown turned by a quarter, clockwise
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    upright = np.rot90(disc, -1)
    rows, columns = np.nonzero(upright)
    box = (columns.min() - 2, rows.min() - 2, columns.max() + 3, rows.max() + 3)
    mask = Segmenter(embedded, device="cpu").mask_from_prompt(tmp_path / "turned.png", box=box)
    assert mask.shape == upright.shape
    assert iou(mask, upright) > 0.9


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_a_mask_stays_in_its_box_and_holds_what_is_marked(data: st.DataObject) -> None:
    width, height = data.draw(st.integers(2, 60)), data.draw(st.integers(2, 60))
    pixels = np.random.default_rng(data.draw(st.integers(0, 9))).integers(0, 255, (height, width, 3), np.uint8)
    made = segmenter()
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x1, y1 = data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height))
    mask = made.mask_from_prompt(pixels, box=(x0, y0, x1, y1))
    outside = mask.copy()
    outside[y0:y1, x0:x1] = False
    assert not outside.any()
    clicked = made.mask_from_prompt(pixels, points=[(x0 + 0.5, y0 + 0.5, 1)])
    assert clicked[y0, x0]


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({}, InvalidSupport, "exactly one of mask, box, points and scribble"),
        ({"box": BOX, "points": [(1, 2, 1)]}, InvalidSupport, "exactly one"),
        ({"mask": np.ones(SIZE[::-1], bool), "box": BOX}, InvalidSupport, "exactly one"),
        ({"box": BOX, "value": 3}, InvalidOption, "value 3"),
        ({"box": (1, 2, 3)}, InvalidSupport, "4 finite numbers, x0, y0, x1, y1"),
        ({"box": (20, 2, 10, 30)}, InvalidSupport, "x0 < x1"),
        ({"box": (1, 2, float("nan"), 30)}, InvalidSupport, "finite"),
        ({"box": "1,2,3,4"}, InvalidSupport, "4 finite numbers"),
        ({"box": 7}, InvalidSupport, "4 finite numbers"),
        ({"box": (500, 2, 600, 30)}, InvalidOption, "image of 240x160"),
        ({"box": (1e300, 2, 2e300, 30)}, InvalidOption, "box 1e\\+300, 2, 2e\\+300, 30 in an image"),
        ({"points": []}, InvalidSupport, "give a list"),
        ({"points": 3}, InvalidSupport, "give a list"),
        ({"points": [(1, 2)]}, InvalidSupport, "3 finite numbers"),
        ({"points": [(1, 2, 5)]}, InvalidSupport, "1 where it is inside"),
        ({"points": [(1, 2, 0)]}, InvalidSupport, "no point is inside"),
        ({"points": [(1000, 2, 1)]}, InvalidSupport, "outside the image of 240x160"),
        ({"scribble": []}, InvalidSupport, "give a list"),
        ({"scribble": [[]]}, InvalidSupport, "2 finite numbers|give a list"),
        ({"scribble": [(1, 2, 3)]}, InvalidSupport, "2 finite numbers"),
        ({"scribble": "line"}, InvalidSupport, "give a list"),
        ({"scribble": [(-50, 2)]}, InvalidSupport, "outside the image"),
    ],
)
def test_what_cannot_be_meant_is_refused(given: dict[str, Any], error: type[FewsegError], words: str) -> None:
    made = segmenter()
    with pytest.raises(error, match=words) as caught:
        made.teach("disc", scene()[0], **given)
    assert "\n" not in str(caught.value)
    assert made.labels == ()


def test_marks_are_for_one_image() -> None:
    with pytest.raises(InvalidSupport, match="one by one"):
        segmenter().teach("disc", [scene()[0], scene(1)[0]], box=BOX)


# ---------------------------------------------------------------------------------------------------- files


def weak_folder(root: Path, content: object, image: str = "a.jpg") -> Path:
    (root / "disc").mkdir(parents=True)
    Image.fromarray(scene()[0]).save(root / "disc" / image, quality=95)
    text = content if isinstance(content, str) else json.dumps(content)
    (root / "disc" / "a.weak.json").write_text(text, "utf-8")
    return root


@pytest.mark.parametrize("picture", ["a.jpg", "a.png"])
def test_support_folders_hold_marks(tmp_path: Path, picture: str) -> None:
    root = weak_folder(tmp_path / "support", {"box": BOX}, picture)
    image, mask = blob("red", size=SIZE)
    image.save(root / "disc" / "b.jpg")
    Image.fromarray(mask).save(root / "disc" / "b.png")
    direct, by_format = segmenter(), segmenter()
    direct.teach("disc", root / "disc" / picture, direct.mask_from_prompt(root / "disc" / picture, box=BOX))
    direct.teach("disc", root / "disc" / "b.jpg", root / "disc" / "b.png")
    supports = read_supports(root)
    supports.teach(by_format)
    assert direct.shots("disc") == by_format.shots("disc") == 2
    assert direct.fingerprint == by_format.fingerprint
    assert supports.mask_files == [root / "disc" / "b.png"]
    assert len(read_supports(root, shots=1).examples) == 1
    with pytest.raises(InvalidSupport, match="prompts for 'disc', not a mask"):
        supports.examples[0].mask()


def test_a_list_marks_several_objects(tmp_path: Path, embedded: FewShotMethod) -> None:
    file = tmp_path / "a.weak.json"
    file.write_text(json.dumps([{"box": BOX}, {"scribble": [[[1, 2], [3, 4]], [[5, 6]]]}]))
    marks = read_prompts(file)
    assert marks == (Prompt(box=BOX), Prompt(scribble=(((1, 2), (3, 4)), ((5, 6),))))
    pixels, disc = scene()
    pixels[20:60, 180:220] = (200, 30, 30)
    both = Segmenter(embedded, device="cpu").mask_from_prompts(
        pixels, [Prompt(box=BOX), Prompt(box=(175, 15, 225, 65))]
    )
    disc[20:60, 180:220] = True
    assert iou(both, disc) > 0.9


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ({}, "expected an object"),
        ([], "no prompts"),
        (3, "expected an object"),
        ({"boxes": [BOX]}, "expected an object"),
        ({"box": BOX, "points": [[1, 2, 1]]}, "exactly one"),
        ({"box": None}, "exactly one"),
        ({"box": [1, 2, 3]}, "a.weak.json: box"),
        ({"box": [1, 2, 10**400, 4]}, "4 finite numbers"),
        ({"points": [[900, 2, 1]]}, r"support of 'disc': prompts of .*a\.jpg: place 900, 2 lies outside"),
        (
            {"box": [80.2, 70.2, 80.4, 70.4]},
            r"the mask of .*a\.jpg vanishes at the model's input size of 64",
        ),
        ({"box": [-40, -25, -1, -1]}, r"prompts of .*a\.jpg: box -40, -25, -1, -1 in an image of"),
    ],
)
def test_bad_files_of_marks(tmp_path: Path, content: object, words: str) -> None:
    root = weak_folder(tmp_path / "support", content)
    with pytest.raises((InvalidSupport, InvalidMask), match=words) as caught:
        read_supports(root).teach(segmenter())
    assert "\n" not in str(caught.value)


def test_marks_that_fit_no_image_or_a_painted_one(tmp_path: Path) -> None:
    root = weak_folder(tmp_path / "support", {"box": BOX})
    Image.fromarray(scene()[1]).save(root / "disc" / "a.png")
    with pytest.raises(InvalidSupport, match="several masks"):
        read_mask_folders(root)
    (root / "disc" / "a.png").unlink()
    (root / "disc" / "a.jpg").unlink()
    with pytest.raises(InvalidSupport, match=r"a\.weak\.json is a mask without its image"):
        read_mask_folders(root)


def test_coco_boxes(tmp_path: Path, embedded: FewShotMethod) -> None:
    """Annotations without segmentation are outlined, together with those that have one."""
    pixels, disc = scene()
    Image.fromarray(pixels).save(tmp_path / "a.png")
    x0, y0, x1, y1 = BOX
    boxed = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [x0, y0, x1 - x0, y1 - y0]}
    polygon = {"id": 2, "image_id": 1, "category_id": 1, "segmentation": [[180, 20, 220, 20, 220, 60, 180, 60]]}
    content: dict[str, Any] = {
        "images": [{"id": 1, "file_name": "a.png", "width": SIZE[0], "height": SIZE[1]}],
        "categories": [{"id": 1, "name": "disc"}],
        "annotations": [boxed, polygon],
    }
    (tmp_path / "set.json").write_text(json.dumps(content))
    both = Segmenter(embedded, device="cpu")
    (example,) = read_supports(tmp_path).examples
    mask, value = example.mask_for(both)
    disc[20:60, 180:220] = True
    assert value == 1
    assert iou(np.asarray(mask), disc) > 0.9
    read_supports(tmp_path).teach(both)
    assert both.shots("disc") == 1
    boxed["bbox"] = [1, 2, "a", 4]
    (tmp_path / "set.json").write_text(json.dumps(content))
    with pytest.raises(InvalidSupport, match="expected x, y, width, height"):
        read_supports(tmp_path).teach(segmenter())
