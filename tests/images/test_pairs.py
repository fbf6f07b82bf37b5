"""Examples and data sets agree on which mask belongs to which image."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from fewseg.core.errors import InvalidDataset, InvalidImage, InvalidSupport
from fewseg.data.datasets.folder import FolderDataset
from fewseg.formats.mask_folders import read_mask_folders
from fewseg.images import read_image
from fewseg.images.pairs import pairs_in
from helpers.colour_method import blob

ENDINGS = Image.registered_extensions()


def put(root: Path, *names: str) -> Path:
    image, mask = blob("red")
    (root / "red").mkdir(parents=True)
    for name in names:
        is_mask = name != names[0]
        (Image.fromarray(mask) if is_mask else image).save(root / "red" / name, ENDINGS[Path(name).suffix.lower()])
    return root


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("p.jpg", "p.png"),
        ("p.JPG", "p.PNG"),
        ("p.webp", "p.mask.png"),
        ("p.jpg", "p_mask.PNG"),
        ("p.png", "p.mask.png"),
        ("p.png", "p_mask.png"),
        ("p.jpg", "p.tif"),
        ("p.jpg", "p_mask.tif"),
        ("p.JPEG", "p.BMP"),
        ("p.png", "p_mask.bmp"),
        ("p.tif", "p.png"),
        ("p.tif", "p_mask.tif"),
        ("p.bmp", "p.mask.tiff"),
        ("p.jfif", "p.png"),
        ("p.avif", "p.png"),
        ("p_mask.jpg", "p_mask.png"),
        ("p_mask.tif", "p_mask.png"),
    ],
)
def test_both_find_the_mask(tmp_path: Path, image: str, mask: str) -> None:
    root = put(tmp_path / "data", image, mask)
    expected = root / "red" / image, root / "red" / mask
    assert read_mask_folders(root) == {"red": [expected]}
    dataset = FolderDataset(root)
    name = f"red/{Path(image).stem}"
    assert dataset.names(0) == (name,)
    assert dataset.mask(name, 0).any()


@pytest.mark.parametrize("second", ["p.mask.png", "p.tif", "p_mask.bmp"])
def test_both_refuse_two_masks(tmp_path: Path, second: str) -> None:
    root = put(tmp_path / "data", "p.jpg", "p.png", second)
    with pytest.raises(InvalidSupport, match="several masks"):
        read_mask_folders(root)
    with pytest.raises(InvalidDataset, match="several masks"):
        FolderDataset(root)


def test_masks_without_images(tmp_path: Path) -> None:
    root = put(tmp_path / "data", "p.jpg", "p.png", "q.mask.png", ".hidden.png")
    found = pairs_in(root / "red")
    assert list(found.images) == [root / "red" / "p.jpg"]
    assert found.orphans == (root / "red" / "q.mask.png",)


def test_index_masks_in_capitals(tmp_path: Path) -> None:
    picture, mask = blob("red")
    for folder, image, name in (("images", picture, "p.jpg"), ("masks", Image.fromarray(mask // 255), "p.PNG")):
        (tmp_path / folder).mkdir()
        image.save(tmp_path / folder / name)
    (tmp_path / "classes.txt").write_text("red\n")
    assert FolderDataset(tmp_path).names(0) == ("p",)


def test_images_of_kinds_that_are_not_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They are counted, and an example of such a kind is named with the remedy."""
    root = put(tmp_path / "data", "p.jpg", "p.png", "q.png")
    (root / "red" / "q.psd").write_bytes(b"8BPS")
    (root / "red" / ".r.psd").write_bytes(b"8BPS")
    with pytest.raises(InvalidSupport, match=r"q.png has no mask or no image that is read: beside it, 1 .psd \(save"):
        read_mask_folders(root)
    assert "red: images of these kinds are not read and left out: 1 .psd" in caplog.text
    with pytest.raises(InvalidImage, match=r"q.psd is of a kind that is not read: 1 .psd \(save them as PNG\)"):
        read_image(root / "red" / "q.psd")
