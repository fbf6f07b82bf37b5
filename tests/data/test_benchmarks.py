"""Prepared benchmarks as datasets: folds, lists, masks, data words, training and testing on them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewseg.cli import main
from fewseg.core.errors import FewsegError, InvalidDataset, InvalidMask, InvalidOption
from fewseg.core.types import Episode
from fewseg.data.datasets.benchmark import Benchmark
from fewseg.data.datasets.coco20i import Coco20i, Coco20iPanet
from fewseg.data.datasets.counts import count_benchmark
from fewseg.data.datasets.fss1000 import Fss1000
from fewseg.data.datasets.pascal5i import Pascal5i
from fewseg.data.episodes.draw import draw_test_episodes, load_episodes, save_episodes
from fewseg.data.episodes.sources import open_source
from fewseg.data.episodes.tensors import episode_tensors
from fewseg.models.methods import METHODS
from helpers.tiny_benchmarks import boxes, make_coco20i, make_fss1000, make_pascal5i
from helpers.toy_method import Toy

# pycocotools is older than numpy 2's signature of __array__.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A prepared copy of each benchmark; tests must not change it."""
    folder = tmp_path_factory.mktemp("benchmarks")
    made = {
        "pascal5i": make_pascal5i(folder / "pascal5i", sbd=2, val=3),
        "coco20i": make_coco20i(folder / "coco20i", train=2, val=2),
        "fss1000": make_fss1000(folder / "fss1000", classes=(2, 1, 1)),
    }
    for name, root in made.items():
        assert main(["prepare", name, "--root", str(root), "--workers", "1"]) == 0
    return {**made, "coco20i-panet": made["coco20i"]}


WORDS = ("pascal5i", "coco20i", "coco20i-panet", "fss1000")


def test_folds_are_the_papers(roots: dict[str, Path]) -> None:
    pascal, coco, panet = Pascal5i(roots["pascal5i"]), Coco20i(roots["coco20i"]), Coco20iPanet(roots["coco20i"])
    assert [pascal.classes[c] for c in pascal.novel(0)] == ["aeroplane", "bicycle", "bird", "boat", "bottle"]
    assert pascal.novel(3) == (15, 16, 17, 18, 19)
    assert coco.novel(2) == tuple(2 + 4 * v for v in range(20))
    assert panet.novel(2) == tuple(range(40, 60))
    for benchmark in (pascal, coco, panet):
        parts = [benchmark.novel(fold) for fold in range(4)]
        assert sorted(c for part in parts for c in part) == list(range(len(benchmark.classes)))
        assert all(set(benchmark.base(f)) == set(range(len(benchmark.classes))) - set(parts[f]) for f in range(4))
    fss = Fss1000(roots["fss1000"])
    assert (len(fss.base()), len(fss.validation()), len(fss.novel())) == (2, 1, 1)
    assert len({*fss.base(), *fss.validation(), *fss.novel()}) == 4


@pytest.mark.parametrize("word", WORDS)
def test_every_pair_shows_its_class(roots: dict[str, Path], word: str) -> None:
    opened = open_source(f"{word}:{roots[word]}@0")
    dataset = opened.dataset
    assert isinstance(dataset, Benchmark)
    assert not set(opened.base) & set(opened.novel)
    assert {c for _, c in dataset.test_pairs(0)} == set(opened.novel)
    assert {c for _, c in dataset.train_pairs(0)} == set(opened.base)
    train, test = ({name for name, _ in pairs} for pairs in (dataset.train_pairs(0), dataset.test_pairs(0)))
    assert not train & test
    for name, class_id in (*dataset.test_pairs(0)[:12], *dataset.train_pairs(0)[:12]):
        assert name in dataset.names(class_id)
        mask, image = dataset.mask(name, class_id), dataset.image(name)
        assert mask.dtype == np.uint8
        assert mask.shape == image.size[::-1]
        assert image.mode == "RGB"
        assert set(np.unique(mask)) <= {0, 1, 255}
        assert (mask == 1).any()
    for c in range(len(dataset.classes)):
        assert list(dataset.names(c)) == sorted(dataset.names(c))
        assert set(dataset.names(c)) <= (test if c in opened.novel else train) or word == "fss1000"


def test_pascal_lists_leave_small_objects_out(roots: dict[str, Path]) -> None:
    dataset = Pascal5i(roots["pascal5i"], 0)
    small = dataset.index.parts["test"]["2008_000003"]  # 3 % 3 == 0: also a small object of the next class
    assert sorted(small) == [0, 1]
    assert small[1] < 2048
    assert [pair for pair in dataset.test_pairs(0) if pair[0] == "2008_000003"] == [("2008_000003", 0)]
    assert [name for name, _ in dataset.test_pairs(0)] == sorted(name for name, _ in dataset.test_pairs(0))
    rows = {row.title: row.counted for row in count_benchmark(dataset).rows}
    assert rows["test pairs"] == (15, 15, 15, 15)
    assert sum(rows["test pairs on any area"]) == 80  # 20 of the 60 images show two classes


def test_borders_count_nowhere(roots: dict[str, Path]) -> None:
    dataset = Pascal5i(roots["pascal5i"], 0)
    mask = dataset.mask("2008_000001", 0)
    x, y, width, height = boxes(1)[0]
    assert (mask[y + 1 : y + height, x + 1 : x + width] == 1).all()
    assert (mask[y, x : x + width] == 255).all()
    assert not (dataset.mask("2008_000001", 3) == 1).any()
    tensors = episode_tensors(dataset, Episode("2008_000001", ("2008_000002",), 0), 72)
    assert (tensors.query_mask == 255).any()
    assert set(tensors.masks.unique().tolist()) == {0.0, 1.0}


def test_selection_of_sccan(roots: dict[str, Path]) -> None:
    hsnet = open_source(f"coco20i:{roots['coco20i']}@1").dataset
    sccan = open_source(f"coco20i:{roots['coco20i']}@1", selection="sccan").dataset
    assert isinstance(hsnet, Coco20i)
    assert isinstance(sccan, Coco20i)
    areas, novel = sccan.index.parts["train"], set(sccan.novel(1))
    large = {(name, c) for name, c in hsnet.train_pairs(1) if areas[name][c] >= 2048}
    kept = {(name, c) for name, c in large if not novel & set(areas[name])}
    assert set(sccan.train_pairs(1)) == kept
    assert 0 < len(kept) < len(hsnet.train_pairs(1))
    assert set(sccan.test_pairs(1)) < set(hsnet.test_pairs(1))


def test_images_are_as_stored(roots: dict[str, Path], tmp_path: Path) -> None:
    root = Path(shutil.copytree(roots["fss1000"], tmp_path / "fss"))
    exif = Image.Exif()
    exif[0x0112] = 6
    path = root / "fewshot_data/z_thing_0/1.jpg"
    before = np.asarray(Image.open(path))
    Image.fromarray(before).save(path, quality=95, exif=exif)
    stored = np.asarray(Image.open(path))
    assert np.array_equal(np.asarray(Fss1000(root, 0).image("z_thing_0/1.jpg")), stored)


def test_data_words(roots: dict[str, Path]) -> None:
    root = roots["pascal5i"]
    one = open_source(f"pascal5i:{root}", fold=1)
    assert one.novel == (5, 6, 7, 8, 9)
    assert one.dataset.name == "pascal5i-fold1"
    assert open_source(f"pascal5i:{root}@1", fold=3).novel == one.novel
    named = open_source(f"pascal5i:{root}@dog,cat")
    assert named.novel == (7, 11)
    assert named.dataset.names(7) == one.dataset.names(7)
    assert named.dataset.names(6) == open_source(f"pascal5i:{root}@0").dataset.names(6)
    assert open_source(f"pascal5i:{root}@all").novel == tuple(range(20))
    assert open_source(f"pascal5i:{root}@none").base == tuple(range(20))
    fss = open_source(f"fss1000:{roots['fss1000']}")
    held = open_source(f"fss1000:{roots['fss1000']}@val")
    assert held.base == fss.base
    assert not {*held.novel} & {*fss.base, *fss.novel}
    assert len(held.dataset.names(held.novel[0])) == 10
    assert open_source(f"coco20i-panet:{roots['coco20i']}@3").novel == tuple(range(60, 80))


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("pascal5i:{pascal5i}", InvalidOption, "choose one with --fold 0 ... 3, or pascal5i:.*@0"),
        ("pascal5i:{pascal5i}@4", InvalidOption, "pascal5i has no fold 4: choose one from 0 to 3"),
        ("fss1000:{fss1000}@1", InvalidOption, "fss1000 has no fold 1: choose one from 0 to 0"),
        ("pascal5i:{pascal5i}@teapot", InvalidOption, "unknown class of pascal5i 'teapot'"),
        ("coco20i:{pascal5i}@0", InvalidDataset, "run fewseg prepare coco20i --root .*pascal5i"),
        ("pascal5i:/none@0", InvalidDataset, "no folder '/none' for pascal5i"),
    ],
)
def test_words_that_do_not_fit(roots: dict[str, Path], text: str, kind: type[FewsegError], message: str) -> None:
    with pytest.raises(kind, match=message):
        open_source(text.format(**roots))


def test_damaged_index(roots: dict[str, Path], tmp_path: Path) -> None:
    root = tmp_path / "pascal5i"
    shutil.copytree(roots["pascal5i"] / "fewseg", root / "fewseg")
    index = root / "fewseg/pascal5i/index.json"
    content = index.read_text()
    for damaged in (content[:-30], '{"format": 3}', content.replace('"parts"', '"p"'), "[]", ""):
        index.write_text(damaged)
        with pytest.raises(InvalidDataset, match=r"is damaged .*: run fewseg prepare pascal5i --root") as caught:
            Pascal5i(root)
        assert "\n" not in str(caught.value)


def test_missing_mask(roots: dict[str, Path]) -> None:
    with pytest.raises(InvalidMask, match=r"2008_999999.png: no such file"):
        Pascal5i(roots["pascal5i"], 0).mask("2008_999999", 0)


def test_saved_episodes_are_read_again(roots: dict[str, Path], tmp_path: Path) -> None:
    opened = open_source(f"coco20i:{roots['coco20i']}@2")
    episodes = draw_test_episodes(opened.dataset, opened.novel, 1, 2, 0, min_images=2)
    assert len(episodes) == 40
    assert all(name.startswith("val2014/") for e in episodes for name in (e.query, *e.support))
    save_episodes(tmp_path / "list.json", episodes, opened.dataset)
    assert load_episodes(tmp_path / "list.json", opened.dataset) == episodes


def test_train_and_evaluate(
    roots: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(METHODS, Toy.name, Toy)
    data = ["--data", f"pascal5i:{roots['pascal5i']}", "--fold", "0", "--device", "cpu"]
    small = "--method toy --backbone tiny --random-backbone --image-size 32 --batch-size 2"
    rest = "--episodes-per-epoch 4 --epochs 1 --workers 0 --no-tensorboard --validation-classes 0"
    run = tmp_path / "run"
    assert main(["train", *data, "--out", str(run), *small.split(), *rest.split()]) == 0
    checkpoint = ["--model", str(run / "last.safetensors"), "--out", str(tmp_path / "scores")]
    assert main(["evaluate", *data, *checkpoint, "--shots", "1", "--episodes", "4", "--save-examples", "0"]) == 0
    assert "pascal5i-fold0" in capsys.readouterr().out
    assert main(["train", *data[:2], "--out", str(run / "no"), *small.split(), *rest.split()]) == 2
    assert "pascal5i is tested fold by fold" in capsys.readouterr().err.replace("\n", " ")
