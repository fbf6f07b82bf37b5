"""Runs what README.md and the guides tell a person to run."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import fewseg
from fewseg.cli import main
from fewseg.tools.demo.photographs import PhotoWindow, Query, tasks
from helpers.golden_models import released_state

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def commands(text: str) -> Iterator[list[str]]:
    for block in blocks(text, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield words


def write_pair(view: PhotoWindow, label: str, image: Path, mask: Path) -> None:
    image.parent.mkdir(parents=True, exist_ok=True)
    view.image().save(image)
    Image.fromarray(view.mask(label) * np.uint8(255)).save(mask)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with images under the names that the README uses."""
    monkeypatch.chdir(tmp_path)
    by_name = {task.name: task for task in tasks()}
    coins = by_name["coins"]
    first, second = coins.support["coin"][0], PhotoWindow("coins", (10, 160, 140, 300))
    write_pair(first, "coin", tmp_path / "coins/1.jpg", tmp_path / "coins/1.png")
    write_pair(second, "coin", tmp_path / "coins/2.jpg", tmp_path / "coins/2.png")
    coins.queries[0].image().save("table.jpg")
    write_pair(
        by_name["eye"].support["eye"][0], "eye", tmp_path / "support/cat/tom.jpg", tmp_path / "support/cat/tom.png"
    )
    write_pair(first, "coin", tmp_path / "support/dog/rex.png", tmp_path / "support/dog/rex.mask.png")
    (tmp_path / "photos").mkdir()
    queries: tuple[Query, ...] = by_name["eye"].queries + coins.queries
    for i, query in enumerate(queries):
        query.image().save(tmp_path / f"photos/{i}.jpg")
    return tmp_path


def test_develop_opens_with_demo_and_test_and_every_target_is_there() -> None:
    first = list(commands(README[README.index("## Develop") :]))
    assert first[:2] == [["make", "demo"], ["make", "test"]]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    texts = [page.read_text("utf-8") for page in pages]
    used = {name for text in texts for name in re.findall(r"`make ([a-z-]+)`", text)}
    used |= {words[1] for text in texts for words in commands(text) if words[0] == "make"}
    assert used | {"demo", "test", "check", "docs", "bench"} <= targets


def test_first_python_example(folder: Path) -> None:
    example = blocks(README, "python")[0]
    assert len([line for line in example.splitlines() if line.strip()]) <= 10
    names: dict[str, object] = {}
    exec(example, names)
    segmenter, result = names["seg"], names["result"]
    assert isinstance(segmenter, fewseg.Segmenter)
    assert isinstance(result, fewseg.Prediction)
    assert segmenter.shots("coin") == 2
    truth = tasks()[0].queries[0].mask("coin") > 0
    assert (result.masks["coin"] & truth).sum() > 0.5 * (result.masks["coin"] | truth).sum()
    with Image.open("found.png") as found, Image.open("table.jpg") as image:
        assert found.size == image.size


def test_official_example(folder: Path) -> None:
    torch.save(released_state("keys_dcama_resnet50.tsv", seed=0), "resnet50_fold0.pt")
    (example,) = (block for block in blocks(README, "python") if "load_official" in block)
    names: dict[str, object] = {}
    exec(example, names)
    assert isinstance(names["seg"], fewseg.Segmenter)


def test_commands(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    # These are parsed only: one runs until it is stopped, the others are tested elsewhere and take their time.
    for name in ("serve", "export", "bench"):
        monkeypatch.setattr(f"fewseg.cli.{name}.run", lambda options: 0)
    research = (ROOT / "docs/guides/research.md").read_text("utf-8")
    trial = research[research.index("## A trial run") : research.index("## Training")]
    ran = [words for words in commands(README + trial) if words[0] == "fewseg"]
    for words in ran:
        assert main(words[1:]) == 0, (words, capsys.readouterr().err)
    assert {words[1] for words in ran} >= {"segment", "train", "evaluate"}
    measured = json.loads((folder / "runs/trial/test/results.json").read_text("utf-8"))
    assert measured
    results = json.loads((folder / "found/results.json").read_text("utf-8"))
    text = json.dumps(results)
    assert all(f"{i}.jpg" in text for i in range(3))
    for kind in ("masks/cat", "masks/dog", "labels", "overlays"):
        assert len(list((folder / "found" / kind).iterdir())) == 3, kind


def test_results_are_those_of_the_results_page() -> None:
    rows = re.findall(r"^\|.*\|$", README[README.index("results: begin") : README.index("results: end")], re.MULTILINE)
    page = (ROOT / "docs/results.md").read_text("utf-8")
    assert len(rows) >= 4
    assert all(row in page for row in rows)


def test_links_lead_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        for link, _, anchor in re.findall(r"\]\(([^)#]*)(#([^)]+))?\)", page.read_text("utf-8")):
            if "://" not in link:
                target = page.parent / link if link else page
                assert target.exists(), f"{page}: {link}"
                assert not anchor or anchor in anchors(target), f"{page}: {link}#{anchor}"


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as they are made of their words."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def test_research_in_python_runs(folder: Path) -> None:
    names: dict[str, Any] = {}
    exec(blocks((ROOT / "docs/guides/research.md").read_text("utf-8"), "python")[-1], names)
    assert (folder / "runs/trial/best.safetensors").is_file()
    source, result = names["source"], names["result"]
    assert set(result.class_iou) == {source.dataset.classes[number] for number in source.novel}
    assert result.episodes == 2 * len(source.novel)
    assert result.miou == pytest.approx(sum(result.class_iou.values()) / len(result.class_iou))


def test_embedding_guide_runs(folder: Path) -> None:
    for block in blocks((ROOT / "docs/guides/embedding.md").read_text("utf-8"), "python"):
        exec(block, {})
    assert fewseg.SupportSet.load("support.safetensors").shots == 4
