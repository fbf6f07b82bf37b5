"""Images and masks of every kind, and what is said about the ones that cannot be used."""

from __future__ import annotations

import io
import os
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from fewseg.core.errors import InvalidImage, InvalidMask
from fewseg.images import decode as decoding
from fewseg.images import open_image, read_image, read_image_size, read_mask
from fewseg.images import orientation as turns
from fewseg.images import read as images

ORIENTATIONS = range(1, 9)


def colours(height: int = 5, width: int = 6) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


def disc(height: int = 40, width: int = 60) -> np.ndarray:
    """A foreground that no flip or turn leaves in place."""
    y, x = np.mgrid[:height, :width]
    return ((y - height * 0.3) ** 2 + (x - width * 0.2) ** 2 < 60).astype(np.uint8)


def as_array(image: object) -> np.ndarray:
    return np.asarray(read_image(image))  # type: ignore[arg-type]


def saved_with_orientation(path: Path, image: Image.Image, orientation: int) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)
    return path


# ------------------------------------------------------------------------------------------------- images


def test_files_pillow_images_arrays_and_tensors_agree(tmp_path: Path) -> None:
    rgb = colours()
    Image.fromarray(rgb).save(tmp_path / "a.png")
    for source in (
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        Image.fromarray(rgb),
        rgb,
        rgb.astype(np.int64),
        rgb.astype(np.uint16) * 257,
        rgb.astype(np.float32) / 255,
        rgb.astype(np.float64) / 255,
        torch.from_numpy(rgb).permute(2, 0, 1),
        torch.from_numpy(rgb),
        torch.from_numpy(rgb).permute(2, 0, 1).float() / 255,
        np.moveaxis(rgb, 2, 0),
        np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)]),
    ):
        np.testing.assert_array_equal(as_array(source), rgb)


def test_grey_of_every_depth(tmp_path: Path) -> None:
    grey = colours()[..., 0]
    expected = np.repeat(grey[..., None], 3, 2)
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "16.png")
    Image.fromarray(grey.astype(np.float32) / 255).save(tmp_path / "float.tif")
    Image.fromarray(grey.astype(np.int32) * 257).save(tmp_path / "32.tif")
    for source in (
        grey,
        grey[..., None],
        grey[None],
        torch.from_numpy(grey),
        torch.from_numpy(grey)[None],
        grey.astype(np.uint16) * 257,
        Image.fromarray(grey),
        Image.fromarray(grey).convert("I"),
        tmp_path / "16.png",
        tmp_path / "float.tif",
        tmp_path / "32.tif",
    ):
        np.testing.assert_array_equal(as_array(source), expected)


def test_booleans_and_one_bit() -> None:
    bits = disc() == 1
    expected = np.repeat(np.uint8(255) * bits[..., None], 3, 2)
    np.testing.assert_array_equal(as_array(bits), expected)
    np.testing.assert_array_equal(as_array(Image.fromarray(bits)), expected)


def test_bfloat16_tensor() -> None:
    assert as_array(torch.ones(3, 2, 5, dtype=torch.bfloat16)).shape == (2, 5, 3)


def big_endian_tiff(path: Path, values: np.ndarray, orientation: int = 1) -> Path:
    """A 16-bit grey TIFF as written on big-endian machines, which Pillow reads but cannot write."""
    height, width = values.shape
    pixels = values.astype(">u2").tobytes()
    short, long = 3, 4
    tags = [
        (256, long, width),
        (257, long, height),
        (258, short, 16),
        (259, short, 1),
        (262, short, 1),
        (273, long, 8),
        (274, short, orientation),
        (277, short, 1),
        (278, long, height),
        (279, long, len(pixels)),
    ]
    entries = b"".join(struct.pack(">HHII", tag, kind, 1, v << 16 if kind == short else v) for tag, kind, v in tags)
    start = struct.pack(">2sHI", b"MM", 42, 8 + len(pixels))
    path.write_bytes(start + pixels + struct.pack(">H", len(tags)) + entries + bytes(4))
    return path


@pytest.mark.parametrize("orientation", [1, 6])
def test_big_endian_sixteen_bits(tmp_path: Path, orientation: int) -> None:
    grey = colours()[..., 0]
    expected = grey if orientation == 1 else np.rot90(grey, -1)
    path = big_endian_tiff(tmp_path / "16.tif", grey.astype(np.uint16) * 257, orientation)
    with Image.open(path) as image:
        assert image.mode == "I;16B"
        np.testing.assert_array_equal(as_array(image)[..., 0], expected)
    np.testing.assert_array_equal(as_array(path)[..., 0], expected)
    np.testing.assert_array_equal(read_mask(path, value=257 * int(grey[0, 0])) == 1, expected == grey[0, 0])
    assert open_image(path, at_least=1, reduce_above=1).image.size == (1, 1)


def test_palette(tmp_path: Path) -> None:
    image = Image.fromarray(colours()).quantize(4)
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(as_array(tmp_path / "a.png"), np.asarray(image.convert("RGB")))


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    rgba = np.zeros((2, 3, 4), np.uint8)
    rgba[0] = (10, 20, 30, 255)
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    palette = Image.fromarray(rgba[..., :3]).quantize(2)
    clear = palette.getpixel((0, 1))
    palette.save(tmp_path / "palette.png", transparency=clear)
    Image.fromarray(rgba[..., 0]).save(tmp_path / "key.png", transparency=0)
    for source in (tmp_path / "rgba.png", rgba, torch.from_numpy(rgba).permute(2, 0, 1), tmp_path / "palette.png"):
        found = as_array(source)
        assert found[0].tolist() == [[10, 20, 30]] * 3
        assert found[1].tolist() == [[255, 255, 255]] * 3
    assert as_array(tmp_path / "key.png")[1].min() == 255
    assert as_array(Image.new("LA", (2, 2), (0, 0))).min() == 255


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB", "HSV"])
def test_other_colour_spaces(mode: str) -> None:
    image = Image.new("RGB", (3, 2), (200, 30, 60)).convert("CMYK" if mode == "CMYK" else "RGB")
    if mode != "CMYK":
        image = Image.new(mode, (3, 2), (120, 130, 140))
    assert as_array(image).shape == (2, 3, 3)


def test_cmyk_jpeg(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), (200, 30, 60)).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert np.abs(as_array(tmp_path / "a.jpg").astype(int) - (200, 30, 60)).max() < 6


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    upright = colours()
    back = {6: 8, 8: 6}.get(orientation, orientation)  # every other turn undoes itself
    stored = turns.upright(Image.fromarray(upright), back)
    path = saved_with_orientation(tmp_path / "a.png", stored, orientation)
    image = open_image(path)
    assert (image.size, image.orientation) == ((6, 5), orientation)
    np.testing.assert_array_equal(np.asarray(image.image), upright)
    with Image.open(path) as opened:
        np.testing.assert_array_equal(as_array(opened), upright)


def test_pipes_and_empty_files_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "empty.jpg").touch()
    for name, words in (("pipe.jpg", "pipe or device"), ("empty.jpg", "is empty")):
        with pytest.raises(InvalidImage, match=words):
            read_image(tmp_path / name)


def test_tiffs_above_pillows_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(colours()).save(tmp_path / "a.tif")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(as_array(tmp_path / "a.tif"), colours())
    assert Image.MAX_IMAGE_PIXELS == 10


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_orientation_of_tiffs_is_applied_once(tmp_path: Path, orientation: int, mode: str) -> None:
    image = Image.fromarray(colours()).convert(mode)
    tiff = saved_with_orientation(tmp_path / "a.tif", image, orientation)
    png = saved_with_orientation(tmp_path / "a.png", image, orientation)
    np.testing.assert_array_equal(as_array(tiff), as_array(png))
    assert read_image_size(tiff) == read_image_size(png) == read_image(tiff).size == open_image(tiff).size


def test_senseless_orientation_is_ignored(tmp_path: Path) -> None:
    path = saved_with_orientation(tmp_path / "a.png", Image.fromarray(colours()), 99)
    np.testing.assert_array_equal(as_array(path), colours())


def test_one_pixel() -> None:
    assert as_array(np.full((1, 1, 3), 7, np.uint8)).tolist() == [[[7, 7, 7]]]


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), c) for c in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert as_array(tmp_path / "a.gif")[0, 0].tolist() == [255, 0, 0]


# ------------------------------------------------------------------------------------- images in bad shape


def test_missing_folder_and_foreign_files(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.png").touch()
    for path, words in (
        (tmp_path / "none.jpg", "no such file"),
        (tmp_path, "is a folder"),
        (tmp_path / "text.jpg", "not a readable image"),
        (tmp_path / "empty.png", "is empty"),
    ):
        with pytest.raises(InvalidImage, match=words) as caught:
            read_image(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp", "bmp"])
@pytest.mark.parametrize("kept", [0.3, 0.7])
def test_truncated_files(tmp_path: Path, suffix: str, kept: float) -> None:
    whole = io.BytesIO()
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(noise).save(whole, {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix))
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(whole.getvalue()[: int(len(whole.getvalue()) * kept)])
    with pytest.raises(InvalidImage, match="a." + suffix):
        read_image(path)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about damaged tags
def test_damaged_bytes_never_raise_anything_else(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    for suffix in ("png", "jpg", "gif", "tif"):
        whole = io.BytesIO()
        Image.fromarray(colours(32, 32)).save(whole, {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix))
        for _ in range(25):
            data = bytearray(whole.getvalue())
            for place in rng.integers(0, len(data), 12):
                data[place] = rng.integers(0, 256)
            path = tmp_path / f"a.{suffix}"
            path.write_bytes(data)
            try:
                read_image(path)
            except InvalidImage as error:
                assert "\n" not in str(error)  # noqa: PT017 - either outcome is right


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((0, 5, 3), np.uint8), "no pixels"),
        (np.zeros((5,), np.uint8), "shape"),
        (np.zeros((5, 5, 2), np.uint8), "shape"),
        (np.zeros((1, 3, 5, 5), np.uint8), "shape"),
        (np.full((2, 2), 200.0), "0..1"),
        (np.full((2, 2), -0.5), "0..1"),
        (np.full((2, 2), np.nan), "NaN"),
        (np.full((2, 2), 70000), "0..255"),
        (np.full((2, 2), "x"), "give numbers"),
        (np.zeros((2, 2), complex), "give numbers"),
    ],
)
def test_impossible_arrays(array: np.ndarray, words: str) -> None:
    with pytest.raises(InvalidImage, match=words):
        read_image(array)


def test_other_types() -> None:
    with pytest.raises(InvalidImage, match="not a list"):
        read_image([1, 2])  # type: ignore[arg-type]
    with pytest.raises(InvalidMask, match="not a list"):
        read_mask([1, 2])  # type: ignore[arg-type]


def test_pixel_limit_is_ours_and_pillows_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (30, 30)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert read_image(tmp_path / "a.png").size == (30, 30)
    assert Image.MAX_IMAGE_PIXELS == 100
    monkeypatch.setattr(decoding, "MAX_PIXELS", 899)
    with pytest.raises(InvalidImage, match="30x30, over the limit"):
        read_image(tmp_path / "a.png")


# ------------------------------------------------------------------------------------------- huge images


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "I;16"])
def test_huge_images_are_reduced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, mode: str) -> None:
    monkeypatch.setattr(images, "_BAND", 5_000)
    if suffix == "jpg" and mode not in ("RGB", "L"):
        pytest.skip("JPEG has no such mode")
    ramp = np.linspace(0, 255, 300).astype(np.uint8)[None].repeat(200, 0)
    image = Image.fromarray(ramp.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(ramp).convert(mode)
    path = saved_with_orientation(tmp_path / f"a.{suffix}", image, 6)
    picture = open_image(path, at_least=30, reduce_above=10_000)
    assert picture.size == (200, 300)
    assert 30 <= min(picture.image.size) < 60
    whole = np.asarray(read_image(path).resize((32, 32), Image.Resampling.BILINEAR)).astype(int)
    small = np.asarray(picture.image.resize((32, 32), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(whole - small).max() <= 4


def test_usual_images_are_never_reduced(tmp_path: Path) -> None:
    Image.fromarray(colours(300, 400)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "a.png", at_least=10).image), colours(300, 400))


def test_long_thin_images_keep_their_short_side() -> None:
    image = open_image(Image.new("RGB", (20_000, 3)), at_least=32, reduce_above=10_000)
    assert (image.size, image.image.size) == ((20_000, 3), (32, 3))


# ---------------------------------------------------------------------------------------------------- masks


def test_two_valued_masks_of_every_kind(tmp_path: Path) -> None:
    truth = disc()
    Image.fromarray(truth * 255).save(tmp_path / "grey.png")
    Image.fromarray(truth * 255).convert("1").save(tmp_path / "bit.png")
    Image.fromarray(truth).save(tmp_path / "one.png")
    Image.fromarray(truth.astype(np.uint16) * 65535).save(tmp_path / "16.png")
    red = truth[..., None] * np.array([255, 0, 0], np.uint8)
    Image.fromarray(red).save(tmp_path / "red.png")
    Image.fromarray(np.dstack([red, truth * 255])).save(tmp_path / "cut.png")
    index = Image.fromarray(truth * 7).convert("P")
    index.save(tmp_path / "index.png")
    files = [tmp_path / f"{n}.png" for n in ("grey", "bit", "one", "16", "red", "cut", "index")]
    for ending in ("bmp", "tif"):
        Image.fromarray(truth * 255).save(tmp_path / f"grey.{ending}")
        files.append(tmp_path / f"grey.{ending}")
    for kind in (np.uint16, np.int32, np.float32):
        Image.fromarray(truth.astype(kind)).save(tmp_path / f"{kind.__name__}.tif")
        files.append(tmp_path / f"{kind.__name__}.tif")
    tensor = torch.from_numpy(truth)
    arrays = [truth, truth * 255, truth == 1, truth * 0.5, tensor, tensor[None], tensor.bool(), truth[..., None], red]
    arrays += [np.dstack([truth / 255] * 3), np.dstack([truth == 1] * 3)]  # as matplotlib reads a PNG
    for source in [*files, *arrays, Image.open(tmp_path / "grey.png")]:
        found = read_mask(source, size=(60, 40))
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, truth)


def test_palette_in_any_order(tmp_path: Path) -> None:
    truth = disc()
    image = Image.fromarray(1 - truth)
    image.putpalette([255, 255, 255, 0, 0, 0])  # index 0 is white, 1 black: as PNG optimisers leave it
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), truth)


@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), (20, 200, 90)])
@pytest.mark.parametrize("large", [True, False])
def test_transparent_index_is_background(tmp_path: Path, colour: tuple[int, int, int], large: bool) -> None:
    """Whichever of the two comes first in the palette, and whatever colour hides behind transparency."""
    truth = 1 - disc() if large else disc()
    rgba = np.concatenate([np.broadcast_to(np.uint8(colour), (*truth.shape, 3)), truth[..., None] * 255], -1)
    Image.fromarray(np.ascontiguousarray(rgba)).quantize(2).save(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").mode == "P"
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), truth)


def test_all_foreground() -> None:
    assert read_mask(np.full((2, 3), 255, np.uint8)).tolist() == [[1, 1, 1], [1, 1, 1]]


def test_chosen_index_and_ignored_pixels(tmp_path: Path) -> None:
    index = np.array([[0, 3, 5], [255, 5, 0]], np.uint8)
    image = Image.fromarray(index)
    image.putpalette([i for v in range(256) for i in (v, 255 - v, 9)])
    image.save(tmp_path / "a.png")
    for source in (index, torch.from_numpy(index), tmp_path / "a.png"):
        assert read_mask(source, value=5).tolist() == [[0, 0, 1], [255, 1, 0]]
        assert read_mask(source, value=255).tolist() == [[0, 0, 0], [1, 0, 0]]
    assert read_mask(tmp_path / "a.png", value=(5, 250, 9)).tolist() == [[0, 0, 1], [0, 1, 0]]


def test_chosen_colour() -> None:
    rgb = np.zeros((2, 2, 3), np.uint8)
    rgb[0, 1], rgb[1, 1] = (255, 0, 10), (255, 255, 255)
    assert read_mask(rgb, value=(255, 0, 10)).tolist() == [[0, 1], [0, 0]]
    assert read_mask(torch.from_numpy(rgb).permute(2, 0, 1), value=(255, 255, 255)).tolist() == [[0, 0], [0, 1]]
    assert read_mask(disc() * 255, value=(255, 255, 255)).sum() == disc().sum()


@pytest.mark.parametrize(
    ("mask", "value", "words"),
    [
        (np.zeros((2, 2), np.uint8), None, "no foreground"),
        (np.array([[0, 1, 2, 200]]), None, r"more than two values \(0, 1, 2, 200\): save it"),
        (np.arange(100)[None], None, "0, 1, 2, 3, 4, 5, 6, 7 ... 100 in all.*without smoothing"),
        (np.array([[1, 2]]), None, "more than two values"),
        (np.array([[0, 1, 2]]), 9, "no pixel is 9, it holds 0, 1, 2"),
        (np.arange(12, dtype=np.uint8).reshape(2, 2, 3), None, r"\(0, 1, 2\), \(3, 4, 5\).*value=\(r, g, b\)"),
        (np.arange(12, dtype=np.uint8).reshape(2, 2, 3), 3, "colour image"),
        (np.arange(12, dtype=np.uint8).reshape(2, 2, 3), (1, 1, 1), "no pixel is"),
        (np.array([[0, 255]], np.uint8), (255, 0, 0), "it is grey"),
        (np.array([[0, 255]], np.uint8), (255, 0, 300), "neither an index nor a colour"),
        (np.arange(12.0).reshape(2, 2, 3), None, "colours as uint8"),
        (np.ones((3, 4, 5), bool), None, r"bool array of shape \(3, 4, 5\), so 3 masks: give one, as mask\[0\]"),
        (np.eye(3)[None].repeat(4, 0), None, r"so 3 masks: give one, as mask\[..., 0\]"),
        (torch.ones(3, 4, 5), None, "so 3 masks: give one"),
        (np.zeros(5), None, "shape"),
        (np.zeros((0, 5)), None, "no pixels"),
    ],
)
def test_unusable_masks(mask: np.ndarray, value: int | tuple[int, int, int] | None, words: str) -> None:
    with pytest.raises(InvalidMask, match=words) as caught:
        read_mask(mask, value=value)
    assert "\n" not in str(caught.value)


def test_mask_of_another_size_names_both(tmp_path: Path) -> None:
    Image.fromarray(disc() * 255).save(tmp_path / "a.png")
    with pytest.raises(InvalidMask, match=r"a.png is 60x40, its image 61x40"):
        read_mask(tmp_path / "a.png", size=(61, 40))


def test_unreadable_mask_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(InvalidMask, match=r"a.png"):
        read_mask(tmp_path / "a.png")
    with pytest.raises(InvalidMask, match="no such file"):
        read_mask(tmp_path / "b.png")


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_mask_drawn_before_or_after_turning(tmp_path: Path, orientation: int) -> None:
    stored = disc()
    path = saved_with_orientation(tmp_path / "a.png", Image.fromarray(stored * 255), orientation)
    image = open_image(path)
    truth = np.asarray(image.image)[..., 0] // 255
    for mask in (truth, stored, path):  # upright, as stored, with an orientation of its own
        found = read_mask(mask, size=image.size, orientation=image.orientation)
        np.testing.assert_array_equal(found, truth)


def test_huge_png_text_chunks_are_still_refused(tmp_path: Path) -> None:
    about = PngImagePlugin.PngInfo()
    about.add_text("a", "x" * 80_000_000, zip=True)
    Image.new("L", (2, 2)).save(tmp_path / "a.png", pnginfo=about)
    with pytest.raises(InvalidImage, match=r"a.png"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("place", [(0, 0), (5, 7)])
def test_nan_anywhere_in_a_float_tiff_is_told(tmp_path: Path, place: tuple[int, int]) -> None:
    values = np.full((8, 9), 0.5, np.float32)
    values[place] = np.nan
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(InvalidImage, match=r"a\.tif holds NaN"):
        read_image(tmp_path / "a.tif")
