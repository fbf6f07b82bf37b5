"""What `scripts/object_discovery.py` promises: Caltech's classes to be tested on are in none of those that it makes."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from fewseg.core.errors import InvalidOption
from fewseg.data.datasets.folder import FolderDataset

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def discovery(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, whose siblings it imports, with small groups."""
    monkeypatch.syspath_prepend(SCRIPTS)
    module = importlib.import_module("object_discovery")
    for name, value in (("GROUPS", 4), ("LEAST", 3), ("MOST", 5), ("TIGHT", 1.0), ("SURE", 1.0)):
        monkeypatch.setattr(module, name, value)
    return module


def photographs(folder: Path, size: tuple[int, int] = (60, 40)) -> list[Path]:
    """Four kinds of eight; each photograph its own colours, as random as the kind's seed makes them."""
    folder.mkdir()
    paths = []
    for number in range(32):
        rough = np.random.default_rng(number).integers(0, 256, (4, 6, 3), dtype=np.uint8)
        path = folder / f"{number:02d}.jpg"
        Image.fromarray(rough).resize(size, Image.Resampling.BICUBIC).save(path, quality=95)
        paths.append(path)
    return paths


def found(discovery: ModuleType, paths: list[Path]) -> list[object]:
    """Number // 8 is the kind; a square in the middle is the object."""
    generator = torch.Generator().manual_seed(0)
    probable = torch.full((64, 64), 0.01)
    probable[16:48, 16:48] = 0.99
    embedding = torch.eye(4, 8).repeat_interleave(8, 0) + 0.1 * torch.rand(32, 8, generator=generator)
    return [
        discovery.DiscoveredObject(path.name, probable, embedding)
        for path, embedding in zip(paths, embedding, strict=True)
    ]


def test_the_same_photograph_is_known_at_another_size(discovery: ModuleType, tmp_path: Path) -> None:
    paths = photographs(tmp_path / "photos")
    smaller = photographs(tmp_path / "smaller", (45, 30))
    assert discovery.Photographs.of(paths).among(smaller[3:7]) == {path.name for path in paths[3:7]}


def test_groups_with_tested_photographs_are_left_out(
    discovery: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = found(discovery, photographs(tmp_path / "photos"))
    kinds = {frozenset(int(entry.name[:2]) // 8 for entry in group) for group in discovery.groups(every, [], 0)}
    assert kinds == {frozenset({kind}) for kind in range(4)}
    assert all(len(group) == 5 for group in discovery.groups(every, [], 0))
    monkeypatch.setattr(discovery, "NEAR", 2.0)
    kept = discovery.groups(every, [{"08.jpg", "09.jpg"}], 0)  # 2 of 8: the others show the same
    assert {int(entry.name[:2]) // 8 for group in kept for entry in group} == {0, 2, 3}
    monkeypatch.setattr(discovery, "LEAK", 0.2)
    monkeypatch.setattr(discovery, "NEAR", 0.7)
    kept = discovery.groups(every, [{"08.jpg"}], 0)  # one of 8, but just like it
    assert {int(entry.name[:2]) // 8 for group in kept for entry in group} == {0, 2, 3}
    monkeypatch.setattr(discovery, "NEAR", 2.0)
    kept = discovery.groups(every, [{"08.jpg"}], 0)  # one may have strayed there: it alone is left out
    names = {entry.name for group in kept for entry in group}
    assert "08.jpg" not in names
    assert names & {f"{number:02d}.jpg" for number in range(9, 16)}


def test_what_covers_nothing_or_all_is_no_thing(discovery: ModuleType) -> None:
    probable = torch.full((64, 64), 0.01)
    assert discovery.DiscoveredObject("a", probable, torch.ones(2)).sure == 0
    assert discovery.DiscoveredObject("a", 1 - probable, torch.ones(2)).sure == 0
    probable[20:40, 20:40] = 0.99
    assert discovery.DiscoveredObject("a", probable, torch.ones(2)).sure == pytest.approx(396 / (400 + 36.96), abs=1e-3)


def test_the_classes_are_a_dataset(discovery: ModuleType, tmp_path: Path) -> None:
    paths = photographs(tmp_path / "photos")
    discovery.write_classes(discovery.groups(found(discovery, paths), [], 0), tmp_path / "photos", tmp_path / "classes")
    dataset = FolderDataset(tmp_path / "classes")
    assert len(dataset.classes) == 4
    assert [len(dataset.names(c)) for c in range(4)] == [5] * 4
    mask = dataset.mask(dataset.names(0)[0], 0)
    assert mask.shape == (40, 60)
    assert mask[20, 30] == 1
    assert mask[2, 2] == 0
    assert (tmp_path / "classes.jpg").is_file()
    assert not (tmp_path / "classes.part").exists()


def test_novel_and_held_classes_are_avoided(discovery: ModuleType, tmp_path: Path) -> None:
    data = tmp_path / "data"
    paths = photographs(tmp_path / "photos")
    for name, kind in (("airplanes", 0), ("ant", 2), ("bonsai", 3)):
        (data / "caltech101_24" / name).mkdir(parents=True)
        for path in paths[8 * kind : 8 * kind + 4]:
            Image.open(path).save(data / "caltech101_24" / name / f"image_{path.name}", quality=95)
    for name in discovery.NOVEL_CALTECH[1:]:  # somewhere else
        (data / "caltech101_24" / name).mkdir()
        Image.new("RGB", (60, 40), "red").save(data / "caltech101_24" / name / "image.jpg")
    (tmp_path / "photos").rename(data / "unlabelled")
    every = found(discovery, paths)
    discovery.make_classes(every, data, ["ant"], tmp_path / "classes", 0)
    kinds = {int(path.stem) // 8 for path in (tmp_path / "classes").glob("*/*.jpg")}
    assert kinds == {1, 3}  # bonsai is a base class
    discovery.make_classes(every, data, ["ant"], tmp_path / "classes", 0)  # there already
    with pytest.raises(InvalidOption, match=r"made with seed 0, held ant, .* not seed 0, held none"):
        discovery.make_classes(every, data, [], tmp_path / "classes", 0)
