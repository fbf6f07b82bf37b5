"""`fewseg prepare` on tiny copies of the benchmarks with their real folder structures, from the command line."""

from __future__ import annotations

import functools
import json
import math
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewseg.cli import main
from fewseg.core.progress import silent
from fewseg.data.datasets import prepare
from fewseg.data.datasets.benchmark import read_index, read_values
from fewseg.data.datasets.build_coco20i import paint
from fewseg.data.datasets.coco20i import Coco20i, Coco20iPanet
from fewseg.data.datasets.fss1000 import Fss1000
from fewseg.data.datasets.pascal5i import Pascal5i, voc_colour
from fewseg.evaluation.plan import draw_trials, open_targets
from fewseg.evaluation.protocols import choose_protocol
from helpers.tiny_benchmarks import (
    HEIGHT,
    WIDTH,
    bordered,
    boxes,
    make_coco20i,
    make_fss1000,
    make_pascal5i,
    save_mat,
    write_pascal_lists,
)

# pycocotools is older than numpy 2's signature of __array__.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

MAKE: dict[str, Callable[[Path], Path]] = {
    "pascal5i": lambda root: make_pascal5i(root, sbd=1, val=1),
    "coco20i": lambda root: make_coco20i(root, train=1, val=1),
    "fss1000": lambda root: make_fss1000(root, classes=(2, 1, 1)),
}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The untouched copy of a benchmark, made once."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = MAKE[name](tmp_path_factory.mktemp("raw") / name)
        return made[name]

    return make


@pytest.fixture
def fresh(raw: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a benchmark that a test may spoil."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(raw(name), tmp_path / name))

    return copy


def _prepare(name: str, root: Path, *options: str) -> int:
    return main(["prepare", name, "--root", str(root), "--workers", "1", *options])


def _error(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of an error."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fewseg: error: ")]
    assert len(lines) == 1
    return lines[0]


def test_pascal_masks_are_merged(fresh: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    root = fresh("pascal5i")
    assert _prepare("pascal5i", root) == 0
    table = capsys.readouterr().out
    assert "| training pairs of the fold's classes | 10 (2286) | 10 (3425) | 10 (5883) | 10 (2086) |" in table
    assert "| test pairs | 5 (346) | 5 (451) | 5 (725) | 5 (346) |" in table
    voc = root / "VOCdevkit/VOC2012"
    index = read_index(root, "pascal5i")
    # Three images a class: VOC train, VOC val, SBD val; SBD segments every fourth of VOC's again, by empty masks.
    assert sorted(index.parts["test"]) == [f"2008_{3 * c + 1:06d}" for c in range(20)]
    assert sorted(index.parts["train"]) == [f"2008_{n:06d}" for n in range(60) if n % 3 != 1]
    for number in range(60):
        file = f"2008_{number:06d}.png"
        path, own = voc / "SegmentationClassAug" / file, voc / "SegmentationClass" / file
        if own.exists():
            assert np.array_equal(read_values(path), read_values(own))
        expected = np.zeros((HEIGHT, WIDTH), np.uint8)
        for offset, box in enumerate(boxes(number)):
            if box is not None:
                x, y, width, height = box
                expected[y : y + height, x : x + width] = (number // 3 + offset) % 20 + 1
        assert np.array_equal(read_values(path), bordered(expected) if own.exists() else expected)


def test_coco_masks_are_painted(fresh: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    root = fresh("coco20i")
    assert main(["prepare", "coco20i", "--root", str(root), "--workers", "2", "--whole"]) == 0
    assert "| test images | " in capsys.readouterr().out
    index = read_index(root, "coco20i")
    assert index.classes[:2] == ("thing 1", "thing 2")
    assert index.classes[79] == "thing 90"
    assert [len(index.parts[part]) for part in ("train", "test")] == [80, 80]
    for number in range(80):
        expected = np.zeros((HEIGHT, WIDTH), np.uint8)
        for offset, box in enumerate(boxes(number)):
            if box is not None:
                x, y, width, height = box
                expected[y : y + height, x : x + width] = (number + offset) % 80 + 1
        name = f"val2014/COCO_val2014_{1 + 3 * number:012d}"
        values = read_values(root / f"masks/{name}.png")
        assert np.array_equal(values, expected)
        held = index.parts["test"][f"{name}.jpg"]
        assert held == {int(v) - 1: int((expected == v).sum()) for v in np.unique(expected) if v}
    assert not list(root.rglob("*.tmp"))


def test_masks_are_made_again_when_what_they_were_made_from_is_replaced(fresh: Callable[[str], Path]) -> None:
    root = fresh("coco20i")
    path = root / "annotations/instances_val2014.json"
    whole, first = path.read_text("utf-8"), json.loads(path.read_text("utf-8"))
    seen = set()
    kept = [a for a in first["annotations"] if a["image_id"] in seen or seen.add(a["image_id"])]
    path.write_text(json.dumps({**first, "annotations": kept}), "utf-8")  # lacks the first instance of every image
    pairs = []
    for content in (path.read_text("utf-8"), whole, whole):
        path.write_text(content, "utf-8")
        assert _prepare("coco20i", root) == 0
        masks = sorted((root / "masks/val2014").iterdir())
        pairs.append((len(Coco20i(root, 0).test_pairs(0)), [m.stat().st_mtime_ns for m in masks]))
    assert pairs[0][0] < pairs[1][0]
    assert pairs[1] == pairs[2], "finished masks are kept"

    root = fresh("pascal5i")
    brought = root / VOC / "SegmentationClassAug/2008_000003.png"
    brought.parent.mkdir()
    Image.fromarray(np.full((HEIGHT, WIDTH), 7, np.uint8)).save(brought)
    assert _prepare("pascal5i", root) == 0
    own, merged = (root / VOC / f"{folder}/2008_000001.png" for folder in ("SegmentationClass", "SegmentationClassAug"))
    Image.fromarray(np.full((HEIGHT, WIDTH), 5, np.uint8)).save(own)
    assert _prepare("pascal5i", root) == 0
    assert np.unique(read_values(merged)).tolist() == [5]
    assert np.unique(read_values(brought)).tolist() == [7], "a mask from elsewhere stays"


def test_sccan_leaves_out_novel_classes_however_the_split_is_named(fresh: Callable[[str], Path]) -> None:
    root = fresh("coco20i")
    assert _prepare("coco20i", root) == 0
    novel = Coco20i(root).novel(0)
    by_fold, by_names = Coco20i(root, 0, selection="sccan"), Coco20i(root, selection="sccan").opened(held_out=novel)
    assert [by_fold.names(c) for c in range(80)] == [by_names.names(c) for c in range(80)]
    plain = Coco20i(root).opened(held_out=novel)
    assert sum(len(plain.names(c)) for c in by_fold.base(0)) > sum(len(by_names.names(c)) for c in by_fold.base(0)) > 0


def test_masks_from_elsewhere_must_number_classes_as_ours(
    fresh: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    root = fresh("coco20i")
    assert _prepare("coco20i", root) == 0
    masks = sorted((root / "masks").rglob("*.png"))
    ours = {path: read_values(path) for path in masks}
    kept, foreign = masks[0], masks[1:]
    # As other tools write them: no digest, and in one case COCO's own ids, which have gaps.
    Image.fromarray(ours[kept]).save(kept)
    before = kept.read_bytes()
    for path in foreign:
        Image.fromarray(np.where(ours[path] > 0, ours[path] + 1, 0).astype(np.uint8)).save(path)
    assert _prepare("coco20i", root) == 0
    assert kept.read_bytes() == before
    assert "79 masks in" in caplog.text
    for path in foreign:
        np.testing.assert_array_equal(read_values(path), ours[path])


def test_later_instances_cover_earlier_ones() -> None:
    square = [[0, 0, 8, 0, 8, 8, 0, 8]]
    right = [[4, 0, 8, 0, 8, 8, 4, 8]]
    values = paint(((3, square), (7, right)), (10, 9), "x")
    assert values.shape == (9, 10)
    assert (values[:8, :4] == 4).all()
    assert (values[:8, 4:8] == 8).all()
    assert not values[8].any()
    assert not values[:, 8:].any()
    two_parts = paint(((0, [[0, 0, 2, 0, 2, 9, 0, 9], [8, 0, 10, 0, 10, 9, 8, 9]]),), (10, 9), "x")
    assert two_parts[:, :2].all()
    assert two_parts[:, 8:].all()
    assert not two_parts[:, 2:8].any()


def test_fss(fresh: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    root = fresh("fss1000")
    assert _prepare("fss1000", root) == 0
    table = capsys.readouterr().out
    assert "| classes | 2 (520) | 1 (240) | 1 (240) |" in table
    assert "| images | 20 (5200) | 10 (2400) | 10 (2400) |" in table
    dataset = Fss1000(root, 0)
    assert [dataset.classes[c] for c in dataset.novel()] == ["w_thing_3"]
    order = [1, 10, *range(2, 10)]
    assert dataset.test_pairs(0) == tuple((f"w_thing_3/{n}.jpg", dataset.novel()[0]) for n in order)


def test_workers_and_repetition_change_nothing(raw: Callable[[str], Path], tmp_path: Path) -> None:
    written = []
    for workers in ("1", "2"):
        root = Path(shutil.copytree(raw("pascal5i"), tmp_path / workers))
        for _ in range(2):
            assert main(["prepare", "pascal5i", "--root", str(root), "--workers", workers]) == 0
        files = sorted(path for path in root.rglob("*") if path.is_file())
        written.append([(path.relative_to(root), path.read_bytes()) for path in files])
    assert written[0] == written[1]


def test_a_killed_run_is_resumed(raw: Callable[[str], Path], tmp_path: Path) -> None:
    whole = Path(shutil.copytree(raw("coco20i"), tmp_path / "whole"))
    assert _prepare("coco20i", whole) == 0
    for attempt in range(5):  # a busy machine may let it end before we look
        root = Path(shutil.copytree(raw("coco20i"), tmp_path / f"killed{attempt}"))
        command = [sys.executable, "-m", "fewseg.cli", "prepare", "coco20i", "--root", str(root), "--workers", "2"]
        masks = root / "masks/train2014"
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as process:
            while process.poll() is None and (not masks.is_dir() or len(list(masks.glob("*.png"))) < 3):
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
        if process.returncode == -signal.SIGKILL and not (root / "fewseg/coco20i/index.json").exists():
            break
    assert process.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:  # the workers see that their parent is gone
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.05)
    else:
        pytest.fail("workers outlive their parent")
    done = sorted(masks.glob("*.png"))
    assert 3 <= len(done) <= 80
    assert all(read_values(path).shape == (HEIGHT, WIDTH) for path in done)  # none is half-written
    assert not (root / "fewseg/coco20i/index.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in done}
    (masks / f"COCO.png.{process.pid}.tmp").write_bytes(b"half")

    assert _prepare("coco20i", root) == 0
    assert all(path.stat().st_mtime_ns == then for path, then in kept.items())
    assert not list(root.rglob("*.tmp"))
    for path in whole.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (root / path.relative_to(whole)).read_bytes()


def _pack(root: Path, folder: str, archive: str) -> None:
    if archive.endswith(".zip"):
        with zipfile.ZipFile(root / archive, "w") as packed:
            for path in sorted((root / folder).rglob("*")):
                packed.write(path, path.relative_to(root))
    else:
        with tarfile.open(root / archive, "w:gz" if archive.endswith("gz") else "w") as packed:
            packed.add(root / folder, folder)
    shutil.rmtree(root / folder)


def test_archives_are_unpacked(fresh: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    root = fresh("pascal5i")
    _pack(root, "VOCdevkit", "VOCtrainval_11-May-2012.tar")
    _pack(root, "benchmark_RELEASE", "benchmark.tgz")
    assert _prepare("pascal5i", root) == 0
    assert "test pairs | 5 " in capsys.readouterr().out
    # A run that was stopped while it unpacked left its mark: what is missing is unpacked again, the rest is kept.
    (root / "fewseg/VOCtrainval_11-May-2012.tar.unpacking").touch()
    lost = root / "VOCdevkit/VOC2012/JPEGImages/2008_000007.jpg"
    lost.unlink()
    other = root / "VOCdevkit/VOC2012/JPEGImages/2008_000008.jpg"
    before = other.stat().st_mtime_ns
    assert _prepare("pascal5i", root) == 0
    assert lost.is_file()
    assert other.stat().st_mtime_ns == before
    assert not (root / "fewseg/VOCtrainval_11-May-2012.tar.unpacking").exists()


@pytest.mark.parametrize(
    ("name", "folder", "archive"),
    [
        ("pascal5i", "VOCdevkit", "VOCtrainval_11-May-2012.tar"),
        ("pascal5i", "benchmark_RELEASE", "benchmark.tgz"),
        ("fss1000", "fewshot_data", "fewshot_data.zip"),
    ],
)
def test_archive_that_is_cut_off(
    fresh: Callable[[str], Path], capsys: pytest.CaptureFixture[str], name: str, folder: str, archive: str
) -> None:
    root = fresh(name)
    _pack(root, folder, archive)
    content = (root / archive).read_bytes()
    (root / archive).write_bytes(content[: len(content) // 2])
    for _ in range(2):  # the second time what was unpacked from the first half must not pass for all of it
        assert _prepare(name, root) == 2
        assert f"{archive} is damaged or cut off" in _error(capsys)
    assert not list(root.rglob("*.tmp"))
    (root / archive).write_bytes(content)
    assert _prepare(name, root) == 0


def test_archive_that_writes_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with zipfile.ZipFile(root / "fewshot_data.zip", "w") as packed:
        packed.writestr("../outside.txt", "x")
    assert _prepare("fss1000", root) == 2
    assert "would write outside the root" in _error(capsys)
    assert not (tmp_path / "outside.txt").exists()


@pytest.mark.parametrize(
    ("name", "remove", "said"),
    [
        ("pascal5i", ["VOCdevkit"], "archive VOCtrainval_11-May-2012.tar, from the home page of the PASCAL"),
        ("pascal5i", ["benchmark_RELEASE"], "archive benchmark.tgz, from Berkeley's home page"),
        ("pascal5i", ["VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt"], "lacks ImageSets/Segmentation/val.txt"),
        ("coco20i", ["train2014", "annotations"], "annotations (archive annotations_trainval2014.zip, from COCO's"),
        ("coco20i", ["annotations/instances_val2014.json"], "lacks annotations/instances_val2014.json"),
        ("fss1000", ["fewshot_data"], "fewshot_data (archive fewshot_data.zip, from the home page of FSS-1000"),
        ("fss1000", ["splits/fss/test.txt"], "no test.txt in"),
    ],
)
def test_what_is_missing_is_said(
    fresh: Callable[[str], Path], capsys: pytest.CaptureFixture[str], name: str, remove: list[str], said: str
) -> None:
    root = fresh(name)
    for path in remove:
        shutil.rmtree(root / path) if (root / path).is_dir() else (root / path).unlink()
    assert _prepare(name, root) == 2
    assert said in _error(capsys)


VOC = "VOCdevkit/VOC2012"


def _cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("name", "spoil", "said"),
    [
        ("pascal5i", lambda r: _cut(r / VOC / "JPEGImages/2008_000004.jpg"), "2008_000004.jpg is damaged or cut off"),
        ("pascal5i", lambda r: (r / VOC / "JPEGImages/2008_000004.jpg").unlink(), "2008_000004.jpg: no such file"),
        ("pascal5i", lambda r: _cut(r / VOC / "SegmentationClass/2008_000004.png"), "2008_000004.png"),
        ("pascal5i", lambda r: _cut(r / "benchmark_RELEASE/dataset/cls/2008_000005.mat"), "2008_000005.mat is damaged"),
        (
            "pascal5i",
            lambda r: save_mat(
                r / "benchmark_RELEASE/dataset/cls/2008_000005.mat", np.full((HEIGHT, WIDTH), 21, np.uint8)
            ),
            "2008_000005.mat holds class 21, expected 0 to 20",
        ),
        (
            "pascal5i",
            lambda r: Image.new("L", (WIDTH, HEIGHT), 33).save(r / VOC / "SegmentationClass/2008_000004.png"),
            "holds value 33, expected 0 to 20 or 255",
        ),
        (
            "pascal5i",
            lambda r: Image.new("L", (9, 9), 1).save(r / VOC / "SegmentationClass/2008_000004.png"),
            "2008_000004.png is 9x9, its image 96x72",
        ),
        ("coco20i", lambda r: _cut(r / "annotations/instances_train2014.json"), "instances_train2014.json is damaged"),
        ("coco20i", lambda r: _cut(r / "val2014/COCO_val2014_000000000004.jpg"), "000000000004.jpg is damaged"),
        (
            "coco20i",
            lambda r: Image.new("RGB", (9, 9)).save(r / "val2014/COCO_val2014_000000000004.jpg"),
            "000000000004.jpg is 9x9, its annotations are 96x72",
        ),
        ("fss1000", lambda r: _cut(r / "fewshot_data/z_thing_0/7.png"), "7.png"),
        ("fss1000", lambda r: (r / "splits/fss/trn.txt").write_text("abacus\n"), "lists abacus, which is no folder"),
        (
            "fss1000",
            lambda r: (r / "splits/fss/val.txt").write_text("z_thing_0\n"),
            "lists z_thing_0, which another list has too",
        ),
    ],
)
def test_damaged_files_are_named(
    fresh: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
    name: str,
    spoil: Callable[[Path], object],
    said: str,
) -> None:
    root = fresh(name)
    spoil(root)
    assert _prepare(name, root) == 2
    assert said in _error(capsys)


def test_a_damaged_mask_of_ours_is_made_again(fresh: Callable[[str], Path]) -> None:
    root = fresh("coco20i")
    assert _prepare("coco20i", root) == 0
    path = root / "masks/val2014/COCO_val2014_000000000004.png"
    content = path.read_bytes()
    _cut(path)
    assert _prepare("coco20i", root) == 0
    assert path.read_bytes() == content


def test_merged_masks_do_without_sbd(fresh: Callable[[str], Path]) -> None:
    root = fresh("pascal5i")
    assert _prepare("pascal5i", root) == 0
    before = read_index(root, "pascal5i")
    shutil.rmtree(root / "benchmark_RELEASE")
    assert _prepare("pascal5i", root) == 0
    assert read_index(root, "pascal5i") == before


def test_published_pascal_lists(fresh: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    root = fresh("pascal5i")
    assert _prepare("pascal5i", root) == 0
    index = read_index(root, "pascal5i")
    lists: dict[tuple[str, int], list[tuple[str, int]]] = {}
    for part, folder in (("train", "trn"), ("test", "val")):
        for fold in range(4):
            areas = index.parts[part]
            listed = [(n, c) for n in sorted(areas, reverse=True) for c in areas[n] if c // 5 == fold]
            lists[folder, fold] = listed[:4]
    write_pascal_lists(root / "given", lists)
    assert _prepare("pascal5i", root, "--lists", str(root / "given")) == 0
    assert "Published lists in use: test-0, test-1, " in capsys.readouterr().out
    dataset = Pascal5i(root, 1)
    assert dataset.test_pairs(1) == tuple(lists["val", 1])
    assert dataset.train_pairs(1) == (*lists["trn", 0], *lists["trn", 2], *lists["trn", 3])
    assert dataset.names(5) == tuple(sorted(name for name, c in lists["val", 1] if c == 5))

    paths = [f"JPEGImages/{n}.jpg SegmentationClassAug/{n}.png" for n in ("2008_000004", "2008_000001")]
    (root / "paths").mkdir()
    (root / "paths/val.txt").write_text("\n".join(paths) + "\n")
    assert _prepare("pascal5i", root, "--lists", str(root / "paths")) == 0
    assert Pascal5i(root).test_pairs(0) == (("2008_000004", 1), ("2008_000001", 0))

    for content, said in (
        ("2008_000001__21\n", "line '2008_000001__21' is neither"),
        ("2008_000001__06\n", "2008_000001__06 is not of its fold"),
        ("1999_000001__01\n", "lists 1999_000001, which is not here"),
        ("", "fold0.txt is empty"),
    ):
        (root / "given/val/fold0.txt").write_text(content)
        assert _prepare("pascal5i", root, "--lists", str(root / "given")) == 2
        assert said in _error(capsys)
    write_pascal_lists(root / "given", lists)
    (root / "given/trn/fold2.txt").unlink()
    assert _prepare("pascal5i", root, "--lists", str(root / "given")) == 2
    assert "no training list of fold 2" in _error(capsys)
    assert _prepare("pascal5i", root, "--lists", str(root / "VOCdevkit")) == 2
    assert "has no list of PASCAL-5i" in _error(capsys)


class _Harm:
    def __reduce__(self):  # type: ignore[no-untyped-def]
        return os.mkdir, ("harm",)


def test_published_coco_pickles(
    fresh: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    root = fresh("coco20i")
    assert _prepare("coco20i", root) == 0
    ours = Coco20i(root, 1)
    listed = {c: list(reversed(ours.names(c))) for c in ours.novel(1)}
    folder = root / "splits/coco/val"
    folder.mkdir(parents=True)
    (folder / "fold1.pkl").write_bytes(pickle.dumps(listed))
    assert _prepare("coco20i", root) == 0
    assert Coco20i(root).index.published == ("test-1",)
    assert Coco20i(root).test_pairs(1) == tuple((name, c) for c in ours.novel(1) for name in listed[c])
    assert Coco20i(root).test_pairs(0) == ours.test_pairs(0)
    assert Coco20iPanet(root).test_pairs(1)[0][1] == 20

    monkeypatch.chdir(tmp_path)
    for content, said in (
        (pickle.dumps({1: _Harm()}), "is not opened (it asks for posix.mkdir)"),
        (pickle.dumps({1: ("a",)}), "to a list of image paths (str), not 1: tuple"),
        (pickle.dumps({1: [1.5]}), "must hold a dict of class id (int)"),
        (pickle.dumps([1]), "not a list"),
        (pickle.dumps(listed)[:-40], "is not opened"),
        (pickle.dumps({1: ["val2014/none.jpg"]}), "lists val2014/none.jpg, which is not among these images"),
    ):
        (folder / "fold1.pkl").write_bytes(content)
        assert _prepare("coco20i", root) == 2
        assert said in _error(capsys)
    assert not (tmp_path / "harm").exists()


def test_sccans_coco_lists_are_walked_in_their_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_coco20i(tmp_path / "coco20i", train=1, val=2)
    assert _prepare("coco20i", root) == 0
    ours = Coco20i(root, 1, selection="sccan")
    images = sorted({name for name, _ in ours.test_pairs(1)})
    shuffled = [images[i] for i in np.random.default_rng(0).permutation(len(images))]
    folder = root / "given/fss_list/val"
    folder.mkdir(parents=True)
    lines = [f"../{name} ../annotations/{name[:-4]}.png" for name in shuffled]
    (folder / "data_list_1.txt").write_text("\n".join(lines) + "\n")
    assert _prepare("coco20i", root, "--lists", str(root / "given")) == 0
    assert "Published lists in use: test-1." in capsys.readouterr().out
    assert set(Coco20i(root, selection="sccan").test_pairs(1)) == set(ours.test_pairs(1))
    protocol = choose_protocol("sccan", count=len(shuffled))
    targets = open_targets([f"coco20i:{root}"], protocol, fold=(1, 2))
    listed, computed = draw_trials(targets, protocol, (1,))
    assert [e.query for e in listed.episodes] == shuffled
    queries = [e.query for e in computed.episodes]
    assert queries[:20] == sorted(set(queries))[:20], "without a list the images are sorted"

    for content, said in (
        ("2007_000033.jpg 2007_000033.png\n", "names no image of COCO 2014"),
        ("val2014/COCO_val2014_999999999999.jpg\n", "which is not among these images"),
    ):
        (folder / "data_list_1.txt").write_text(content)
        assert _prepare("coco20i", root, "--lists", str(root / "given")) == 2
        assert said in _error(capsys)


def test_options_that_do_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _prepare("pascal5i", tmp_path / "none") == 2
    assert "no folder" in _error(capsys)
    assert main(["prepare", "pascal", "--root", str(tmp_path)]) == 2
    assert "pascal5i" in _error(capsys)
    assert main(["prepare", "pascal5i"]) == 2
    assert "missing --root" in _error(capsys)


def test_palette_is_vocs() -> None:
    colours = [list(voc_colour(value)) for value in range(256)]
    assert colours[:5] == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128]]
    assert colours[15] == [192, 128, 128]
    assert colours[255] == [224, 224, 192]


def test_index_is_small_json(fresh: Callable[[str], Path]) -> None:
    root = fresh("fss1000")
    assert _prepare("fss1000", root) == 0
    content = json.loads((root / "fewseg/fss1000/index.json").read_text())
    assert content["parts"]["train"]["z_thing_0/1.jpg"] == {str(content["classes"].index("z_thing_0")): 6300}


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_workers_start_however_python_starts_processes(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From Python 3.14 on they are no children of the process that asks for them."""
    context = multiprocessing.get_context(method)
    pool = functools.partial(ProcessPoolExecutor, mp_context=context)
    monkeypatch.setattr(prepare, "ProcessPoolExecutor", pool)
    assert prepare.in_processes(math.sqrt, [n * n for n in range(32)], 2, silent, "roots") == [*range(32)]
