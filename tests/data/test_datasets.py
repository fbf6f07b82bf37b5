"""Folder datasets in both layouts, the synthetic dataset, the cache."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewseg.core.errors import InvalidDataset, InvalidMask
from fewseg.data.datasets.cached import CachedDataset
from fewseg.data.datasets.folder import FolderDataset
from fewseg.data.datasets.synthetic import SyntheticDataset


def _picture(path: Path, size: tuple[int, int] = (20, 10)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (10, 200, 30)).save(path)


def _mask(path: Path, values: dict[int, int], size: tuple[int, int] = (20, 10)) -> None:
    """`values`: how many pixels take which value, the rest is 0."""
    path.parent.mkdir(parents=True, exist_ok=True)
    flat = np.zeros(size[0] * size[1], np.uint8)
    start = 0
    for value, count in values.items():
        flat[start : start + count] = value
        start += count
    Image.fromarray(flat.reshape(size[1], size[0])).save(path)


@pytest.fixture
def class_folders(tmp_path: Path) -> Path:
    for name in ("cat", "ant"):
        for index in range(3):
            _picture(tmp_path / name / f"{index}.jpg")
            _mask(tmp_path / name / f"{index}.png", {255: 10 + 20 * index})
    _picture(tmp_path / "cat" / "without.jpg")
    (tmp_path / "empty").mkdir()
    return tmp_path


@pytest.fixture
def index_masks(tmp_path: Path) -> Path:
    (tmp_path / "classes.txt").write_text("0 background\n1 dog\n2 traffic light\n")
    for name, values in {"a": {1: 50, 2: 1}, "b": {2: 100, 255: 20}, "c": {}}.items():
        _picture(tmp_path / "images" / f"{name}.jpg")
        _mask(tmp_path / "masks" / f"{name}.png", values)
    return tmp_path


def test_class_folders(class_folders: Path) -> None:
    dataset = FolderDataset(class_folders)
    assert dataset.classes == ("ant", "cat")
    assert dataset.names(1) == ("cat/0", "cat/1", "cat/2")
    assert dataset.image("cat/1").size == (20, 10)
    mask = dataset.mask("cat/1", 1)
    assert mask.shape == (10, 20)
    assert mask.sum() == 30
    assert FolderDataset(class_folders, min_area=0.1).names(1) == ("cat/1", "cat/2")


def test_class_folder_of_png_images(tmp_path: Path) -> None:
    _picture(tmp_path / "cat" / "x.png")
    _mask(tmp_path / "cat" / "x_mask.png", {255: 7})
    dataset = FolderDataset(tmp_path)
    assert dataset.names(0) == ("cat/x",)
    assert dataset.mask("cat/x", 0).sum() == 7


def test_index_masks(index_masks: Path) -> None:
    dataset = FolderDataset(index_masks, min_area=0.02)
    assert dataset.classes == ("dog", "traffic light")
    assert dataset.names(0) == ("a",)
    assert dataset.names(1) == ("b",)
    mask = dataset.mask("b", 1)
    assert (mask == 1).sum() == 100
    assert (mask == 255).sum() == 20
    assert FolderDataset(index_masks).names(1) == ("a", "b")
    without = dataset.mask("b", 0)
    assert np.array_equal(without == 255, mask == 255), "pixels that do not count do not for other classes either"
    assert not (without == 1).any()
    assert not dataset.mask("c", 0).any()


def test_plain_class_list(index_masks: Path) -> None:
    (index_masks / "classes.txt").write_text("dog\ntraffic light\n", "utf-8-sig")
    assert FolderDataset(index_masks).classes == ("dog", "traffic light")


def test_mask_of_an_image_that_is_stored_turned(tmp_path: Path) -> None:
    path = tmp_path / "cat" / "x.jpg"
    path.parent.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10)).save(path, exif=exif)
    _mask(tmp_path / "cat" / "x.png", {255: 20})  # the top row as stored: the right column upright
    dataset = FolderDataset(tmp_path)
    mask = dataset.mask(dataset.names(0)[0], 0)
    assert dataset.image("cat/x").size == (10, 20)
    assert mask.shape == (20, 10)
    assert mask[:, -1].all()
    assert mask.sum() == 20


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda root: (root / "classes.txt").write_text("dog\n"), InvalidDataset, "a.png has value 2"),
        (lambda root: (root / "classes.txt").write_text("1 dog\n3 cat\n"), InvalidDataset, "must run 1, 2, 3"),
        (lambda root: (root / "classes.txt").write_text(""), InvalidDataset, "1 to 254 different class names"),
        (lambda root: _mask(root / "masks" / "a.png", {1: 3}, (5, 5)), InvalidMask, r"a.png is 5x5.*20x10"),
        (lambda root: (root / "masks" / "a.png").write_bytes(b"no image"), InvalidMask, "a.png"),
        (lambda root: _picture(root / "masks" / "a.png"), InvalidDataset, "a.png is a RGB image"),
    ],
)
def test_bad_index_masks(index_masks: Path, spoil, error, message) -> None:  # type: ignore[no-untyped-def]
    spoil(index_masks)
    with pytest.raises(error, match=message) as caught:
        FolderDataset(index_masks).names(0)
    assert "\n" not in str(caught.value)


def test_bad_folders_and_names(tmp_path: Path, class_folders: Path) -> None:
    with pytest.raises(InvalidDataset, match="no folder"):
        FolderDataset(tmp_path / "missing")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InvalidDataset, match=r"expected CLASS/name\.jpg"):
        FolderDataset(tmp_path / "nothing")
    dataset = FolderDataset(class_folders)
    with pytest.raises(InvalidDataset, match="did you mean 'cat/1'"):
        dataset.image("cat/11")
    assert not dataset.mask("cat/1", 0).any()  # an ant is not in it
    with pytest.raises(InvalidDataset, match="no class 7"):
        dataset.names(7)
    _mask(class_folders / "cat" / "0.png", {})
    with pytest.raises(InvalidMask, match=r"0\.png has no foreground"):
        FolderDataset(class_folders).names(0)


def test_images_that_share_a_name(class_folders: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    _picture(class_folders / "cat" / "1.jpeg")
    with pytest.raises(InvalidDataset, match=r"1\.jpeg and 1\.jpg share a name"):
        FolderDataset(class_folders)
    root = tmp_path_factory.mktemp("indexed")
    (root / "classes.txt").write_text("dog\n")
    for name in ("a.jpg", "a.png"):
        _picture(root / "images" / name)
    _mask(root / "masks" / "a.png", {1: 5})
    with pytest.raises(InvalidDataset, match=r"a\.jpg and a\.png share a name"):
        FolderDataset(root)


def test_synthetic_is_the_same_every_time() -> None:
    one = SyntheticDataset(3, per_class=4, size=64)
    two = pickle.loads(pickle.dumps(one))
    assert len(one.classes) == 32 == len(set(one.classes))
    for class_id in range(32):
        for name in one.names(class_id):
            mask = one.mask(name, class_id)
            assert set(np.unique(mask)) == {0, 1}
            assert mask.mean() > 0.01, f"{one.classes[class_id]} is nearly invisible in {name}"
    name = one.names(5)[2]
    assert np.array_equal(np.asarray(one.image(name)), np.asarray(two.image(name)))
    assert not np.array_equal(np.asarray(one.image(name)), np.asarray(SyntheticDataset(4, size=64).image(name)))
    with pytest.raises(InvalidDataset, match="names look like"):
        one.image("05-0004")


def test_cache_reads_once_within_its_budget() -> None:
    class Counting(SyntheticDataset):
        reads = 0

        def image(self, name: str) -> Image.Image:
            self.reads += 1
            return super().image(name)

    counting = Counting(size=64)
    cached = CachedDataset(counting, megabytes=2.5 * 4 * 64 * 64 / 2**20)
    first, second, third = counting.names(0)[:3]
    for name in (first, first, second, second):
        assert np.array_equal(np.asarray(cached.image(name)), np.asarray(SyntheticDataset(size=64).image(name)))
    assert counting.reads == 2
    cached.image(third)  # pushes out the least recently used
    cached.image(second)
    assert counting.reads == 3
    cached.image(first)
    assert counting.reads == 4
    assert cached.names(1) == counting.names(1)
    assert cached.classes == counting.classes
    assert not cached.mask(first, 0).flags.writeable


def test_one_class_at_255_is_a_two_valued_mask(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "classes.txt").write_text("crack\n")
    for i in range(3):
        _picture(tmp_path / f"images/{i}.jpg")
        _mask(tmp_path / f"masks/{i}.png", {255: 40} if i else {})
    dataset = FolderDataset(tmp_path, min_area=0.1)
    assert dataset.names(0) == ("1", "2")
    assert "255 is taken for 'crack'" in caplog.text
    assert (dataset.mask("1", 0) == 1).sum() == 40
    assert not dataset.mask("0", 0).any()


def test_ignored_pixels_stay_ignored_where_a_class_is_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "classes.txt").write_text("crack\n")
    for i, values in enumerate(({255: 40}, {1: 10, 255: 5})):
        _picture(tmp_path / f"images/{i}.jpg")
        _mask(tmp_path / f"masks/{i}.png", values)
    dataset = FolderDataset(tmp_path)
    assert dataset.names(0) == ("1",)
    assert (dataset.mask("1", 0) == 255).sum() == 5
    assert not caplog.records


def test_masks_that_show_no_class_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "classes.txt").write_text("crack\nrust\n")
    _picture(tmp_path / "images/a.jpg")
    _mask(tmp_path / "masks/a.png", {255: 40})
    assert FolderDataset(tmp_path).names(0) == ()
    assert "no mask shows a class" in caplog.text
