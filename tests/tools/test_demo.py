"""The demo with a model that has learnt nothing: everything but the quality of the masks."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fewseg.cli import main
from fewseg.core.errors import InvalidDataset
from fewseg.models.checkpoints import save_method
from fewseg.models.methods import create_method
from fewseg.tools.demo import photographs, run
from fewseg.tools.demo.page import heat_map

TASKS = photographs.tasks()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "untrained.safetensors"
    torch.manual_seed(0)
    save_method(create_method("prototype", backbone="tiny", image_size=64), path)
    return path


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_every_window_has_its_mask(task: photographs.DemoTask) -> None:
    taught = [(view, label) for label, views in task.support.items() for view in views]
    asked = [(query, label) for query in task.queries for label in query.labels]
    assert taught
    assert asked
    assert task.colours.keys() == task.support.keys()
    for view, label in taught + asked:
        mask = view.mask(label)
        assert mask.shape == view.image().size[::-1]
        assert 0.02 < mask.mean() < 0.8
        assert set(np.unique(mask)) == {0, 1}


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_no_query_shares_a_pixel_with_what_was_taught(task: photographs.DemoTask) -> None:
    for query in task.queries:
        for views in task.support.values():
            for view in views:
                apart = query.box[0] >= view.box[2] or view.box[0] >= query.box[2]
                apart |= query.box[1] >= view.box[3] or view.box[1] >= query.box[3]
                assert apart or query.image != view.image


def test_every_photograph_is_used_and_says_its_terms() -> None:
    used = {view.photograph for task in TASKS for views in task.support.values() for view in views}
    used |= {query.photograph for task in TASKS for query in task.queries}
    assert used == set(photographs.sources())
    assert all(source.licence and source.credit and source.path.is_file() for source in photographs.sources().values())


def test_run_writes_page_sheet_and_numbers(checkpoint: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    page = run(tmp_path / "out", checkpoint=str(checkpoint), progress=lambda *said: seen.append(said))
    text = page.read_text("utf-8")
    count = sum(len(task.queries) for task in TASKS)
    assert [said[:2] for said in seen] == [(i + 1, count) for i in range(count)]
    assert all(task.title in text for task in TASKS)
    assert "http" not in text  # self-contained: nothing is fetched when it is opened
    assert "$" not in text
    results = json.loads((tmp_path / "out/results.json").read_text("utf-8"))
    values = [value for query in results["queries"] for value in query["iou"].values()]
    assert results["mean_iou"] == pytest.approx(np.mean(values), abs=1e-3)
    assert len(results["queries"]) == count
    with Image.open(tmp_path / "out/sheet.png") as sheet:
        assert sheet.width > 1000
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["index.html", "results.json", "sheet.png"]


def test_command_says_where_the_page_is(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--out", str(tmp_path / "out"), "--model", str(checkpoint)]) == 0
    said = capsys.readouterr().out
    assert str(tmp_path / "out" / "index.html") in said
    assert "mean IoU" in said


def test_missing_photographs_say_how_to_get_them(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec

    def without(name: str, *rest: Any) -> Any:
        return None if name == "skimage" else found(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    with pytest.raises(InvalidDataset, match=r"pip install .*fewseg\[demo\]"):
        run(tmp_path / "out", checkpoint=str(checkpoint))
    assert main(["demo", "--out", str(tmp_path / "out"), "--model", str(checkpoint)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_heat_map_gets_lighter_with_probability() -> None:
    colours = heat_map(np.linspace(0, 1, 11, dtype=np.float32)[None]).astype(float)
    luminance = colours @ [0.2126, 0.7152, 0.0722]
    assert np.all(np.diff(luminance[0]) > 0)
