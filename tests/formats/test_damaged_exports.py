"""Exports with odd values in odd places, and cut or flipped files: examples, or one line; never a traceback."""

from __future__ import annotations

import contextlib
import json
import logging
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from fewseg.core.errors import FewsegError
from fewseg.formats import read_supports

EXPORTS = Path(__file__).parent / "exports"

ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 1e308, float("nan"), float("inf"), 10**400, 31000, 2**62, -5.5),
    *("", "x", "9" * 5000, "\0", "../../etc/passwd", "/" * 5000, "1,2;3", "data:image/png;base64,AAAA"),
    *([], [[]], [None], [1, 2, 3], [2**62] * 5, [["a"]], [{}], [[[[1]]]], {}, {"a": 1}),
)
TOKENS = (
    "",
    "-1",
    "1e400",
    "nan",
    "9" * 500,
    "a",
    ",",
    ";",
    '"',
    "<",
    "&x;",
    "\0",
    "31000",
    ": [",
    ": {",
    "*a",
    "\n",
    "é",
)


def places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value[:6]) if isinstance(value, list) else ()
    return [place, *(deeper for key, inner in items for deeper in places(inner, (*place, key)))]


def changed(content: Any, rng: random.Random) -> Any:
    content = json.loads(json.dumps(content))
    *path, last = rng.choice([place for place in places(content) if place])
    inner = content
    for key in path:
        inner = inner[key]
    if rng.random() < 0.2:
        del inner[last]
    else:
        inner[last] = rng.choice(ODD)
    return content


def read(path: Path) -> None:
    """Anything but examples and a line ends the test."""
    with contextlib.suppress(FewsegError):
        read_supports(path)


@pytest.fixture(autouse=True)
def quiet() -> Any:
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize(
    ("folder", "file"),
    [
        ("label-studio", "project.json"),
        ("label-studio", "json-min.json"),
        ("label-studio", "boxes-and-ellipses.json"),
        ("label-studio", "separate-labels.json"),
        ("labelme-5", "scene_1.json"),
        ("labelme-5", "scene_2.json"),
        ("qupath", "scene_1.geojson"),
        ("roboflow/coco-segmentation/train", "_annotations.coco.json"),
        ("via-2", "via_export_json.json"),
        ("via-2", "via_project.json"),
    ],
)
def test_odd_values_in_json(tmp_path: Path, folder: str, file: str) -> None:
    root = shutil.copytree(EXPORTS / folder, tmp_path / "export", ignore=shutil.ignore_patterns("truth"))
    content, rng = json.loads((root / file).read_text()), random.Random(0)
    for _ in range(40):
        (root / file).write_text(json.dumps(changed(content, rng)))
        read(root / file)


@pytest.mark.parametrize(
    ("folder", "file", "whole"),
    [
        ("cvat-for-images-1.1", "annotations.xml", False),
        ("cvat-for-video-1.1", "annotations.xml", False),
        ("cvat-segmentation-mask-1.1", "labelmap.txt", True),
        ("roboflow/png-mask-semantic/train", "_classes.csv", True),
        ("via-2", "via_export_csv.csv", False),
        ("yolo-seg", "data.yaml", True),
        ("yolo-seg", "labels/train/scene_1.txt", True),
    ],
)
def test_odd_words_in_texts(tmp_path: Path, folder: str, file: str, whole: bool) -> None:
    root = shutil.copytree(EXPORTS / folder, tmp_path / "export", ignore=shutil.ignore_patterns("truth"))
    words, rng = re.split(r"(\W)", (root / file).read_text()), random.Random(0)
    for number in range(40):
        other = list(words)
        other[rng.randrange(len(other))] = rng.choice(TOKENS)
        text = "".join(other)
        (root / file).write_text(text[: rng.randrange(len(text))] if number % 8 == 0 else text)
        read(root if whole else root / file)


def test_an_xml_bomb(tmp_path: Path) -> None:
    entities = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 10))
    (tmp_path / "annotations.xml").write_text(
        f'<!DOCTYPE a [<!ENTITY e0 "xxxxxxxxxx">{entities}]><annotations><version>1.1</version>&e9;</annotations>'
    )
    with pytest.raises(FewsegError, match="document type"):
        read_supports(tmp_path)
